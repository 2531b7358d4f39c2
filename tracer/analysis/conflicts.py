"""Which pairs of a zero-write and a write behind it a run exercised, and how far the kernel saw them apart.

A *conflict* is a pair that the workload asked for at the same time and that the strategy had to keep apart. Where the
strategy issues zero-writes, the driver's wait marks show such pairs: one of the two waited for the other. Where it
issues none, a pair counts if the control with the same seed exposed it and both guest requests were in flight together
here, too.
"""

from collections.abc import Set

import numpy as np
import numpy.typing as npt

from blockstack.journal import GUEST_SHIFT, RequestFlag
from tracer.analysis.overlaps import I64, range_ends
from tracer.analysis.rules import RulePairs
from tracer.operations import WRITES, Op, Operations

U64 = npt.NDArray[np.uint64]

GuestPairs = frozenset[tuple[int, int]]
"""Pairs of guest requests: the one whose cluster is zeroed, the one that writes behind it."""


def waited(ops: Operations) -> U64:
    """Conflicts by wait marks: ids of tracked requests (zero-write, write behind it), shape (k, 2), each pair once.

    Counted only if both went on to the kernel and succeeded there.
    """
    none = np.empty((0, 2), np.uint64)
    requests = ops[ops["op"] == Op.MARK_REQUEST]
    waits = ops[(ops["op"] == Op.MARK_WAIT) & (ops["seq_end"] != 0)]
    if not len(requests) or not len(waits):
        return none
    requests = requests[np.argsort(requests["request"])]
    one = _rows(requests, waits["request"])
    other = _rows(requests, waits["result"].astype(np.uint64))
    known = (one >= 0) & (other >= 0)
    one, other = one[known], other[known]
    zero, write = np.concatenate([one, other]), np.concatenate([other, one])
    flags, ends = requests["flags"], range_ends(requests["offset"], requests["length"])
    post_eof = RequestFlag.ZERO_WRITE | RequestFlag.POST_EOF
    conflict = (flags[zero] & post_eof) == post_eof
    conflict &= (flags[write] & (RequestFlag.ZERO_WRITE | RequestFlag.READ)) == 0
    conflict &= ends[write] > ends[zero]
    ids = requests["request"]
    pairs = np.unique(np.stack([ids[zero[conflict]], ids[write[conflict]]], axis=1), axis=0)
    done = ops["result"] >= 0
    zeroed = ops["request"][done & np.isin(ops["op"], (Op.FALLOCATE, Op.MARK_FALLOCATE))]
    written = ops["request"][done & np.isin(ops["op"], WRITES)]
    return np.asarray(pairs[np.isin(pairs[:, 0], zeroed) & np.isin(pairs[:, 1], written)], np.uint64)


def guest_pairs(ops: Operations, pairs: RulePairs) -> GuestPairs:
    """The guest requests behind exposed pairs; a pair within one guest request is left out."""
    first = ops["request"][pairs.first] >> np.uint64(GUEST_SHIFT)
    second = ops["request"][pairs.second] >> np.uint64(GUEST_SHIFT)
    return frozenset((a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True) if a and b and a != b)


def together(ops: Operations, wanted: Set[tuple[int, int]]) -> int:
    """How many of the guest pairs `wanted` were in flight together in this trace."""
    writes = ops[(ops["op"] == Op.MARK_GUEST_WRITE) & (ops["result"] > 0)]
    numbers = writes["request"] >> np.uint64(GUEST_SHIFT)
    spans = {
        number: (begin, end)
        for number, begin, end in zip(
            numbers.tolist(), writes["seq_begin"].tolist(), writes["seq_end"].tolist(), strict=True
        )
    }
    count = 0
    for first, second in wanted:
        a, b = spans.get(first), spans.get(second)
        count += a is not None and b is not None and a[0] < b[1] and b[0] < a[1]
    return count


def min_gap_ns(ops: Operations, conflicts: U64, pairs: RulePairs) -> int | None:
    """The smallest time between a zero-write and a write behind it, in ns; negative where they overlapped.

    Over the conflicts (k, 2) as the kernel (or the driver's clock) saw their operations, and the pairs of the rule.
    None where there are neither.
    """
    gaps = []
    if len(conflicts):
        zero_begin, zero_end = _spans(ops, (Op.FALLOCATE, Op.MARK_FALLOCATE), conflicts[:, 0])
        write_begin, write_end = _spans(ops, WRITES, conflicts[:, 1])
        gaps.append(np.maximum(zero_begin - write_end, write_begin - zero_end))
    ended = (ops["seq_end"][pairs.first] != 0) & (ops["seq_end"][pairs.second] != 0)
    first, second = ops[pairs.first[ended]], ops[pairs.second[ended]]
    gaps.append(np.maximum(first["t_begin"] - second["t_end"], second["t_begin"] - first["t_end"]))
    smallest = np.concatenate(gaps)
    return int(smallest.min()) if len(smallest) else None


def _rows(requests: Operations, ids: U64) -> I64:
    """Row of each id in `requests`, which is sorted by id; -1 where it is not there."""
    at = np.searchsorted(requests["request"], ids)
    found = requests["request"][np.minimum(at, len(requests) - 1)] == ids
    return np.where(found, at, -1).astype(np.int64)


def _spans(ops: Operations, kinds: tuple[Op, ...], ids: U64) -> tuple[I64, I64]:
    """First begin and last end (ns) of the operations of `kinds` with each of the request ids (k,)."""
    rows = ops[np.isin(ops["op"], kinds) & (ops["seq_end"] != 0)]
    known, inverse = np.unique(rows["request"], return_inverse=True)
    begin = np.full(len(known), np.iinfo(np.int64).max, np.int64)
    end = np.zeros(len(known), np.int64)
    np.minimum.at(begin, inverse, rows["t_begin"])
    np.maximum.at(end, inverse, rows["t_end"])
    at = np.searchsorted(known, ids)
    return begin[at], end[at]
