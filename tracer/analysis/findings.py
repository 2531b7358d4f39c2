"""Folds the pairs of one rule into findings, however many there are, and wherever they were found.

Pairs of the same file and the same two code paths are one finding: counted by outcome, with its first, worst and last
example. Findings of several parts of a trace are merged into the same result in whatever order they come.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.overlaps import I64, ended, files, numbered
from tracer.analysis.rules import Outcome
from tracer.operations import FALLOCATES, OPERATION, Op, among

NO_GAP = -(2**63)
"""`Example.gap_ns` of a pair of which one never ended: it may have overlapped for ever."""

Numbers = npt.NDArray[np.integer[Any]]

_DIGITS = re.compile(rb"[0-9]+")


class CodePath(NamedTuple):
    """What did one side of a pair, as far as a trace can tell."""

    op: int
    """`Op`."""
    mode: int
    """Of a fallocate; else 0."""
    comm: bytes
    """Name of the process, each number in it a single 0: the threads of a pool are one."""

    def to_json(self) -> dict[str, str | int]:
        """As a baseline file and the findings of `analyze` have it."""
        return {"op": Op(self.op).label, "mode": self.mode, "comm": self.comm.decode("utf-8", "replace")}


class Kind(NamedTuple):
    """What the pairs of one finding have in common."""

    dev: int
    ino: int
    first: CodePath
    second: CodePath


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs that a rule found. `kernel_serialised` and `lost` are disjoint subsets of `exposed`."""

    exposed: int = 0
    kernel_serialised: int = 0
    lost: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.exposed + other.exposed,
            self.kernel_serialised + other.kernel_serialised,
            self.lost + other.lost,
        )

    def without_losses(self) -> "Counts":
        """The same pairs, of which none was proved to be lost."""
        return replace(self, lost=0)

    def to_json(self) -> dict[str, int]:
        """As design.md defines it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, order=True)
class Example:
    """One pair. Of several, the smallest comes first in the trace."""

    first_begin: int  # seq_begin
    second_begin: int
    first: bytes = field(compare=False, repr=False)
    """The operation, a record of OPERATION."""
    second: bytes = field(compare=False, repr=False)
    outcome: int
    """`Outcome`."""
    gap_ns: int
    """Later begin minus earlier end: negative, they overlapped by that much. `NO_GAP`: one never ended."""

    @property
    def badness(self) -> tuple[int, int, int, int]:
        """The smallest is the worst: by outcome, then by how long they were together, then the first of them."""
        return -self.outcome, self.gap_ns, self.first_begin, self.second_begin


@dataclass(frozen=True, slots=True)
class Finding:
    """The pairs of one kind."""

    counts: Counts
    first: Example
    worst: Example
    last: Example

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(
            self.counts + other.counts,
            min(self.first, other.first),
            min(self.worst, other.worst, key=lambda example: example.badness),
            max(self.last, other.last),
        )


class Findings:
    """All pairs of one rule so far."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.kinds: dict[Kind, Finding] = {}

    def add(self, first: Columns, second: Columns, outcome: npt.NDArray[np.uint8]) -> list[Kind]:
        """Count pairs (k,), each with its `Outcome`, of operations that have all columns of OPERATION.

        Returns the kinds that were not known before.
        """
        if not len(outcome):
            return []
        sides = _paths(first), _paths(second)
        group, at_first = _groups(files(first), sides[0][0], sides[1][0])
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(len(at_first)))
        begins = first["seq_begin"], second["seq_begin"]
        gaps = _gaps(first, second)
        # First, worst, last.
        keys = begins, (~outcome, gaps, *begins), (~begins[0], ~begins[1])
        # In one go: of each column that is read, a selection has its price, however few it selects.
        at = np.concatenate([_least(order, starts, some) for some in keys])
        kept = _examples(first.take(at), second.take(at), outcome[at], gaps[at])
        examples = [kept[number :: len(at_first)] for number in range(len(at_first))]
        pairs = np.bincount(group)
        serialised = np.bincount(group[outcome == Outcome.KERNEL_SERIALISED], minlength=len(pairs))
        lost = np.bincount(group[outcome == Outcome.LOST], minlength=len(pairs))

        new = []
        for number, at in enumerate(at_first.tolist()):
            paths = (names[ids[at]] for ids, names in sides)
            kind = Kind(int(first["dev"][at]), int(first["ino"][at]), *paths)
            counts = Counts(int(pairs[number]), int(serialised[number]), int(lost[number]))
            new += self._count(kind, Finding(counts, *examples[number]))
        return new

    def merge(self, other: "Findings") -> list[Kind]:
        """Take another part's in. Returns the kinds that were not known before."""
        return [new for kind, finding in other.kinds.items() for new in self._count(kind, finding)]

    def _count(self, kind: Kind, finding: Finding) -> list[Kind]:
        self.counts += finding.counts
        known = self.kinds.get(kind)
        self.kinds[kind] = finding if known is None else known + finding
        return [kind] if known is None else []


