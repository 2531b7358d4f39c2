"""Who waited for whom: pairs of operations of a trace, found in three readings of a few of its columns.

A mark_wait says that one tracked request waited for another one. What is drawn leads from the operation of the latter
to that of the former: from a zero-write's fallocate to the write that it delayed. A request that did nothing in the
kernel stands for itself.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.operations import MARKS, Op
from tracer.stored import Stored

U64 = npt.NDArray[np.uint64]

_NONE = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True)
class Flows:
    """Ends of flows (n,), two each: at which operation (its seq_begin), sorted; and of which flow."""

    at: U64
    flow: U64
    waits: int
    """Marks that there are; those of which an end is not in the trace have no flow."""

    def of(self, seq_begin: U64) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For operations (k,): where their flows begin in `flow`, and how many they are."""
        first = np.searchsorted(self.at, seq_begin, "left")
        return first, np.searchsorted(self.at, seq_begin, "right") - first


def find(trace: Stored, first_id: int) -> Flows:
    """The flows of a trace; their ids count from `first_id`."""
    waiting, awaited = _waits(trace)
    requests = np.unique(np.concatenate([waiting, awaited]))
    anchors = _anchors(trace, requests)
    ends = [anchors[np.searchsorted(requests, one)] for one in (awaited, waiting)]
    known = (ends[0] != _NONE) & (ends[1] != _NONE) & (ends[0] != ends[1])
    count = int(known.sum())
    ids = np.arange(first_id, first_id + count, dtype=np.uint64)
    at = np.concatenate([end[known] for end in ends])
    order = np.argsort(at, kind="stable")
    return Flows(at[order], np.concatenate([ids, ids])[order], len(waiting))


def _waits(trace: Stored) -> tuple[U64, U64]:
    parts: list[tuple[U64, U64]] = [(np.empty(0, np.uint64), np.empty(0, np.uint64))]
    for group in trace.groups:
        if group.may_hold(Op.MARK_WAIT):
            columns = trace.read(group, ("op", "request", "result"))
            mine = (columns["op"] == Op.MARK_WAIT) & (columns["result"] > 0) & (columns["request"] != 0)
            parts.append((columns["request"][mine], columns["result"][mine].astype(np.uint64)))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _anchors(trace: Stored, requests: U64) -> U64:
    """For requests (r,), sorted: the seq_begin of the first operation of each, or of its mark, or _NONE."""
    real = np.full(len(requests), _NONE)
    marked = real.copy()
    if not len(requests):
        return real
    for group in trace.groups:
        columns = trace.read(group, ("op", "request", "seq_begin"))
        place = np.searchsorted(requests, columns["request"])
        there = requests[np.minimum(place, len(requests) - 1)] == columns["request"]
        marks = np.isin(columns["op"], MARKS) & (columns["op"] != Op.MARK_FALLOCATE)
        for which, target in (
            (there & ~marks, real),
            (there & (columns["op"] == Op.MARK_REQUEST), marked),
        ):
            np.minimum.at(target, place[which], columns["seq_begin"][which])
    return np.where(real != _NONE, real, marked)
