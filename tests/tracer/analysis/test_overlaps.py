"""The overlap engine against an oracle that compares every pair."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.analysis.overlaps import FOREVER, MAX_BYTE, _begun_by, dense_groups, overlapping, range_ends

INTERVAL = st.tuples(st.integers(1, 40), st.integers(0, 12), st.booleans(), st.integers(0, 2))
Interval = tuple[int, int, int]  # begin, end, group


def _interval(drawn: tuple[int, int, bool, int]) -> Interval:
    begin, lasts, in_flight, group = drawn
    return begin, int(FOREVER) if in_flight else begin + lasts, group


def _oracle(a: list[Interval], b: list[Interval], grouped: bool) -> list[tuple[int, int]]:
    return sorted(
        (i, j)
        for i, (begin_a, end_a, group_a) in enumerate(a)
        for j, (begin_b, end_b, group_b) in enumerate(b)
        if begin_a <= end_b and begin_b <= end_a and (group_a == group_b or not grouped)
    )


def _found(a: list[Interval], b: list[Interval], grouped: bool, chunk: int) -> list[tuple[int, int]]:
    columns = [np.array([x[k] for x in side], np.uint64) for side in (a, b) for k in (0, 1)]
    groups = [np.array([x[2] for x in side], np.int64) if grouped else None for side in (a, b)]
    pairs: list[tuple[int, int]] = []
    for i, j in overlapping(*columns, group_a=groups[0], group_b=groups[1], chunk=chunk):
        assert 1 <= len(i) == len(j) <= chunk
        pairs += zip(i.tolist(), j.tolist(), strict=True)
    return sorted(pairs)


@given(st.lists(INTERVAL, max_size=20), st.lists(INTERVAL, max_size=20), st.booleans(), st.integers(1, 7))
def test_every_pair_once(
    a: list[tuple[int, int, bool, int]], b: list[tuple[int, int, bool, int]], grouped: bool, chunk: int
) -> None:
    left, right = [_interval(x) for x in a], [_interval(x) for x in b]
    assert _found(left, right, grouped, chunk) == _oracle(left, right, grouped)


def test_touching_numbers_do_not_overlap() -> None:
    assert _found([(1, 2, 0)], [(3, 4, 0)], False, 8) == []
    assert _found([(1, 3, 0)], [(2, 4, 0)], False, 8) == [(0, 0)]


def test_the_whole_range_of_sequence_numbers() -> None:
    top = int(FOREVER)
    assert _found([(top - 1, top, 2)], [(1, top, 2), (1, top - 2, 2), (1, top, 1)], True, 8) == [(0, 0)]


def test_one_interval_over_a_long_trace_stays_in_bounded_memory() -> None:
    count, chunk = 1_000_000, 10_000
    begin = np.arange(2, 2 + 2 * count, 2, dtype=np.uint64)
    whole = np.array([1], np.uint64), np.array([FOREVER], np.uint64)
    for sides in ((whole, (begin, begin + 1)), ((begin, begin + 1), whole)):
        pairs = overlapping(*sides[0], *sides[1], chunk=chunk)
        tracemalloc.start()
        found = sum(len(i) for i, _ in pairs)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == count
        assert peak < 100 * count


def test_many_pairs_come_in_chunks() -> None:
    n = 3000
    begin = np.arange(1, n + 1, dtype=np.uint64)
    end = np.full(n, FOREVER)
    tracemalloc.start()
    found = sum(len(i) for i, _ in overlapping(begin, end, begin, end, chunk=1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == n * n
    assert peak < 8 << 20  # all pairs at once: 144 MB


def test_refuses_what_is_no_interval() -> None:
    one, two = np.array([1], np.uint64), np.array([2], np.uint64)
    with pytest.raises(ValueError, match="ends before it begins"):
        next(overlapping(two, one, one, two))
    with pytest.raises(ValueError, match="groups"):
        next(overlapping(one, two, one, two, group_a=np.zeros(1, np.int64)))
    with pytest.raises(ValueError, match="at least one"):
        next(overlapping(one, two, one, two, chunk=0))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1).map(lambda x: x // 2**62)), max_size=30))
def test_groups_are_dense_and_exact(rows: list[tuple[int, int]]) -> None:
    ids = dense_groups(np.array([r[0] for r in rows], np.uint64), np.array([r[1] for r in rows], np.uint64))
    assert {(a == b) == (x == y) for a, x in zip(rows, ids, strict=True) for b, y in zip(rows, ids, strict=True)} <= {
        True
    }
    assert set(ids.tolist()) == set(range(len(set(rows))))


def test_range_ends_saturate() -> None:
    offset = np.array([0, 5, MAX_BYTE, MAX_BYTE - 1, 7], np.int64)
    length = np.array([0, 6, 1, 1, -3], np.int64)
    assert range_ends(offset, length).tolist() == [0, 11, MAX_BYTE, MAX_BYTE, 7]


@pytest.mark.parametrize("step", [1, 3, 1 << 57])
def test_numbers_close_together_are_counted_along_and_others_searched(step: int) -> None:
    """To count along all of 2^60 takes more memory than there is."""
    begins = np.arange(10, 10 + 7 * step, step, dtype=np.uint64)
    around = [begins[0] - np.uint64(1), *begins, *(begins + np.uint64(1)), begins[-1] + np.uint64(step)]
    ends = np.array(around, np.uint64)
    assert _begun_by(begins, ends).tolist() == [int((begins <= end).sum()) for end in ends]
    assert _begun_by(begins[:0], ends).tolist() == [0] * len(ends)
