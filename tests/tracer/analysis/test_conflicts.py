"""Which pairs count as conflicts, and how far apart they were."""

import random
from typing import Any

import numpy as np
import pytest

from blockstack.journal import GUEST_SHIFT, RequestFlag
from tracer.analysis.conflicts import asked_together, grown_together, guest_pairs, min_gap_ns, together, waited
from tracer.analysis.rules import RulePairs
from tracer.operations import FALLOC_FL_KEEP_SIZE, NONE_RESULT, OPERATION, WRITES, Op, Operations

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


def some(seed: int) -> Operations:
    """Guest requests, of which most meet, what the driver makes of them, and rows that have to do with nothing."""
    chance = random.Random(seed)
    ids = [request_id(chance.randrange(1, 4), serial) for serial in range(1, chance.randrange(4, 10))]
    rows: list[dict[str, int]] = [{"op": Op.MARK_GUEST_WRITE, "request": request_id(guest, 0)} for guest in (1, 2, 3)]
    for number in ids:
        zeroes = chance.random() < 0.5
        kinds = (Op.FALLOCATE, Op.FALLOCATE, Op.MARK_FALLOCATE) if zeroes else WRITES
        rows.append({"op": Op.MARK_REQUEST, "request": number, "flags": ZERO if zeroes else 0})
        rows += [{"op": chance.choice(kinds), "request": number} for _ in range(chance.choice([0, 1, 1, 1, 2]))]
    rows += [
        {"op": Op.MARK_WAIT, "request": chance.choice(ids), "result": chance.choice([*ids, 9])}
        for _ in range(chance.randrange(12))
    ]
    rows += [
        {"op": chance.choice(list(Op)[:6]), "request": request_id(chance.randrange(5), chance.choice([0, 77]))}
        for _ in range(2)
    ]
    chance.shuffle(rows)
    numbers = list(range(4, 2 * len(rows) + 4))
    chance.shuffle(numbers)
    found = np.zeros(len(rows), OPERATION)
    for row, given in zip(found, rows, strict=True):
        row["seq_begin"], row["seq_end"] = sorted((numbers.pop(), numbers.pop()))
        row["t_begin"], row["t_end"] = 10 * row["seq_begin"], 10 * row["seq_end"]
        row["offset"], row["length"] = chance.randrange(4), chance.randrange(5)
        row["result"] = chance.choice([-5, 0, *[1] * 10])
        row["flags"] = chance.choice([*[0] * 10, FALLOC_FL_KEEP_SIZE, RequestFlag.READ])
        for name, value in given.items():
            row[name] = value
        if row["op"] == Op.MARK_GUEST_WRITE and chance.random() < 0.7:
            row["seq_begin"] = row["request"] >> GUEST_SHIFT  # most begin before all else: these numbers are free
        if chance.random() < 0.1:
            row["flags"] = chance.choice([RequestFlag.READ, RequestFlag.ZERO_WRITE, ZERO | RequestFlag.READ, 8])
        if chance.random() < 0.1:
            row["seq_end"], row["t_end"] = 0, 0
            row["result"] = row["result"] if row["op"] == Op.MARK_WAIT else NONE_RESULT
    return found


def last(row: np.void) -> int:
    return int(row["seq_end"]) or 2**64


def behind(ops: Operations, firsts: list[np.void]) -> list[list[int]]:
    """Request ids of some operations and successful writes behind them, of guest requests that met."""
    guests = {
        int(row["request"]) >> GUEST_SHIFT: row for row in ops if row["op"] == Op.MARK_GUEST_WRITE and row["result"] > 0
    }
    found = set()
    for first in firsts:
        for write in ops:
            one, other = (guests.get(int(row["request"]) >> GUEST_SHIFT) for row in (first, write))
            if write["op"] not in WRITES or write["result"] <= 0 or one is None or other is None or one is other:
                continue
            met = one["seq_begin"] < last(other) and other["seq_begin"] < last(one)
            if met and write["offset"] + write["length"] > first["offset"] + first["length"]:
                found.add((int(first["request"]), int(write["request"])))
    return [list(pair) for pair in sorted(found)]


def growing(ops: Operations, of_reads: bool) -> list[np.void]:
    """Writes that end behind all that was written or allocated before them."""
    read = {
        int(row["request"]) >> GUEST_SHIFT
        for row in ops
        if row["op"] == Op.MARK_GUEST_WRITE and row["flags"] & RequestFlag.READ
    }
    found, reached = [], 0
    for row in sorted(ops, key=lambda row: int(row["seq_begin"])):
        if row["op"] not in (*WRITES, Op.FALLOCATE) or row["result"] < 0:
            continue
        end = int(row["offset"] + row["length"])
        if end > reached and row["op"] in WRITES and (not of_reads or int(row["request"]) >> GUEST_SHIFT in read):
            found.append(row)
        reached = max(reached, end)
    return found


