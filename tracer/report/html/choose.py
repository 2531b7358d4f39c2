"""Which operations of a recording a page holds one by one, and what it says of the others.

A recording that fits is held whole. Of a larger one, each file that is shown has *stretches* in which every operation
is held, around each hazard that is told (around its begin where there is none); the rest are counted in a grid of time
and offset. The trace is read a row group at a time, twice: memory does not grow with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from blockstack.journal import GUEST_SHIFT
from tracer.analysis.hazards import Hazard
from tracer.operations import NONE_SIZE, OPERATION, Columns, Op, Operations
from tracer.report.html.pack import I64, block
from tracer.stored import GROUP_SHIFT, Stored
from tracer.trace import as_dict
from tracer.trace_columns import LAST_NUMBER, NAMES

MAX_OPERATIONS = 150_000
"""Held one by one in a page: some 10 bytes each."""

MAX_FILES = 24
"""Files of a recording that are shown even if no hazard is told of them."""

MAX_BINS = 150_000
"""Places of the grid, of all files of a page."""

MAX_CONTEXT = 5_000
"""Operations of the same requests as those of a hazard: a handful each, unless a trace is made to have more."""

NOT_DRAWN = (Op.MARK_GUEST_WRITE, Op.MARK_REQUEST)
"""Marks without a box of their own. The offsets of a guest's write are those of its disk, not of the file; a request
lies where its system calls lie, and would double a page. Accounts tell both."""

LAYERS = {
    "write": (Op.AIO_WRITE, Op.URING_WRITE, Op.DIRECT_WRITE, Op.BUFFERED_WRITE),
    "fallocate": (Op.FALLOCATE, Op.MARK_FALLOCATE),
    "truncate": (Op.TRUNCATE,),
    "wait": (Op.MARK_WAIT,),
}
"""What can be shown and hidden as one; the order is that of the numbers in the grid."""

_LAYER_OF = np.full(256, 255, np.int64)
for _number, _ops in enumerate(LAYERS.values()):
    _LAYER_OF[list(_ops)] = _number

COUNTED = ("op", "t_begin", "t_end", "seq_end", "offset", "length", "size_end")
"""Columns that a grid is made of."""

FileId = tuple[int, int]
"""st_dev and inode number."""


@dataclass
class Grid:
    """Counts of the operations of one file by time, offset and layer, and the sizes that were seen at these times."""

    begin_ns: int
    span_ns: int
    span_bytes: int
    times: int
    offsets: int
    counts: npt.NDArray[np.int64] = field(init=False)
    smallest: I64 = field(init=False)
    largest: I64 = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.times * self.offsets * len(LAYERS), np.int64)
        self.smallest = np.full(self.times, np.iinfo(np.int64).max)
        self.largest = np.full(self.times, NONE_SIZE)

    def add(self, ops: Operations | Columns) -> None:
        """Count operations (n,), by their columns `COUNTED`: each once, at its begin and the middle of its range."""
        time = self._time(ops["t_begin"])
        middle = (ops["offset"] + ops["length"] // 2).astype(np.float64)
        place = np.minimum((middle * (self.offsets / self.span_bytes)).astype(np.int64), self.offsets - 1)
        index = (_LAYER_OF[ops["op"]] * self.times + time) * self.offsets + place
        self.counts += np.bincount(index, minlength=len(self.counts))
        seen = (ops["size_end"] != NONE_SIZE) & (ops["seq_end"] != 0)
        ends = self._time(ops["t_end"][seen])
        np.minimum.at(self.smallest, ends, ops["size_end"][seen])
        np.maximum.at(self.largest, ends, ops["size_end"][seen])

    def packed(self) -> str:
        """As a block: the places that are not empty, and behind them the sizes by time."""
        filled = np.flatnonzero(self.counts)
        sizes = np.flatnonzero(self.largest != NONE_SIZE)
        header = {
            "times": self.times,
            "offsets": self.offsets,
            "span_bytes": self.span_bytes,
            "span_ns": self.span_ns,
            "layers": list(LAYERS),
            "size_count": len(sizes),
        }
        index, count = (
            np.concatenate([some, np.zeros(len(sizes), np.int64)])
            for some in (np.diff(filled, prepend=0), self.counts[filled])
        )
        at, low, high = (
            np.concatenate([np.zeros(len(filled), np.int64), some])
            for some in (sizes, self.smallest[sizes], self.largest[sizes])
        )
        return block(header, {"steps": index, "count": count, "time": at, "smallest": low, "largest": high})

    def _time(self, times: I64) -> I64:
        scaled = (times - self.begin_ns).astype(np.float64) * (self.times / self.span_ns)
        return np.clip(scaled.astype(np.int64), 0, self.times - 1)


@dataclass(slots=True)
class Stretch:
    """Sequence numbers between which every operation of the file is held."""

    low: int
    high: int


@dataclass(slots=True)
class File:
    """What is shown of one file of a recording."""

    id: FileId
    operations: int
    """How many have a place in it."""
    ops: Operations
    """Those that are held, by `seq_begin`."""
    span_bytes: int
    stretches: list[Stretch] = field(default_factory=list)
    grid: Grid | None = None
    """None: all operations are held."""

    @property
    def whole(self) -> bool:
        """Whether every operation that has a place in the file is held."""
        return self.grid is None


@dataclass(slots=True)
class Shown:
    """What is shown of a recording."""

    files: list[File]
    begin_ns: int
    end_ns: int
    kinds: dict[str, int]
    """Operations of the whole recording, by kind."""
    other_files: int
    other_operations: int
    """In files that are not shown."""
    not_drawn: dict[str, int]
    """How many there are of each kind in `NOT_DRAWN`."""
    context: list[dict[str, Any]]
    """Operations of the same requests as those of the hazards' pairs, to tell their accounts."""

    @property
    def held(self) -> int:
        """Operations that the page holds one by one."""
        return sum(len(file.ops) for file in self.files)


