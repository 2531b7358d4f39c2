"""The operations of a trace on disk in the order of their begins, with bounded memory.

Row groups that begin late are read late. How far the stream is complete, its *frontier*, is where the row groups begin
that were not read yet. In the parts of a recording a row group may begin long before most of its rows, because of a few
that took long: then it is read early, and where that would fill the memory only its early rows are taken, and the rest
when their time has come.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.analysis.overlaps import sequence_ends
from tracer.operations import OPERATION
from tracer.stored import GROUP_SHIFT, Group, Stored
from tracer.trace_columns import LAST_NUMBER

Arrays = dict[str, npt.NDArray[Any]]
"""Operations by column, (n,) each."""

BATCH = 1 << 16
"""Operations that are handed on together, unless fewer are left: a row group as eofrace writes it, some 10 MB."""

HELD = 1 << 19
"""Operations that are held because others that begin earlier may still come: some 80 MB."""

_LEAST = 1 << 10
"""Operations that are taken from a row group at a time, at least."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """All operations that begin from where the stretch before ended, up to a frontier."""

    ops: Arrays
    """Sorted by `seq_begin`; `row` is the operation's number in the trace."""
    frontier: int
    """Sequence number: what begins before it has come."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of sequence numbers, low <= number < high; of all of them, unless told."""

    low: int = 0
    high: int = LAST_NUMBER


def stretches(
    trace: Stored, names: tuple[str, ...], window: Window, *, batch: int = BATCH, held: int = HELD
) -> Iterator[Stretch]:
    """Yield all operations that begin in the window, whatever order the trace has them in.

    `names` has `seq_begin`. The last stretch has the window's end for its frontier, and comes even if it is empty.
    Raises TraceError.
    """
    groups = [g for g in trace.groups if g.first_begin < window.high and g.last_begin >= window.low]
    waiting = [(group.first_begin, group.number, 0) for group in groups]  # and how many of its rows were taken
    heapq.heapify(waiting)
    share = max(held // max(len(groups), 1), _LEAST)
    buffer: list[Arrays] = []
    while waiting:
        _, number, taken = heapq.heappop(waiting)
        ops = _rows(trace, trace.groups[number], names, window)
        until = len(ops["row"])
        if _count(buffer) + until - taken > held:
            until = min(max(_until(ops, waiting[0][0] if waiting else window.high), taken + share), until)
        part = {name: column[taken:until] for name, column in ops.items()}
        if until < len(ops["row"]):
            heapq.heappush(waiting, (int(ops["seq_begin"][until]), number, until))
            part = {name: column.copy() for name, column in part.items()}  # the rest must not stay in memory
        buffer.append(part)
        frontier = waiting[0][0] if waiting else window.high
        if waiting and sum(_until(part, frontier) for part in buffer) < batch:
            continue
        ready, rest = _split(buffer, frontier)
        buffer = [rest] if len(rest["row"]) else []
        yield Stretch(ready, frontier)
    if not groups:
        nothing = {name: np.empty(0, OPERATION[name]) for name in names}
        yield Stretch(nothing | {"row": np.empty(0, np.int64)}, window.high)


def carried(trace: Stored, names: tuple[str, ...], number: int) -> Iterator[Arrays]:
    """Yield the operations that began before a sequence number and had not ended before it, in any order."""
    for group in trace.groups:
        if group.first_begin < number <= group.last_end:
            # Most of those that may have some have none.
            if not _open_at(trace.read(group, ("seq_begin", "seq_end"), check=False), number).any():
                continue
            ops = _numbered(trace.read(group, names), group)
            open_then = _open_at(ops, number)
            yield {name: column[open_then] for name, column in ops.items()}


def _open_at(ops: Arrays, number: int) -> npt.NDArray[np.bool_]:
    return np.asarray((ops["seq_begin"] < number) & (sequence_ends(ops) >= np.uint64(number)))


def _numbered(ops: Arrays, group: Group) -> Arrays:
    return ops | {"row": (group.number << GROUP_SHIFT) + np.arange(group.rows)}


def _rows(trace: Stored, group: Group, names: tuple[str, ...], window: Window) -> Arrays:
    """The operations of a row group that begin in the window, sorted."""
    ops = _sorted(_numbered(trace.read(group, names), group))
    low, high = _until(ops, window.low), _until(ops, window.high)
    return {name: column[low:high] for name, column in ops.items()}


def _count(parts: list[Arrays]) -> int:
    return sum(len(part["row"]) for part in parts)


def _until(ops: Arrays, number: int) -> int:
    """How many of sorted operations begin before a sequence number."""
    return int(np.searchsorted(ops["seq_begin"], np.uint64(number)))


def _sorted(ops: Arrays) -> Arrays:
    begins = ops["seq_begin"]
    if not np.any(begins[1:] < begins[:-1]):
        return ops
    order = np.argsort(begins, kind="stable")
    return {name: column[order] for name, column in ops.items()}


def _split(parts: list[Arrays], frontier: int) -> tuple[Arrays, Arrays]:
    """Some, one or more, sorted: what begins before the frontier, and the rest.

    Takes them apart, and copies what is a part of them: there are never two of all columns, and none stays in memory
    for a few of its values.
    """
    begins = np.concatenate([part["seq_begin"] for part in parts])
    order = None if np.all(begins[1:] >= begins[:-1]) else np.argsort(begins, kind="stable")
    at = int(np.count_nonzero(begins < np.uint64(frontier)))
    ready: Arrays = {}
    rest: Arrays = {}
    for name in list(parts[0]):
        columns = [part.pop(name) for part in parts]
        column = columns[0] if len(columns) == 1 else np.concatenate(columns)
        column = column if order is None else column[order]
        ready[name] = column[:at] if 2 * at > len(column) else column[:at].copy()
        rest[name] = column[at:].copy()
    return ready, rest
