"""Linking a driver's operations to guest requests by the image's tables, and what counts as kept apart."""

import numpy as np
import numpy.typing as npt
import pytest

from blockstack.journal import GUEST_SHIFT, Journal, Kind
from tracer.operations import FALLOC_FL_ZERO_RANGE, OPERATION, Op
from tracer.verify.qemu.evidence import beside, evidence, kept_apart

DEV, INO, PID = 7, 8, 9
K = 1024
SIZE = 64 * K
# Guest cluster 10 lies at host cluster 5, 11 at 6: as (guest, host, table, index).
EXTENTS = [(10, 5 * SIZE, 4 * SIZE, 10), (11, 6 * SIZE, 4 * SIZE, 11)]
SUB, FULL = (10 * SIZE + 4 * K, 4 * K), (11 * SIZE, SIZE)
"""A sub-cluster write to guest cluster 10 (guest request 1), a full one to 11 (guest request 2)."""

Rows = list[tuple[Op, int, int, int, int]]
"""Kind, offset, length, t_begin, t_end."""

ZERO = (Op.FALLOCATE, 5 * SIZE, SIZE)
DATA = (Op.AIO_WRITE, 5 * SIZE + 4 * K, 4 * K)
BEHIND = (Op.AIO_WRITE, 6 * SIZE, SIZE)


def journal(*spans: tuple[int, int]) -> Journal:
    """The client's account: guest requests 1 and 2 with their times."""
    made = Journal()
    for number, ((offset, length), (begin, end)) in enumerate(zip((SUB, FULL), spans, strict=False), start=1):
        entry = made.begin(Kind.GUEST_WRITE, offset, length, request=number << GUEST_SHIFT)
        made.end(entry, length)
        entry.t_begin, entry.t_end = begin, end
    return made


def seen(rows: Rows, size: int = 5 * SIZE) -> npt.NDArray[np.void]:
    """The kernel's account, in a file of `size` bytes."""
    ops = np.zeros(len(rows), OPERATION)
    edges = sorted(time for *_, begin, end in rows for time in (begin, end))
    for op, (kind, offset, length, begin, end) in zip(ops, rows, strict=True):
        op["op"], op["offset"], op["length"], op["t_begin"], op["t_end"] = kind, offset, length, begin, end
        op["seq_begin"], op["seq_end"] = 1000 + edges.index(begin), 1000 + edges.index(end)
        op["dev"], op["ino"], op["pid"], op["size_begin"] = DEV, INO, PID, size
        op["result"] = 0 if kind is Op.FALLOCATE else length
        op["flags"] = FALLOC_FL_ZERO_RANGE if kind is Op.FALLOCATE else 0
    return ops


def found(rows: Rows, *spans: tuple[int, int], size: int = 5 * SIZE) -> tuple[npt.NDArray[np.void], int]:
    made = evidence(seen(rows, size), journal(*spans), EXTENTS, SIZE, dev=DEV, ino=INO, pid=PID)
    return made.ops, made.unaccounted


ORDERED: Rows = [(*ZERO, 20, 30), (*DATA, 40, 50), (*BEHIND, 60, 70)]


def test_operations_are_linked_to_the_guest_requests_that_caused_them() -> None:
    ops, unaccounted = found(ORDERED, (1, 100), (2, 101))
    kernel = ops[ops["pid"] == PID]
    assert (kernel["request"] >> np.uint64(GUEST_SHIFT)).tolist()[:3] == [1, 1, 2]
    assert unaccounted == 0


def test_metadata_belongs_to_nobody() -> None:
    ops, unaccounted = found([*ORDERED, (Op.AIO_WRITE, 4 * SIZE, SIZE, 80, 90)], (1, 100), (2, 101))
    assert ops[(ops["offset"] == 4 * SIZE)]["request"].tolist() == [0]
    assert unaccounted == 0


@pytest.mark.parametrize("missing", [1, 2])
def test_a_write_that_the_trace_lacks_is_missed(missing: int) -> None:
    rows = [row for at, row in enumerate(ORDERED) if at != missing]
    # Without the data behind it, a zero-write is nobody's, either.
    assert found(rows, (1, 100), (2, 101))[1] == (2 if missing == 1 else 1)


def test_half_a_write_is_missed() -> None:
    rows: Rows = [*ORDERED[:2], (Op.AIO_WRITE, 6 * SIZE, SIZE // 2, 60, 70)]
    assert found(rows, (1, 100), (2, 101))[1] == 1


def test_a_write_that_no_guest_asked_for_is_unaccounted() -> None:
    rows: Rows = [*ORDERED, (Op.AIO_WRITE, 6 * SIZE, SIZE, 200, 210)]
    assert found(rows, (1, 100), (2, 101))[1] == 1


def test_foreign_processes_are_left_out() -> None:
    raw = seen(ORDERED)
    raw["pid"][2] = PID + 1
    made = evidence(raw, journal((1, 100), (2, 101)), EXTENTS, SIZE, dev=DEV, ino=INO, pid=PID)
    assert made.unaccounted == 1
    assert BEHIND[1] not in made.ops[made.ops["op"] == Op.AIO_WRITE]["offset"]


WANTED = frozenset({(1, 2)})


def test_a_pair_that_was_asked_for_at_once_and_ran_in_turn_was_kept_apart() -> None:
    apart = kept_apart(found(ORDERED, (1, 100), (2, 101))[0], WANTED)
    assert (apart.conflicts, apart.waited, apart.min_gap_ns) == (WANTED, 1, 30)


def test_so_was_one_whose_zero_write_came_second() -> None:
    rows: Rows = [(*BEHIND, 20, 30), (*ZERO, 40, 50), (*DATA, 60, 70)]
    apart = kept_apart(found(rows, (1, 100), (2, 101))[0], WANTED)
    assert (apart.conflicts, apart.waited, apart.min_gap_ns) == (WANTED, 1, 10)


@pytest.mark.parametrize(
    ("rows", "spans", "size"),
    [
        ([(*ZERO, 20, 30), (*DATA, 40, 50), (*BEHIND, 25, 70)], ((1, 100), (2, 101)), 5 * SIZE),
        (ORDERED, ((1, 55), (56, 101)), 5 * SIZE),
        (ORDERED, ((1, 100), (35, 101)), 5 * SIZE),
        (ORDERED, ((1, 100), (2, 101)), 9 * SIZE),
    ],
    ids=["together in the kernel", "never in flight together", "asked for after the zero-write", "within the file"],
)
def test_nothing_else_counts(rows: Rows, spans: tuple[tuple[int, int], ...], size: int) -> None:
    ops, _ = found(rows, *spans, size=size)
    assert not kept_apart(ops, WANTED).conflicts


def test_a_pair_that_no_control_exposed_does_not_count() -> None:
    ops, _ = found(ORDERED, (1, 100), (2, 101))
    assert not kept_apart(ops, frozenset({(2, 1)})).conflicts


def test_company_is_a_write_below_a_zero_write_while_that_runs() -> None:
    below: Rows = [(*ZERO, 20, 30), (*DATA, 40, 50), (Op.AIO_WRITE, 4 * SIZE, SIZE, 25, 35), (*BEHIND, 60, 70)]
    assert beside(found(below, (1, 100), (2, 101))[0]) == 1
    assert beside(found(ORDERED, (1, 100), (2, 101))[0]) == 0
