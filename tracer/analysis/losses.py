"""Which bytes of a file are gone: acknowledged, cut off by a change of the size, and never written again.

Rules judge pairs of operations; this counts the damage, whoever did it: a truncate that a user asked for cuts
as well. Order is the order of effect: `t_applied` where it was seen, else `t_end`, ties by `seq_end`.
"""

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from tracer.analysis.emulation import Effects, effects
from tracer.analysis.overlaps import I64, MAX_BYTE, ended, range_ends, was_seen
from tracer.operations import FALLOC_FL_KEEP_SIZE, NONE_SIZE, WRITES, Op, Operations, among


class RangeSet:
    """A set of bytes as disjoint, non-adjacent ranges [start, end), in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Put [start, end) in."""
        if start >= end:
            return
        # Ranges that touch are taken as well, so that a sequential writer keeps one range.
        low, high = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def remove(self, start: int, end: int) -> list[tuple[int, int]]:
        """Take [start, end) out; returns what of it was in, in order."""
        low, high = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if start >= end or low >= high:
            return []
        starts, ends = self._starts[low:high], self._ends[low:high]
        left, right = (starts[0], start), (end, ends[-1])
        kept = [part for part in (left, right) if part[0] < part[1]]
        self._starts[low:high] = [part[0] for part in kept]
        self._ends[low:high] = [part[1] for part in kept]
        starts[0], ends[-1] = max(starts[0], start), min(ends[-1], end)
        return list(zip(starts, ends, strict=True))

    def ranges(self) -> list[tuple[int, int]]:
        """All ranges in order."""
        return list(zip(self._starts, self._ends, strict=True))


def lost_ranges(ops: Operations, dev: int, ino: int) -> I64:
    """Byte ranges [start, end) of one file that were acknowledged and are gone: (k, 2), disjoint, in order.

    Gone is a byte that an acknowledged write put there, that a later change of the size cut off, and that no
    acknowledged write put there again before the trace ended. A write still in flight at the end mends
    nothing: nobody was told that it would.
    """
    mine = ops[(ops["dev"] == dev) & (ops["ino"] == ino)]
    what = effects(mine)
    writes = among(mine["op"], WRITES) & (mine["result"] > 0) & ended(mine)
    cuts = _size_changes(mine, what)
    ends = range_ends(mine["offset"], mine["result"])
    applied = np.where(was_seen(what.t_applied), what.t_applied, mine["t_end"])
    order = np.lexsort((mine["seq_end"], applied))
    order = order[(writes | cuts)[order]]
    writes, cuts = writes[order], cuts[order]
    start, end = mine["offset"][order], ends[order]
    size = np.where(what.cut_to < MAX_BYTE, what.cut_to, what.size_end)[order]
    # Most traces lose nothing, and then every size is at or behind the end of all that was written so far.
    written_so_far = np.maximum.accumulate(np.where(writes, end, 0))
    cuts &= size < written_so_far
    if not cuts.any():
        return np.empty((0, 2), np.int64)
    matters = cuts | (writes & (end > size[cuts].min()))
    lost, present = RangeSet(), RangeSet()
    columns = (cuts[matters], start[matters], end[matters], size[matters])
    for is_cut, low, high, new_size in zip(*(column.tolist() for column in columns), strict=True):
        if is_cut:
            for part in present.remove(new_size, MAX_BYTE):
                lost.add(*part)
        else:
            present.add(low, high)
            lost.remove(low, high)
    return np.array(lost.ranges(), np.int64).reshape(-1, 2)


def _size_changes(ops: Operations, what: Effects) -> npt.NDArray[np.bool_]:
    """Which operations (n,) set the size of their file and succeeded, and are known to have set it to what.

    That is what was seen while it was set (`Effects.cut_to`), or else the size at the end.

    A fallocate whose size is the same at both ends set nothing: counted, it would cut off a write that raised
    the size between the moment the size was read and the moment the end was stamped.
    """
    op = ops["op"]
    fallocate = (op == Op.FALLOCATE) & ((ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0)
    seen_to_cut = what.cut_to < MAX_BYTE
    fallocate &= (ops["size_begin"] != ops["size_end"]) | seen_to_cut
    # An emulated fallocate is its truncate where the kernel saw that one; else the mark has to stand for it.
    emulated = (op == Op.MARK_FALLOCATE) & ~what.truncated
    kind = fallocate | emulated | (op == Op.TRUNCATE)
    known = (ops["size_end"] != NONE_SIZE) | seen_to_cut
    return np.asarray(kind & (ops["result"] == 0) & ended(ops) & known)
