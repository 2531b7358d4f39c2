"""Folds the pairs of one rule into findings, however many there are, and wherever they were found.

Pairs of the same file and the same two code paths are one finding: counted by outcome, with its first, worst and last
example. Findings of several parts of a trace are merged into the same result in whatever order they come.
"""

import re
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.overlaps import dense_groups
from tracer.analysis.rules import Outcome
from tracer.operations import FALLOCATES, Op

FOLDED = ("flags", "comm", "t_begin", "t_end")
"""Columns that pairs must have to be folded, beside those that all rules have."""

NO_GAP = -(2**63)
"""`Example.gap_ns` of a pair of which one never ended: it may have overlapped for ever."""

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

    def to_json(self) -> dict[str, int]:
        """As design.md defines it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, order=True)
class Example:
    """One pair. Of several, the smallest comes first in the trace."""

    first_begin: int  # seq_begin
    second_begin: int
    first: int
    """Which operation of the trace: `row` of `Columns`."""
    second: int
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
        """Count pairs (k,), each with its `Outcome`. Returns the kinds that were not known before."""
        if not len(outcome):
            return []
        paths = _paths(first), _paths(second)
        columns = (first["dev"], first["ino"], *paths[0], *paths[1])
        ids = dense_groups(*columns)
        begins = first["seq_begin"], second["seq_begin"]
        gaps = _gaps(first, second)
        in_order = np.lexsort((begins[1], begins[0], ids))
        by_badness = np.lexsort((begins[1], begins[0], gaps, -outcome.astype(np.int64), ids))
        _, start, pairs = np.unique(ids[in_order], return_index=True, return_counts=True)
        serialised = np.bincount(ids[outcome == Outcome.KERNEL_SERIALISED], minlength=len(start))
        lost = np.bincount(ids[outcome == Outcome.LOST], minlength=len(start))

        def example(at: int) -> Example:
            rows = int(first["row"][at]), int(second["row"][at])
            return Example(int(begins[0][at]), int(begins[1][at]), *rows, int(outcome[at]), int(gaps[at]))

        new = []
        for group, low in enumerate(start.tolist()):
            at = in_order[low]
            dev, ino, *sides = (column[at].item() for column in columns)
            counts = Counts(int(pairs[group]), int(serialised[group]), int(lost[group]))
            examples = (at, by_badness[low], in_order[low + counts.exposed - 1])
            kind = Kind(dev, ino, CodePath(*sides[:3]), CodePath(*sides[3:]))
            new += self._count(kind, Finding(counts, *map(example, examples)))
        return new

    def merge(self, other: "Findings") -> list[Kind]:
        """Take another part's in. Returns the kinds that were not known before."""
        return [new for kind, finding in other.kinds.items() for new in self._count(kind, finding)]

    def _count(self, kind: Kind, finding: Finding) -> list[Kind]:
        self.counts += finding.counts
        known = self.kinds.get(kind)
        self.kinds[kind] = finding if known is None else known + finding
        return [kind] if known is None else []


def _paths(ops: Columns) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], npt.NDArray[np.bytes_]]:
    """The columns of `CodePath` of operations (n,)."""
    op: npt.NDArray[np.uint8] = ops["op"]
    mode = np.where(np.isin(op, FALLOCATES), ops["flags"], 0).astype(np.uint32)
    names, which = np.unique(ops["comm"], return_inverse=True)
    pooled = np.array([_DIGITS.sub(b"0", name) for name in names.tolist()], names.dtype)
    return op, mode, pooled[which]


def _gaps(first: Columns, second: Columns) -> npt.NDArray[np.int64]:
    """`Example.gap_ns` of pairs (k,)."""
    gaps = np.maximum(first["t_begin"], second["t_begin"]) - np.minimum(first["t_end"], second["t_end"])
    return np.where((first["seq_end"] == 0) | (second["seq_end"] == 0), NO_GAP, gaps)