def waits_of(ops: Operations) -> list[list[int]]:
    """Ids of a zero-write beyond the end and a write behind it that were done, of which one waited for the other."""
    requests = {int(row["request"]): row for row in ops if row["op"] == Op.MARK_REQUEST}
    done = [row for row in ops if row["result"] >= 0]
    zeroed = {int(row["request"]) for row in done if row["op"] in (Op.FALLOCATE, Op.MARK_FALLOCATE)}
    written = {int(row["request"]) for row in done if row["op"] in WRITES}
    found = set()
    for wait in ops[(ops["op"] == Op.MARK_WAIT)]:
        if not wait["seq_end"]:
            continue
        both = (int(wait["request"]), int(wait["result"]))
        for zero, write in (both, both[::-1]):
            if zero not in requests or write not in requests or zero not in zeroed or write not in written:
                continue
            one, other = requests[zero], requests[write]
            if int(one["flags"]) & ZERO != ZERO or int(other["flags"]) & (RequestFlag.ZERO_WRITE | RequestFlag.READ):
                continue
            if other["offset"] + other["length"] > one["offset"] + one["length"]:
                found.add((zero, write))
    return [list(pair) for pair in sorted(found)]


def gap_of(ops: Operations, conflicts: list[list[int]], pairs: list[tuple[int, int]]) -> int | None:
    """The least time between the two of a conflict or a pair."""

    def span(request: int, kinds: tuple[Op, ...]) -> tuple[int, int]:
        rows = [row for row in ops if row["request"] == request and row["op"] in kinds and row["seq_end"]]
        return min(int(row["t_begin"]) for row in rows), max(int(row["t_end"]) for row in rows)

    spans = [(span(zero, (Op.FALLOCATE, Op.MARK_FALLOCATE)), span(write, WRITES)) for zero, write in conflicts]
    for first, second in pairs:
        one, other = ops[first], ops[second]
        if one["seq_end"] and other["seq_end"]:
            spans.append(((int(one["t_begin"]), int(one["t_end"])), (int(other["t_begin"]), int(other["t_end"]))))
    return min((max(a[0] - b[1], b[0] - a[1]) for a, b in spans), default=None)


def test_against_the_rules_as_they_are_written_down() -> None:
    several = 0
    for seed in range(800):
        ops = some(seed)
        chance = random.Random(-seed)
        zeroes = [
            row
            for row in ops
            if row["op"] in (Op.FALLOCATE, Op.MARK_FALLOCATE)
            and row["result"] >= 0
            and not row["flags"] & FALLOC_FL_KEEP_SIZE
        ]
        wanted = [behind(ops, zeroes), behind(ops, growing(ops, False)), behind(ops, growing(ops, True))]
        found = [asked_together(ops), grown_together(ops), grown_together(ops, of_reads=True)]
        assert [pairs.tolist() for pairs in found] == wanted, seed
        waiting = waits_of(ops)
        assert waited(ops).tolist() == waiting, seed
        pairs = [(chance.randrange(len(ops)), chance.randrange(len(ops))) for _ in range(seed % 3)] if len(ops) else []
        columns = np.array(pairs, np.int64).reshape(-1, 2).T
        ruled = RulePairs(columns[0], columns[1], np.zeros(len(pairs), np.uint8))
        assert min_gap_ns(ops, np.array(waiting, np.uint64).reshape(-1, 2), ruled) == gap_of(ops, waiting, pairs), seed
        numbers = ops["request"] >> np.uint64(GUEST_SHIFT)
        exposed = {
            (int(numbers[first]), int(numbers[second]))
            for first, second in pairs
            if numbers[first] and numbers[second] and numbers[first] != numbers[second]
        }
        assert guest_pairs(ops, ruled) == exposed, seed
        written = ops[(ops["op"] == Op.MARK_GUEST_WRITE) & (ops["result"] > 0)]
        spans = {int(row["request"]) >> GUEST_SHIFT: (row["seq_begin"], row["seq_end"]) for row in written}
        met = {(a, b) for a in spans for b in spans if spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]}
        everybody = {(a, b) for a in range(1, 5) for b in range(1, 5)}
        assert together(ops, everybody) == len(met), seed
        several += len(wanted[0]) + len(wanted[1]) + len(waiting) > 1
    assert several > 100
