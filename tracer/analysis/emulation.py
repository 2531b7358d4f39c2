"""Which system calls are steps of an emulated fallocate (`legacy-xfs`), and what they say about its effect.

The emulation samples the size, waits, allocates with KEEP_SIZE and truncates to the sampled new size:
the driver marks the whole as one `MARK_FALLOCATE`, and the kernel sees the steps. The steps are not
operations that a driver chose to run, so rules do not judge them; but what they did to the size is
evidence from the kernel.

Rules see neither the steps nor this module: the engine leaves the steps out, and hands what an operation did to its
file's size to them as columns of their own (`DERIVED`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.overlaps import I64, MAX_BYTE, dense_groups, overlapping, range_ends, sequence_ends
from tracer.operations import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    NONE_SIZE,
    Op,
    Operations,
)

DERIVED = {
    "size_before": "size_before",
    "size_after": "size_end",
    "t_effect": "t_applied",
    "cut_to": "cut_to",
    "truncated": "truncated",
}
"""Columns that rules may read beside those of a trace, each with the field of `Effects` that says what it is."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What every operation of a trace (n,) did to its file's size, steps folded into what they emulate."""

    is_step: npt.NDArray[np.bool_]
    """True for a FALLOCATE or TRUNCATE that is a step of an emulated fallocate."""
    truncated: npt.NDArray[np.bool_]
    """True for a MARK_FALLOCATE with a TRUNCATE step whose final size was seen."""
    size_before: I64
    """i_size just before the size was set, of `truncated` ones (NONE_SIZE: not seen); else MAX_BYTE."""
    size_end: I64
    """i_size at the end, from the TRUNCATE step where there is one; NONE_SIZE: not seen."""
    t_applied: I64
    """ns when it took effect, from the TRUNCATE step where that was seen; 0: not seen."""
    cut_to: I64
    """The size to which it has cut its file for certain, whatever `size_end` says; MAX_BYTE: that was not seen."""


def effects(ops: Operations) -> Effects:
    """Fold the steps of emulated fallocates in ops (n,) into them.

    A step has the same inode and the same nonzero `request` as the mark, and lies within it. Of several
    TRUNCATE steps the last one counts.
    """
    result = Effects(
        is_step=np.zeros(len(ops), np.bool_),
        truncated=np.zeros(len(ops), np.bool_),
        size_before=np.full(len(ops), MAX_BYTE, np.int64),
        size_end=ops["size_end"].copy(),
        t_applied=ops["t_applied"].copy(),
        cut_to=_cut_to(ops),
    )
    linked = ops["request"] != 0
    marks = np.flatnonzero(linked & (ops["op"] == Op.MARK_FALLOCATE))
    calls = np.flatnonzero(linked & np.isin(ops["op"], (Op.FALLOCATE, Op.TRUNCATE)))
    if not len(marks) or not len(calls):
        return result
    rows = np.concatenate([marks, calls])
    groups = dense_groups(ops["dev"][rows], ops["ino"][rows], ops["request"][rows])
    begin, end = ops["seq_begin"], sequence_ends(ops)
    for i, j in overlapping(
        begin[marks],
        end[marks],
        begin[calls],
        end[calls],
        group_a=groups[: len(marks)],
        group_b=groups[len(marks) :],
    ):
        mark, call = marks[i], calls[j]
        within = (begin[mark] <= begin[call]) & (end[call] <= end[mark])
        result.is_step[call[within]] = True
        seen = within & (ops["op"][call] == Op.TRUNCATE) & (ops["size_end"][call] != NONE_SIZE)
        _fold_truncates(ops, mark[seen], call[seen], result)
    return result


def resolved(ops: Operations) -> Columns:
    """A whole trace, ops (n,) in any order, as rules see it: without steps, with all columns."""
    what = effects(ops)
    derived = {name: getattr(what, field) for name, field in DERIVED.items()}
    arrays = {name: ops[name] for name in ops.dtype.names or ()} | derived | {"row": np.arange(len(ops))}
    return Columns(arrays).take(~what.is_step)


def _cut_to(ops: Operations) -> I64:
    """`Effects.cut_to` of every operation of ops (n,) by itself.

    The kernel was seen to set a size (bpf/applied.c) and, just before that, a larger one: a later write may raise the
    size again before the operation ends, but what was between the two is gone.
    """
    op, flags = ops["op"], ops["flags"]
    # What these two set depends on the size they find; to collapse a file is to make it shorter.
    moves = FALLOC_FL_KEEP_SIZE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE
    sets_its_end = (op == Op.FALLOCATE) & ((flags & moves) == 0)
    size = np.where(op == Op.TRUNCATE, ops["offset"], range_ends(ops["offset"], ops["length"]))
    done = (ops["result"] == 0) & (ops["seq_end"] != 0) & (ops["t_applied"] != 0)
    cuts = ((op == Op.TRUNCATE) | sets_its_end) & done & (ops["size_applied"] > size)
    return np.where(cuts, size, MAX_BYTE)


def _fold_truncates(ops: Operations, mark: I64, call: I64, result: Effects) -> None:
    """Give each mark (k,) the effect of its TRUNCATE step call (k,)."""
    # Later steps last: where an index occurs twice, numpy keeps the last value assigned.
    order = np.argsort(ops["seq_begin"][call], kind="stable")
    mark, call = mark[order], call[order]
    result.truncated[mark] = True
    seen = ops["size_applied"][call]
    result.size_before[mark] = np.where(seen != NONE_SIZE, seen, ops["size_begin"][call])
    result.size_end[mark] = ops["size_end"][call]
    result.cut_to[mark] = result.cut_to[call]
    applied = ops["t_applied"][call]
    result.t_applied[mark] = np.where(applied != 0, applied, result.t_applied[mark])
