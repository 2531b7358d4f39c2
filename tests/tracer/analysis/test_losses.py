"""Lost byte ranges against a file of a few bytes that is written and cut for real."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.analysis.losses import RangeSet, lost_ranges
from tracer.operations import FALLOC_FL_KEEP_SIZE, NONE_RESULT, NONE_SIZE, OPERATION, WRITES, Op, Operations


def trace(*rows: dict[str, Any]) -> Operations:
    ops = np.zeros(len(rows), OPERATION)
    for number, (record, row) in enumerate(zip(ops, rows, strict=True)):
        default = {
            "dev": 1,
            "ino": 7,
            "seq_begin": 2 * number + 1,
            "seq_end": 2 * number + 2,
            "size_begin": NONE_SIZE,
            "size_applied": NONE_SIZE,
        }
        for name, value in (default | {"t_end": row.get("seq_end", 2 * number + 2)} | row).items():
            record[name] = value
    return ops


def write(offset: int, length: int, **more: Any) -> dict[str, Any]:
    return {"op": Op.AIO_WRITE, "offset": offset, "length": length, "result": length} | more


def truncate(size: int, **more: Any) -> dict[str, Any]:
    return {"op": Op.TRUNCATE, "offset": size, "size_end": size} | more


def fallocate(size: int, **more: Any) -> dict[str, Any]:
    return {"op": Op.FALLOCATE, "length": size, "size_begin": 0, "size_end": size} | more


def lost(*rows: dict[str, Any]) -> list[list[int]]:
    found: list[list[int]] = lost_ranges(trace(*rows), 1, 7).tolist()
    return found


def test_nothing_lost() -> None:
    assert lost() == []
    assert lost(write(0, 10), truncate(10), fallocate(20)) == []
    assert lost(truncate(5), write(0, 10)) == []
    assert lost_ranges(np.zeros(0, OPERATION), 1, 7).shape == (0, 2)


def test_cut_off() -> None:
    assert lost(write(10, 10), fallocate(10)) == [[10, 20]]
    assert lost(write(10, 10), fallocate(10, size_begin=20)) == [[10, 20]]
    assert lost(write(10, 10), truncate(15)) == [[15, 20]]
    assert lost(write(0, 4), write(8, 4), write(20, 1), truncate(2)) == [[2, 4], [8, 12], [20, 21]]
    assert lost(write(10, 10, result=3), truncate(0)) == [[10, 13]]


def test_written_again() -> None:
    assert lost(write(10, 10), truncate(10), write(12, 3)) == [[10, 12], [15, 20]]
    assert lost(write(10, 10), truncate(10), write(0, 99)) == []
    assert lost(write(10, 10), truncate(10), write(10, 10), truncate(19)) == [[19, 20]]
    assert lost(write(10, 10), truncate(10), write(10, 10, seq_end=0, result=NONE_RESULT)) == [[10, 20]]


@pytest.mark.parametrize(
    "harmless",
    [
        fallocate(5, flags=FALLOC_FL_KEEP_SIZE),
        fallocate(5, size_begin=5),
        fallocate(5, result=-28),
        fallocate(5, seq_end=0, result=NONE_RESULT),
        fallocate(5, size_end=NONE_SIZE),
        truncate(5, result=-1),
        truncate(5, ino=8),
        truncate(5, ino=6),
        truncate(5, dev=2),
        truncate(5, dev=0),
        {"op": Op.MARK_REQUEST, "size_end": 5},
    ],
)
def test_no_change_of_this_file_s_size(harmless: dict[str, Any]) -> None:
    assert lost(write(0, 10), harmless) == []


def test_order_of_effect() -> None:
    assert lost(write(0, 10), truncate(5, t_applied=1)) == []  # cut before the write ended
    assert lost(write(0, 10, t_applied=5), truncate(5)) == []  # the write took effect after the cut
    assert lost(truncate(5), write(0, 10, t_applied=1)) == [[5, 10]]
    same = {"t_end": 100}
    assert lost(write(0, 10, **same), truncate(5, **same)) == [[5, 10]]
    assert lost(truncate(5, **same), write(0, 10, **same)) == []


def test_an_emulated_fallocate_cuts_once_and_when_its_truncate_does() -> None:
    mark = {"op": Op.MARK_FALLOCATE, "seq_begin": 1, "seq_end": 20, "size_end": 5, "request": 3}
    early = write(0, 10, seq_begin=2, seq_end=4)
    late = write(0, 10, seq_begin=12, seq_end=14)
    step = truncate(5, seq_begin=6, seq_end=8, request=3)
    assert lost(mark, early, step) == [[5, 10]]
    assert lost(mark, step, late) == []
    assert lost(mark, late) == [[5, 10]]  # only the driver saw it


def test_a_cut_that_a_later_write_hides() -> None:
    first, later = write(10, 10, t_applied=3), write(30, 10, t_applied=9)
    hidden = {"t_end": 20, "t_applied": 5, "size_end": 40}
    for cutter in (fallocate(10, **hidden, size_applied=20), truncate(10, **hidden, size_applied=20)):
        assert lost(first, later, cutter) == [[10, 20]]
        assert lost(first, later, cutter, write(10, 5)) == [[15, 20]]
        assert lost(first, later, cutter | {"size_end": NONE_SIZE}) == [[10, 20]]
        assert lost(first | {"t_applied": 6}, later, cutter) == []  # applied after the cut
        for unseen in ({"size_applied": NONE_SIZE}, {"size_applied": 10}, {"t_applied": 0}, {"result": -5}):
            assert lost(first, later, cutter | unseen) == []
    # It found the size that it was about to set, and so did nothing: but something was seen to be cut.
    assert lost(first, later, fallocate(10, **hidden, size_applied=20) | {"size_begin": 40}) == [[10, 20]]
    for flags in (FALLOC_FL_KEEP_SIZE, 0x08, 0x20):
        assert lost(first, later, fallocate(10, **hidden, size_applied=20, flags=flags)) == []


def test_far_ends() -> None:
    top = 2**63 - 1
    assert lost(write(top - 5, 5), truncate(0)) == [[top - 5, top]]
    assert lost(write(top - 5, 50), truncate(0)) == [[top - 5, top]]


RANGE = st.tuples(st.integers(0, 20), st.integers(-2, 8), st.booleans())


@given(st.lists(RANGE, max_size=30))
def test_range_set(steps: list[tuple[int, int, bool]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for start, length, adds in steps:
        touched = set(range(start, start + length))
        if adds:
            ranges.add(start, start + length)
            model |= touched
        else:
            out = ranges.remove(start, start + length)
            assert {x for a, b in out for x in range(a, b)} == model & touched
            model -= touched
        flat = [edge for pair in ranges.ranges() for edge in pair]
        assert flat == sorted(set(flat))  # disjoint, in order, and never adjacent
        assert {x for a, b in ranges.ranges() for x in range(a, b)} == model


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for _ in range(draw(st.integers(0, 14))):
        more = {"t_end": draw(st.integers(1, 6)), "t_applied": draw(st.integers(0, 6))}
        size = draw(st.integers(0, 24))
        mark = {"op": Op.MARK_FALLOCATE, "size_end": size} | more
        seen = draw(st.integers(-1, 30))  # another size at the end, if what was cut off was seen
        hidden = (
            {"size_applied": seen, "size_end": draw(st.integers(-1, 30))} if seen > size and more["t_applied"] else {}
        )
        kinds = [
            write(size, 6, **more),
            write(size, 3, **more),
            truncate(size, **more | hidden),
            fallocate(size, **more | hidden),
        ]
        rows.append(draw(st.sampled_from([*kinds, mark])))
    return rows


@settings(max_examples=400)
@given(histories())
def test_against_a_file_of_thirty_bytes(rows: list[dict[str, Any]]) -> None:
    never, there, gone = 0, 1, 2
    state = bytearray(30)
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["t_applied"] or rows[i]["t_end"], i))
    for row in (rows[i] for i in order):
        if row["op"] in WRITES:
            state[row["offset"] : row["offset"] + row["result"]] = bytes([there]) * row["result"]
        elif "size_applied" in row or row["op"] != Op.FALLOCATE or row["size_begin"] != row["size_end"]:
            seen = row.get("offset", 0) + row.get("length", 0) if "size_applied" in row else row["size_end"]
            for i in range(seen, 30):
                state[i] = gone if state[i] != never else never
    found = bytearray(30)
    for start, end in lost(*rows):
        found[start:end] = bytes([1]) * (end - start)
    assert [x == gone for x in state] == [x == 1 for x in found]
