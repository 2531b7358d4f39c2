"""The engine: all pairs of two sets of intervals that overlap, with bounded memory.

Intervals are closed and live in sequence space (u64): every begin and every end of a trace has a number
of its own, so "overlaps" is exact and needs no clock. Two intervals overlap if, and only if, one of them
begins while the other one is open. Pairs where b begins inside a, and pairs where a begins strictly
inside b, are two disjoint classes, and each is one binary search in one sorted array: O((n + m) log(n +
m) + pairs), also if an interval lasts as long as the trace.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.analysis.columns import Columns
from tracer.analysis.machine import require_sound
from tracer.operations import Operations

FOREVER = np.uint64(2**64 - 1)
"""Sequence number of an end that never came."""

MAX_BYTE = 2**63 - 1
"""Largest offset a file can have; byte ranges saturate here."""

_SPARSE = 16
"""Sequence numbers to each begin, from which on they are searched rather than counted."""

CHUNK = 1 << 20
"""Pairs in one chunk, unless told: 16 MiB of indices."""

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def ended(ops: Operations | Columns | Mapping[str, U64]) -> Bools:
    """Which operations (n,) were seen to end: the others were in flight when the recording did. Reads seq_end."""
    return ops["seq_end"].astype(np.bool_)


def was_seen(times: I64) -> Bools:
    """Which times (n,), in ns, were seen: 0 stands for those that were not."""
    return times.astype(np.bool_)


def sequence_ends(ops: Operations | Columns | Mapping[str, U64]) -> U64:
    """`seq_end` of every operation (n,), with `FOREVER` for those in flight."""
    return np.where(ended(ops), ops["seq_end"], FOREVER)


def range_ends(offset: I64, length: I64) -> I64:
    """First byte behind each range (n,); saturates at `MAX_BYTE`. A negative length counts as none."""
    length = np.maximum(length, 0)
    room = MAX_BYTE - np.maximum(offset, 0)
    return np.asarray(offset + np.minimum(length, room))


def dense_groups(*columns: npt.NDArray[Any]) -> I64:
    """Number rows by the combination of their columns: (n,) ids from 0, equal where all columns are."""
    ids = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        # Renumbering after every column keeps the product below n * n, whatever the values are.
        _, ids = np.unique(ids * max(len(values), 1) + inverse, return_inverse=True)
    return ids


def overlapping(
    begin_a: U64,
    end_a: U64,
    begin_b: U64,
    end_b: U64,
    *,
    group_a: I64 | None = None,
    group_b: I64 | None = None,
    chunk: int = CHUNK,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield every pair (i, j) for which [begin_a[i], end_a[i]] and [begin_b[j], end_b[j]] overlap, each once.

    With groups (dense ids from 0, such as those of `dense_groups`), only pairs of the same group are
    found, and only they cost anything. A chunk is a pair of index arrays of the same length, 1 to
    `chunk`. The order of the pairs is the same for the same input, and otherwise unspecified.

    Raises ValueError where an interval ends before it begins.
    """
    if chunk < 1:
        raise ValueError("a chunk holds at least one pair")
    require_sound()
    if np.any(end_a < begin_a) or np.any(end_b < begin_b):
        raise ValueError("an interval ends before it begins")
    if (group_a is None) != (group_b is None):
        raise ValueError("groups are for both sides or for none")
    if group_a is not None and group_b is not None:
        begin_a, end_a, begin_b, end_b = _separate(begin_a, end_a, begin_b, end_b, group_a, group_b)
    order_b = np.argsort(begin_b, kind="stable")
    sorted_b = begin_b[order_b]
    first = np.searchsorted(sorted_b, begin_a, side="left")
    last = np.searchsorted(sorted_b, end_a, side="right")
    for row, position in _expand(first, last, chunk):
        yield row, order_b[position]
    order_a = np.argsort(begin_a, kind="stable")
    sorted_a = begin_a[order_a]
    first = np.searchsorted(sorted_a, begin_b, side="right")
    last = np.searchsorted(sorted_a, end_b, side="right")
    for row, position in _expand(first, last, chunk):
        yield order_a[position], row


def _separate(
    begin_a: U64,
    end_a: U64,
    begin_b: U64,
    end_b: U64,
    group_a: I64,
    group_b: I64,
) -> tuple[U64, U64, U64, U64]:
    """Move every group to a stretch of the number line of its own, so that groups cannot overlap.

    Numbers become ranks first: sequence space is 64 bits wide, and there would be no room for groups
    beside it.
    """
    values, ranks = np.unique(np.concatenate([begin_a, end_a, begin_b, end_b]), return_inverse=True)
    group = np.concatenate([group_a, group_a, group_b, group_b])
    moved = group.astype(np.uint64) * np.uint64(max(len(values), 1)) + ranks.astype(np.uint64)
    n, m = len(begin_a), len(begin_b)
    return moved[:n], moved[n : 2 * n], moved[2 * n : 2 * n + m], moved[2 * n + m :]


