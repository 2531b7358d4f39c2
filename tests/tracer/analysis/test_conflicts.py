"""Which pairs count as conflicts, and how far apart they were."""

from typing import Any

import numpy as np
import pytest

from blockstack.journal import GUEST_SHIFT, RequestFlag
from tracer.analysis.conflicts import asked_together, grown_together, guest_pairs, min_gap_ns, together, waited
from tracer.analysis.rules import RulePairs
from tracer.operations import FALLOC_FL_KEEP_SIZE, OPERATION, Op, Operations

ZERO = int(RequestFlag.ZERO_WRITE | RequestFlag.POST_EOF)
CLUSTER = 65536
NOBODY = RulePairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))


def request_id(guest: int, serial: int) -> int:
    return guest << GUEST_SHIFT | serial


F, W = request_id(1, 1), request_id(2, 2)


def trace(*rows: dict[str, int]) -> np.ndarray:
    """Operations with consecutive sequence numbers and times of 10 ns a step, unless a row says otherwise."""
    ops = np.zeros(len(rows), OPERATION)
    for index, row in enumerate(rows):
        number = 2 * index + 1
        defaults = {"seq_begin": number, "seq_end": number + 1, "t_begin": 10 * number, "t_end": 10 * number + 10}
        for name, value in {**defaults, **row}.items():
            ops[index][name] = value
    return ops


def scenario(
    *,
    zero_flags: int = ZERO,
    write_flags: int = 0,
    write_offset: int = CLUSTER,
    fallocate_result: int = 0,
    write_result: int = CLUSTER,
    waiter: int = F,
    blocker: int = W,
) -> np.ndarray:
    """A zero-write F of cluster 0, a write W of cluster 1 (or elsewhere), one of which waited for the other."""
    return trace(
        {"op": Op.MARK_REQUEST, "request": F, "offset": 0, "length": CLUSTER, "flags": zero_flags},
        {"op": Op.MARK_REQUEST, "request": W, "offset": write_offset, "length": CLUSTER, "flags": write_flags},
        {"op": Op.MARK_WAIT, "request": waiter, "result": blocker},
        {"op": Op.AIO_WRITE, "request": W, "offset": write_offset, "length": CLUSTER, "result": write_result},
        {"op": Op.FALLOCATE, "request": F, "offset": 0, "length": CLUSTER, "result": fallocate_result},
    )


@pytest.mark.parametrize(("waiter", "blocker"), [(F, W), (W, F)])
def test_either_may_have_waited(waiter: int, blocker: int) -> None:
    assert waited(scenario(waiter=waiter, blocker=blocker)).tolist() == [[F, W]]


@pytest.mark.parametrize(
    "change",
    [
        {"zero_flags": int(RequestFlag.ZERO_WRITE)},  # within the file
        {"zero_flags": 0},  # no zero-write
        {"write_flags": int(RequestFlag.READ)},
        {"write_flags": ZERO},  # two fallocates: the inode lock orders them
        {"write_offset": 0},  # ends where F ends
        {"fallocate_result": -95},  # never happened
        {"write_result": -5},
        {"blocker": request_id(9, 9)},  # not known
    ],
)
def test_what_is_no_conflict(change: dict[str, int]) -> None:
    assert waited(scenario(**change)).tolist() == []


def test_a_pair_counts_once() -> None:
    ops = scenario()
    assert len(waited(np.concatenate([ops, ops[2:3]]))) == 1


def test_the_gap_is_from_the_end_of_one_to_the_begin_of_the_other() -> None:
    ops = scenario()
    ops["t_end"][3], ops["t_begin"][4] = 100, 137
    assert min_gap_ns(ops, waited(ops), NOBODY) == 37


def test_the_gap_of_an_exposed_pair_is_negative() -> None:
    ops = scenario()
    ops["t_begin"][3], ops["t_end"][3] = 100, 200
    ops["t_begin"][4], ops["t_end"][4] = 150, 300
    pairs = RulePairs(np.array([4]), np.array([3]), np.array([2], np.uint8))
    assert min_gap_ns(ops, np.empty((0, 2), np.uint64), pairs) == -50