def _paths(ops: Columns) -> tuple[Numbers, list[CodePath]]:
    """Which of some code paths each of operations (n,) is on."""
    halves = np.ascontiguousarray(ops["comm"]).view(np.uint64).reshape(-1, 2)
    modes = np.where(among(ops["op"], FALLOCATES), ops["flags"], 0)
    what = numbered(ops["op"].astype(np.int64) << 32 | modes)
    exact, at_first = _groups(what, numbered(halves[:, 0]), numbered(halves[:, 1]))
    paths = [
        CodePath(int(ops["op"][at]), int(modes[at]), _DIGITS.sub(b"0", ops["comm"][at].item()))
        for at in at_first.tolist()
    ]
    distinct = list(dict.fromkeys(paths))
    return np.array([distinct.index(path) for path in paths])[exact], distinct


def _groups(*columns: Numbers) -> tuple[Numbers, I64]:
    """Number rows (n,) by the combination of small numbers that they have, and where each combination is found."""
    ids = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        ids = numbered(ids * (int(column.max(initial=0)) + 1) + column).astype(np.int64)
    at_first = np.empty(int(ids.max(initial=-1)) + 1, np.int64)
    at_first[ids[::-1]] = np.arange(len(ids))[::-1]  # of an index that occurs twice, numpy keeps the last value
    return ids, at_first


def _least(order: I64, starts: I64, keys: Sequence[npt.NDArray[Any]]) -> I64:
    """Of each group of rows, order[starts[k] : starts[k + 1]], that whose keys are the least, the first key first."""
    counts = np.diff(starts, append=len(order))
    left = np.ones(len(order), np.bool_)
    for key in keys:
        values = np.where(left, key[order], np.iinfo(key.dtype).max)
        left &= values == np.repeat(np.minimum.reduceat(values, starts), counts)
    at = np.flatnonzero(left)
    return order[at[np.searchsorted(at, starts)]]


def _examples(first: Columns, second: Columns, outcome: npt.NDArray[np.uint8], gaps: I64) -> list[Example]:
    """Pairs (k,) to be kept."""
    begins = first["seq_begin"].tolist(), second["seq_begin"].tolist()
    more = outcome.tolist(), gaps.tolist()
    return [Example(*values) for values in zip(*begins, _records(first), _records(second), *more, strict=True)]


def _records(ops: Columns) -> list[bytes]:
    """Operations (n,), each as a record of OPERATION."""
    records = np.empty(len(ops), OPERATION)
    for name in OPERATION.names or ():
        records[name] = ops[name]
    return [record.tobytes() for record in records]


def _gaps(first: Columns, second: Columns) -> npt.NDArray[np.int64]:
    """`Example.gap_ns` of pairs (k,)."""
    gaps = np.maximum(first["t_begin"], second["t_begin"]) - np.minimum(first["t_end"], second["t_end"])
    return np.where(ended(first) & ended(second), gaps, NO_GAP)