@dataclass(slots=True)
class _Survey:
    kinds: npt.NDArray[np.int64]
    begin_ns: int
    end_ns: int
    first: int
    last: int
    counts: dict[FileId, int]
    spans: dict[FileId, int]
    context: list[int] = field(default_factory=list)
    """Numbers of operations in the trace."""


def choose(trace: Stored, hazards: Sequence[Hazard], budget: int, bins: int) -> Shown:
    """What to show of a trace, with at most about `budget` operations held. Raises TraceError."""
    survey = _survey(trace, _requests(hazards))
    wanted = list(dict.fromkeys((hazard.kind.dev, hazard.kind.ino) for hazard in hazards))
    busiest = sorted(survey.counts, key=lambda one: -survey.counts[one])
    ids = list(dict.fromkeys([*(one for one in wanted if one in survey.counts), *busiest[:MAX_FILES]]))
    files = [File(one, survey.counts[one], np.empty(0, OPERATION), survey.spans[one]) for one in ids]
    shares = fair_shares([file.operations for file in files], budget)
    large = [file for file, share in zip(files, shares, strict=True) if share < file.operations]
    for file, share in zip(files, shares, strict=True):
        if share < file.operations:
            times, offsets = _resolution(bins // len(large))
            file.grid = Grid(survey.begin_ns, survey.end_ns - survey.begin_ns + 1, file.span_bytes + 1, times, offsets)
            file.stretches = _stretches(file, [one for one in hazards if _id(one) == file.id], share, survey)
    if files:
        _fill(trace, files)
    for file, share in zip(files, shares, strict=True):
        _cut_down(file, share)
        for stretch in file.stretches:
            # Nothing lies beyond the ends of the recording.
            stretch.low = 0 if stretch.low <= survey.first else stretch.low
            stretch.high = LAST_NUMBER if stretch.high >= survey.last else stretch.high
    kinds = {Op(at).label: int(count) for at, count in enumerate(survey.kinds) if count}
    return Shown(
        files,
        survey.begin_ns,
        survey.end_ns,
        kinds,
        other_files=len(survey.counts) - len(files),
        other_operations=sum(survey.counts.values()) - sum(file.operations for file in files),
        not_drawn={op.label: int(survey.kinds[op]) for op in NOT_DRAWN if survey.kinds[op]},
        context=[as_dict(row) for row in trace.rows(survey.context)],
    )


def fair_shares(wants: Sequence[int], budget: int) -> list[int]:
    """As much of the budget as each wants, where that is not more than what is left for each of the others."""
    shares = [0] * len(wants)
    left = budget
    order = sorted(range(len(wants)), key=lambda at: wants[at])
    for done, at in enumerate(order):
        shares[at] = min(wants[at], left // (len(wants) - done))
        left -= shares[at]
    return shares


def _id(hazard: Hazard) -> FileId:
    return hazard.kind.dev, hazard.kind.ino


def _requests(hazards: Sequence[Hazard]) -> npt.NDArray[np.uint64]:
    """Tracked requests of the pairs that may be told, and the guest requests that they serve."""
    pairs = (pair for hazard in hazards for pair in (hazard.earliest, hazard.worst, hazard.latest))
    found = {row["request"] for pair in pairs for row in (pair.first, pair.second) if row["request"]}
    return np.array(
        sorted(found | {one >> GUEST_SHIFT << GUEST_SHIFT for one in found if one >> GUEST_SHIFT}), np.uint64
    )


def _survey(trace: Stored, requests: npt.NDArray[np.uint64]) -> _Survey:
    """Look at all operations once, at what it takes to choose among them."""
    survey = _Survey(np.zeros(256, np.int64), np.iinfo(np.int64).max, 0, np.iinfo(np.int64).max, 0, {}, {})
    names = (
        "seq_begin",
        "seq_end",
        "t_begin",
        "t_end",
        "op",
        "dev",
        "ino",
        "offset",
        "length",
        "size_begin",
        "request",
    )
    for group in trace.groups:
        if not group.rows:
            continue
        columns = trace.read(group, names)
        survey.kinds += np.bincount(columns["op"], minlength=256)
        survey.begin_ns = min(survey.begin_ns, int(columns["t_begin"].min()))
        survey.end_ns = max(survey.end_ns, int(np.maximum(columns["t_begin"], columns["t_end"]).max()))
        survey.first = min(survey.first, int(columns["seq_begin"].min()))
        survey.last = max(survey.last, int(np.maximum(columns["seq_begin"], columns["seq_end"]).max()))
        told = np.flatnonzero(np.isin(columns["request"], requests))[: MAX_CONTEXT - len(survey.context)]
        survey.context += [group.number << GROUP_SHIFT | row for row in told.tolist()]
        drawn = ~np.isin(columns["op"], NOT_DRAWN)
        reach = np.maximum(columns["offset"] + columns["length"], columns["size_begin"])[drawn]
        pairs = np.stack([columns["dev"][drawn], columns["ino"][drawn]], axis=1)
        ids, which = np.unique(pairs, axis=0, return_inverse=True)
        counts = np.bincount(which.ravel(), minlength=len(ids))
        spans = np.zeros(len(ids), np.int64)
        np.maximum.at(spans, which.ravel(), reach)
        for (dev, ino), count, span in zip(ids.tolist(), counts.tolist(), spans.tolist(), strict=True):
            survey.counts[dev, ino] = survey.counts.get((dev, ino), 0) + count
            survey.spans[dev, ino] = max(survey.spans.get((dev, ino), 0), span)
    survey.begin_ns = min(survey.begin_ns, survey.end_ns)
    return survey


def _resolution(places: int) -> tuple[int, int]:
    """Times and offsets of a grid of about that many places: four times as many times, both powers of two."""
    offsets = 8
    while offsets * 2 * offsets * 2 * 4 <= places and offsets < 256:
        offsets *= 2
    return offsets * 4, offsets


def _stretches(file: File, hazards: Sequence[Hazard], share: int, survey: _Survey) -> list[Stretch]:
    """Around the pairs of its hazards, as wide as its share allows if its operations are spread evenly."""
    centres = sorted(
        {_centre(pair.first, pair.second) for one in hazards for pair in (one.earliest, one.worst, one.latest)}
    )
    half = max(1, share * (survey.last - survey.first + 1) // max(1, file.operations) // (2 * max(1, len(centres))))
    if not centres:
        return [Stretch(survey.first, min(LAST_NUMBER, survey.first + 2 * half))]
    return [Stretch(max(0, centre - half), min(LAST_NUMBER, centre + half)) for centre in centres]


def _centre(first: dict[str, Any], second: dict[str, Any]) -> int:
    return int(max(first["seq_begin"], second["seq_begin"]))


def _fill(trace: Stored, files: Sequence[File]) -> None:
    """Look at all operations a second time, and keep or count them."""
    parts: dict[FileId, list[Operations]] = {file.id: [np.empty(0, OPERATION)] for file in files}
    for group in trace.groups:
        columns = trace.read(group, NAMES)
        drawn = ~np.isin(columns["op"], NOT_DRAWN)
        for file in files:
            dev, ino = (np.uint64(number) for number in file.id)
            held = np.flatnonzero(drawn & (columns["dev"] == dev) & (columns["ino"] == ino))
            if file.grid is not None and len(held):
                file.grid.add({name: columns[name][held] for name in COUNTED})
                ends = {name: columns[name][held] for name in ("seq_begin", "seq_end")}
                held = held[_in_stretches(ends, file.stretches)]
            # Only now as rows: to bring all columns of a large trace into rows takes longer than all else.
            ops = np.empty(len(held), OPERATION)
            for name in NAMES:
                ops[name] = columns[name][held]
            parts[file.id].append(ops)
    for file in files:
        ops = np.concatenate(parts.pop(file.id))
        file.ops = ops[np.argsort(ops["seq_begin"], kind="stable")]


def _in_stretches(ops: Operations | Columns, stretches: Iterable[Stretch]) -> npt.NDArray[np.bool_]:
    """Which of ops (n,) are in flight somewhere in there."""
    begin = ops["seq_begin"]
    end = np.where(ops["seq_end"] == 0, np.uint64(LAST_NUMBER), ops["seq_end"])
    inside = np.zeros(len(begin), np.bool_)
    for stretch in stretches:
        inside |= (begin <= np.uint64(stretch.high)) & (end >= np.uint64(stretch.low))
    return inside


def _cut_down(file: File, share: int) -> None:
    """Make stretches narrower until what is in them is what was allowed: operations may crowd around a hazard."""
    while (
        not file.whole and len(file.ops) > max(64, 2 * share) and any(one.high - one.low > 8 for one in file.stretches)
    ):
        for stretch in file.stretches:
            quarter = (stretch.high - stretch.low) // 4
            stretch.low, stretch.high = stretch.low + quarter, stretch.high - quarter
        file.ops = file.ops[_in_stretches(file.ops, file.stretches)]
    if not file.whole and len(file.ops) > max(256, 4 * share):
        # Still too many: they are all in flight there. Some are held, and no stretch is complete.
        file.ops, file.stretches = file.ops[:share], []
