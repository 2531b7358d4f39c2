"""Which system calls are steps of an emulated fallocate (`legacy-xfs`), and what they say about its effect.

The emulation samples the size, waits, allocates with KEEP_SIZE and truncates to the sampled new size:
the driver marks the whole as one `MARK_FALLOCATE`, and the kernel sees the steps. The steps are not
operations that a driver chose to run, so rules do not judge them; but what they did to the size is
evidence from the kernel.

Rules see neither the steps nor this module: the engine leaves the steps out, and hands what an operation did to its
file's size to them as columns of their own (`DERIVED`).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.completeness import all_shortenings_are_seen
from tracer.analysis.overlaps import (
    FOREVER,
    I64,
    MAX_BYTE,
    U64,
    dense_groups,
    ended,
    overlapping,
    range_ends,
    sequence_ends,
    was_seen,
)
from tracer.analysis.sides import took_place
from tracer.operations import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    NONE_SIZE,
    Op,
    Operations,
    among,
    in_columns,
)
from tracer.stored import GROUP_SHIFT, Stored

DERIVED: dict[str, tuple[str, tuple[str, ...]]] = {
    "size_before": ("size_before", ()),
    "size_after": ("size_end", ("size_end",)),
    "t_effect": ("t_applied", ("t_applied",)),
    "cut_to": ("cut_to", ("flags", "offset", "length", "result", "t_applied", "size_applied")),
    "truncated": ("truncated", ()),
    "shortened_until": ("shortened_until", ("dev", "ino")),
}
"""Columns that rules may read beside those of a trace: the field of `Effects` that says what it is, and the columns
that it takes beside `seq_end` and `op`."""


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
    shortened_until: U64
    """`Shortening.until`."""


Inode = tuple[int, int]
"""st_dev, inode."""


@dataclass(frozen=True, slots=True)
class Shortening:
    """The operations of a trace that may make their file shorter on purpose: truncates that are
    no step of an emulated fallocate, and collapse ranges. Of files with fallocates that set a size: others need none.
    """

    files: dict[Inode, tuple[U64, U64]]
    """Their begins (n,), rising; and (n + 1,) until when the first 0, 1, ... of them went on."""
    is_known: bool = True
    """False: nobody has looked for them, so that there may be one all the time."""

    @classmethod
    def of(
        cls,
        ops: Mapping[str, npt.NDArray[Any]] | Operations,
        is_step: npt.NDArray[np.bool_],
        files: Collection[Inode],
    ) -> "Shortening":
        """Those on some files among ops (n,). Reads `SHORTENING_COLUMNS`."""
        at = np.flatnonzero(_shortens(ops) & ~is_step & took_place(ops))
        at = at[np.argsort(ops["seq_begin"][at], kind="stable")]
        begins, ends = ops["seq_begin"][at], sequence_ends(ops)[at]
        return cls({file: (begins[rows], _so_far(ends[rows])) for file, rows in _by_file(ops, at) if file in files})

    def until(self, ops: Mapping[str, npt.NDArray[Any]] | Operations) -> U64:
        """When the last of those ended that began before each operation (n,) did, if that is a fallocate: 0, none.

        Where nobody has looked, one may go on FOREVER.
        """
        ends = sequence_ends(ops)
        if not self.is_known:
            return np.full(len(ends), FOREVER)
        found = np.zeros(len(ends), np.uint64)
        if not self.files:
            return found
        at = np.flatnonzero(among(ops["op"], (Op.FALLOCATE,)))
        for file, rows in _by_file(ops, at):
            if file in self.files:
                begins, until = self.files[file]
                found[at[rows]] = until[np.searchsorted(begins, ends[at[rows]])]
        return found


UNKNOWN = Shortening({}, is_known=False)
"""Of a trace that does not tell."""

SHORTENING_COLUMNS = ("op", "dev", "ino", "seq_begin", "seq_end", "flags", "result")
"""Columns of a trace from which `Shortening` is made."""


def _shortens(ops: Mapping[str, npt.NDArray[Any]] | Operations) -> npt.NDArray[np.bool_]:
    collapses = (ops["op"] == Op.FALLOCATE) & ((ops["flags"] & FALLOC_FL_COLLAPSE_RANGE) != 0)
    return np.asarray((ops["op"] == Op.TRUNCATE) | collapses)


def _sizing_files(ops: Mapping[str, npt.NDArray[Any]] | Operations) -> set[Inode]:
    """Files with fallocates that may set their size. Reads op, flags, dev, ino."""
    at = np.flatnonzero((ops["op"] == Op.FALLOCATE) & ((ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0))
    return {file for file, _ in _by_file(ops, at)}


def _by_file(
    ops: Mapping[str, npt.NDArray[Any]] | Operations, at: npt.NDArray[np.int64]
) -> Iterator[tuple[Inode, npt.NDArray[np.int64]]]:
    """Each file of the operations `at` (k,), and which of those are on it, in their order."""
    if not len(at):
        return
    groups = dense_groups(ops["dev"][at], ops["ino"][at])
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        yield (int(ops["dev"][at[rows[0]]]), int(ops["ino"][at[rows[0]]])), rows


def _so_far(ends: U64) -> U64:
    return np.concatenate([np.zeros(1, np.uint64), np.maximum.accumulate(ends)])


def effects(ops: Operations, shortenings_are_known: bool = True) -> Effects:
    """Fold the steps of emulated fallocates in ops (n,) into them.

    A step has the same inode and the same nonzero `request` as the mark, and lies within it. Of several
    TRUNCATE steps the last one counts.
    """
    count = len(ops)
    result = Effects(
        **{name: _alone(name, ops, count) for name in ("is_step", *(field for field, _ in DERIVED.values()))}
    )
    _find_steps(ops, result)
    shortening = Shortening.of(ops, result.is_step, _sizing_files(ops)) if shortenings_are_known else UNKNOWN
    result.shortened_until[:] = shortening.until(ops)
    return result


def _find_steps(ops: Operations, result: Effects) -> None:
    """Mark the steps of emulated fallocates, and give these the effects of theirs."""
    linked = ops["request"].astype(np.bool_)
    marks = np.flatnonzero(linked & among(ops["op"], (Op.MARK_FALLOCATE,)))
    calls = np.flatnonzero(linked & among(ops["op"], (Op.FALLOCATE, Op.TRUNCATE)))
    if not len(marks) or not len(calls):
        return
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


def resolved(ops: Operations, shortenings_are_known: bool = True) -> Columns:
    """A whole trace, ops (n,) in any order, as rules see it: without steps, with all columns."""
    what = effects(ops, shortenings_are_known)
    derived = {name: getattr(what, field) for name, (field, _) in DERIVED.items()}
    return Columns({**in_columns(ops), **derived, "row": np.arange(len(ops))}).take(~what.is_step)


@dataclass(frozen=True, slots=True)
class Emulated:
    """What has to be known of a trace on disk before any part of it is analysed, and is held in memory: its emulated
    fallocates, the work of the driver under test, some thousands in a run of `verify`; and what shortens a file that is
    extended by fallocates.
    """

    rows: I64
    """Numbers in the trace of their marks and steps, rising."""
    what: Effects
    """Of those."""
    shortening: Shortening

    def resolve(self, ops: Mapping[str, npt.NDArray[Any]], derived: Collection[str]) -> dict[str, npt.NDArray[Any]]:
        """Operations (n,) as rules see them: without steps, with these columns of `DERIVED`."""
        rows = ops["row"]
        columns = dict(ops)
        at = np.searchsorted(self.rows, rows)
        mine = np.flatnonzero(self.rows[np.minimum(at, len(self.rows) - 1)] == rows) if len(self.rows) else at[:0]
        at = at[mine]
        for name in derived:
            field, _ = DERIVED[name]
            if name == "shortened_until":
                columns[name] = self.shortening.until(ops)
                continue
            columns[name] = _alone(field, ops, len(rows))
            columns[name][mine] = getattr(self.what, field)[at]
        if not len(mine):
            return columns
        kept = np.ones(len(rows), np.bool_)
        kept[mine] = ~self.what.is_step[at]
        return {name: column[kept] for name, column in columns.items()}


def emulated(trace: Stored) -> Emulated:
    """Find them. Reads one column of the row groups that may hold one. Raises TraceError."""
    marked = any(
        np.any(trace.read(group, ("op",), check=False)["op"] == Op.MARK_FALLOCATE)
        for group in trace.groups
        if group.may_hold(Op.MARK_FALLOCATE)
    )
    kinds = (Op.MARK_FALLOCATE, Op.FALLOCATE, Op.TRUNCATE)
    groups = [group for group in trace.groups if marked and any(map(group.may_hold, kinds))]
    found = [np.empty(0, np.int64)]
    for group in groups:
        ops = trace.read(group, ("op", "request"))
        wanted = among(ops["op"], kinds) & ops["request"].astype(np.bool_)
        found.append((group.number << GROUP_SHIFT) + np.flatnonzero(wanted))
    rows = np.concatenate(found)
    what = effects(trace.rows(rows.tolist()))
    return Emulated(rows, what, _shortening(trace, rows[what.is_step]))


def _shortening(trace: Stored, steps: I64) -> Shortening:
    """Of a trace on disk; reads row groups only if there are fallocates. steps: row numbers of those to leave out."""
    if not all_shortenings_are_seen(trace.meta):
        return UNKNOWN
    files: set[Inode] = set()
    for group in trace.groups:
        if group.may_hold(Op.FALLOCATE):
            files |= _sizing_files(trace.read(group, ("op", "flags", "dev", "ino"), check=False))
    found = Shortening({})
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for group in trace.groups if files else ():
        if not group.may_hold(Op.TRUNCATE) and not group.may_hold(Op.FALLOCATE):
            continue
        ops = trace.read(group, ("op", "flags", "dev", "ino"), check=False)
        at = np.flatnonzero(_shortens(ops))
        at = at[~np.isin((group.number << GROUP_SHIFT) + at, steps)]
        rows = [at[those] for file, those in _by_file(ops, at) if file in files]
        if rows:
            ops, chosen = trace.read(group, SHORTENING_COLUMNS), np.concatenate(rows)
            parts.append({name: ops[name][chosen] for name in SHORTENING_COLUMNS})
    if parts:
        ops = {name: np.concatenate([part[name] for part in parts]) for name in SHORTENING_COLUMNS}
        found = Shortening.of(ops, np.zeros(len(ops["op"]), np.bool_), files)
    return found


def _alone(field: str, ops: Mapping[str, npt.NDArray[Any]] | Operations, count: int) -> npt.NDArray[Any]:
    """A field of `Effects` for operations (count,) that are not emulated."""
    match field:
        case "shortened_until":
            return np.zeros(count, np.uint64)
        case "is_step" | "truncated":
            return np.zeros(count, np.bool_)
        case "size_before":
            return np.full(count, MAX_BYTE, np.int64)
        case "cut_to":
            return _cut_to(ops)
        case _:
            return np.array(ops[field])


def _cut_to(ops: Mapping[str, npt.NDArray[Any]] | Operations) -> I64:
    """`Effects.cut_to` of every operation of ops (n,) by itself.

    The kernel was seen to set a size (bpf/applied.c) and, just before that, a larger one: a later write may raise the
    size again before the operation ends, but what was between the two is gone.
    """
    at = np.flatnonzero(among(ops["op"], (Op.FALLOCATE, Op.TRUNCATE)))
    op, flags, offset, length = (ops[name][at] for name in ("op", "flags", "offset", "length"))
    # What these two set depends on the size they find; to collapse a file is to make it shorter.
    moves = FALLOC_FL_KEEP_SIZE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE
    sets_its_end = (op == Op.FALLOCATE) & ((flags & moves) == 0)
    size = np.where(op == Op.TRUNCATE, offset, range_ends(offset, length))
    done = (ops["result"][at] == 0) & ended(ops)[at] & was_seen(ops["t_applied"])[at]
    cuts = ((op == Op.TRUNCATE) | sets_its_end) & done & (ops["size_applied"][at] > size)
    sizes = np.full(len(ops["op"]), MAX_BYTE, np.int64)
    sizes[at[cuts]] = size[cuts]
    return sizes


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
    result.t_applied[mark] = np.where(was_seen(applied), applied, result.t_applied[mark])
