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
from tracer.analysis.overlaps import I64, ended, overlapping, range_ends, sequence_ends
from tracer.analysis.rules import RulePairs
from tracer.operations import FALLOC_FL_KEEP_SIZE, WRITES, Op, Operations

U64 = npt.NDArray[np.uint64]

GuestPairs = frozenset[tuple[int, int]]
"""Pairs of guest requests: the one whose cluster is zeroed, the one that writes behind it."""


def waited(ops: Operations) -> U64:
    """Conflicts by wait marks: ids of tracked requests (zero-write, write behind it), shape (k, 2), each pair once.

    Counted only if both went on to the kernel and succeeded there.
    """
    none = np.empty((0, 2), np.uint64)
    requests = ops[ops["op"] == Op.MARK_REQUEST]
    waits = ops[(ops["op"] == Op.MARK_WAIT) & ended(ops)]
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


def asked_together(ops: Operations) -> U64:
    """Conflicts by the guest's own marks: ids of tracked requests (zero-write, write behind it), shape (k, 2).

    Of two guest requests that were in flight together, one had a fallocate that sets sizes, the other one a write that
    ends behind it: what is between them is the driver's doing, or that the file has no size to lose.
    """
    sets_size = (ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0
    zeroes = (ops["result"] >= 0) & sets_size & np.isin(ops["op"], (Op.FALLOCATE, Op.MARK_FALLOCATE))
    return _behind_one_another(ops, ops[zeroes])


def grown_together(ops: Operations, *, of_reads: bool = False) -> U64:
    """Conflicts that would be, had the first been zeroed before it was written: ids (write, write behind it), (k, 2).

    Of two guest requests that were in flight together, one had a write that ends behind all that had been asked for
    until then, the other one a write that ends behind that. A zero-write for the first would have been post-EOF.
    """
    written = ops[np.isin(ops["op"], (*WRITES, Op.FALLOCATE)) & (ops["result"] >= 0)]
    written = written[np.argsort(written["seq_begin"])]
    ends = range_ends(written["offset"], written["length"])
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]]) if len(ends) else ends
    wanted = (ends > before) & np.isin(written["op"], WRITES)
    if of_reads:
        reads = ops[(ops["op"] == Op.MARK_GUEST_WRITE) & ((ops["flags"] & RequestFlag.READ) != 0)]
        wanted &= np.isin(written["request"] >> np.uint64(GUEST_SHIFT), reads["request"] >> np.uint64(GUEST_SHIFT))
    return _behind_one_another(ops, written[wanted])


def _behind_one_another(ops: Operations, first: Operations) -> U64:
    """Request ids (k, 2) of operations of `first` and successful writes that end behind them, each pair once, whose
    guest requests are two that were in flight together.
    """
    none = np.empty((0, 2), np.uint64)
    guests = ops[(ops["op"] == Op.MARK_GUEST_WRITE) & (ops["result"] > 0)]
    guests = guests[np.argsort(guests["request"])]
    writes = ops[(ops["result"] > 0) & np.isin(ops["op"], WRITES)]
    if not (len(guests) and len(first) and len(writes)):
        return none
    shift = np.uint64(GUEST_SHIFT)
    of_first = _rows(guests, first["request"] >> shift << shift)
    of_write = _rows(guests, writes["request"] >> shift << shift)
    first, of_first = first[of_first >= 0], of_first[of_first >= 0]
    writes, of_write = writes[of_write >= 0], of_write[of_write >= 0]
    first_ends, write_ends = (range_ends(some["offset"], some["length"]) for some in (first, writes))
    begin, end = guests["seq_begin"], sequence_ends(guests)
    found = [none]
    for i, j in overlapping(begin[of_first], end[of_first], begin[of_write], end[of_write]):
        wanted = (write_ends[j] > first_ends[i]) & (of_first[i] != of_write[j])
        found.append(np.stack([first["request"][i[wanted]], writes["request"][j[wanted]]], axis=1))
    return np.asarray(np.unique(np.concatenate(found), axis=0), np.uint64)


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
    over = ended(ops[pairs.first]) & ended(ops[pairs.second])
    first, second = ops[pairs.first[over]], ops[pairs.second[over]]
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
    rows = ops[np.isin(ops["op"], kinds) & ended(ops)]
    known, inverse = np.unique(rows["request"], return_inverse=True)
    begin = np.full(len(known), np.iinfo(np.int64).max, np.int64)
    end = np.zeros(len(known), np.int64)
    np.minimum.at(begin, inverse, rows["t_begin"])
    np.maximum.at(end, inverse, rows["t_end"])
    at = np.searchsorted(known, ids)
    return begin[at], end[at]