def _expand(
    first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], chunk: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield (row, position) for every position in [first[row], last[row]), at most `chunk` at a time.

    A chunk is a stretch of pair numbers, not of rows: a row with many pairs is cut wherever a chunk ends.
    """
    counts = np.maximum(last - first, 0)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    starts = ends - counts
    for low in range(0, total, chunk):
        high = min(low + chunk, total)
        rows = slice(int(np.searchsorted(ends, low, side="right")), int(np.searchsorted(ends, high, side="left")) + 1)
        taken = np.minimum(ends[rows], high) - np.maximum(starts[rows], low)
        row = np.repeat(np.arange(rows.start, rows.stop), taken)
        number = np.arange(low, high)
        yield row, first[row] + (number - starts[row])


class Meetings:
    """Which operations of one file overlap in time: sorted once, and then asked for any two sides.

    ops (n,): pairs of two operations before the position `fresh` are left out; those from there on are sorted by
    `seq_begin`, and none before begins later. O(n log n), and then O(n + pairs).
    """

    def __init__(self, ops: Columns, fresh: int = 0) -> None:
        require_sound()
        begins = ops["seq_begin"][fresh:]
        begun = _begun_by(begins, sequence_ends(ops))
        # One number line for all files, a stretch of it for each: 0 for what is not fresh, then the fresh in order.
        # Whoever walks along it finds the next number near by.
        file = files(ops)
        self._order = np.argsort(file, kind="stable")
        start = file[self._order].astype(np.int64) * (len(begins) + 1)
        place = start + np.maximum(self._order - fresh + 1, 0)
        self._stop = np.searchsorted(place, start + begun[self._order], side="right")
        """Of each in that order: what is between it and there begins while it is open."""
        self._fresh = self._order >= fresh

    def pairs(
        self, first: Bools, second: Bools, *, symmetric: bool = False, chunk: int = CHUNK
    ) -> Iterator[tuple[I64, I64]]:
        """Yield every pair (i, j) that overlaps, i of `first`, j of `second` (masks (n,)), each once.

        `symmetric`: i began before j. No operation meets itself. A chunk is a pair of index arrays of the same length,
        1 to `chunk`.
        """
        first, second = first[self._order], second[self._order]
        for i, j in self._begun_inside(first, second, chunk):
            yield self._order[i], self._order[j]
        if not symmetric:
            for j, i in self._begun_inside(second, first, chunk):
                yield self._order[i], self._order[j]

    def _begun_inside(self, outer: Bools, inner: Bools, chunk: int) -> Iterator[tuple[I64, I64]]:
        """Yield every pair of an outer operation and a fresh inner one that begins while that is open."""
        inner = inner & self._fresh
        outers, inners = np.flatnonzero(outer), np.flatnonzero(inner)
        before = np.concatenate([[0], np.cumsum(inner)])
        for at, position in _expand(before[outers + 1], before[self._stop[outers]], chunk):
            yield outers[at], inners[position]


def _begun_by(begins: U64, ends: U64) -> I64:
    """How many of begins (m,), which rise, are not behind each of ends (n,)."""
    if not len(begins) or int(begins[-1] - begins[0]) >= _SPARSE * len(begins):
        return np.searchsorted(begins, ends, side="right")
    # The numbers of a trace have few gaps: to count along all of them is quicker than to search.
    first, last = begins[0], begins[-1]
    count = np.cumsum(np.bincount((begins - first).astype(np.int64)))
    return np.where(ends < first, 0, count[np.clip(ends, first, last) - first])


def files(ops: Columns) -> npt.NDArray[np.integer[Any]]:
    """Number the files of operations (n,) from 0, in any order."""
    inodes, devices = numbered(ops["ino"]), ops["dev"]
    if np.all(devices == devices[:1]):
        return inodes
    devices = numbered(devices)
    return numbered(devices.astype(np.int64) * (int(inodes.max(initial=0)) + 1) + inodes)


def numbered(values: npt.NDArray[Any]) -> npt.NDArray[np.integer[Any]]:
    """Number values (n,) from 0, equal ones alike. Hashing takes a tenth of the time of sorting (np.unique)."""
    found = pa.array(values).dictionary_encode()
    # Of 16 bits, if that is enough: numpy sorts those by radix.
    return np.asarray(found.indices, np.uint16 if len(found.dictionary) <= 1 << 16 else np.int64)