def test_there_is_no_gap_without_a_pair() -> None:
    assert min_gap_ns(scenario(), np.empty((0, 2), np.uint64), NOBODY) is None


def test_pairs_of_the_control_count_where_both_guests_were_in_flight_together() -> None:
    ops = scenario()
    control = guest_pairs(ops, RulePairs(np.array([4]), np.array([3]), np.array([2], np.uint8)))
    assert control == {(1, 2)}
    overlapping = trace(
        {"op": Op.MARK_GUEST_WRITE, "request": request_id(1, 0), "result": 1, "seq_begin": 1, "seq_end": 3},
        {"op": Op.MARK_GUEST_WRITE, "request": request_id(2, 0), "result": 1, "seq_begin": 2, "seq_end": 4},
    )
    apart = overlapping.copy()
    apart["seq_begin"][1], apart["seq_end"][1] = 5, 6
    assert together(overlapping, control) == 1
    assert together(apart, control) == 0
    assert together(overlapping[:1], control) == 0


def guests(*rows: tuple[Op, int, int, int, int, int, int]) -> Operations:
    """Rows of op, guest, offset, length, flags, seq_begin, seq_end."""
    found = np.zeros(len(rows), OPERATION)
    for index, (op, guest, offset, length, flags, begin, end) in enumerate(rows):
        row = found[index]
        row["op"], row["request"], row["offset"], row["length"] = op, guest << GUEST_SHIFT | index + 1, offset, length
        row["flags"], row["seq_begin"], row["seq_end"] = flags, begin, end
        row["result"] = length if op in (Op.AIO_WRITE, Op.MARK_GUEST_WRITE) else 0
        if op is Op.MARK_GUEST_WRITE:
            row["request"] = guest << GUEST_SHIFT
    return found


TOGETHER = ((Op.MARK_GUEST_WRITE, 1, 0, 8, 0, 1, 10), (Op.MARK_GUEST_WRITE, 2, 8, 8, 0, 2, 20))
APART = ((Op.MARK_GUEST_WRITE, 1, 0, 8, 0, 1, 5), (Op.MARK_GUEST_WRITE, 2, 8, 8, 0, 6, 20))
FALLOCATE = (Op.FALLOCATE, 1, 0, 8, 0, 3, 4)
WRITE = (Op.AIO_WRITE, 2, 8, 8, 0, 11, 12)


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ((*TOGETHER, FALLOCATE, WRITE), 1),
        ((*APART, FALLOCATE, WRITE), 0),
        ((*TOGETHER, (Op.FALLOCATE, 1, 0, 8, FALLOC_FL_KEEP_SIZE, 3, 4), WRITE), 0),
        ((*TOGETHER, (Op.FALLOCATE, 1, 8, 8, 0, 3, 4), WRITE), 0),  # it does not end behind
        ((*TOGETHER, (Op.FALLOCATE, 2, 0, 8, 0, 3, 4), WRITE), 0),  # the same guest request
        ((*TOGETHER, WRITE), 0),
        ((), 0),
    ],
)
def test_what_counts_as_asked_for_together(rows: tuple[Any, ...], count: int) -> None:
    assert len(asked_together(guests(*rows))) == count


@pytest.mark.parametrize(
    ("rows", "count", "of_reads"),
    [
        ((*TOGETHER, (Op.AIO_WRITE, 1, 0, 8, 0, 3, 4), WRITE), 1, 0),
        ((*APART, (Op.AIO_WRITE, 1, 0, 8, 0, 3, 4), WRITE), 0, 0),
        ((*TOGETHER, (Op.AIO_WRITE, 1, 0, 8, 0, 13, 14), WRITE), 0, 0),  # what is behind came first: no growth
    ],
)
def test_what_counts_as_growing_together(rows: tuple[Any, ...], count: int, of_reads: int) -> None:
    found = guests(*rows)
    assert len(grown_together(found)) == count
    assert len(grown_together(found, of_reads=True)) == of_reads
    found["flags"][:1] = RequestFlag.READ
    assert len(grown_together(found, of_reads=True)) == count
