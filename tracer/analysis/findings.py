"""Folds the pairs of one rule into kinds, however many there are, and wherever they were found.

Pairs of the same file, outcome and kinds of operations are of one kind: counted, with an example. Findings of several
parts of a trace are merged into the same result in whatever order they come.
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.overlaps import dense_groups
from tracer.analysis.rules import Outcome

Kind = tuple[int, int, int, int, int]
"""dev, ino, `Outcome`, `Op` of the first, `Op` of the second."""


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


@dataclass(frozen=True, slots=True)
class Finding:
    """The pairs of one kind."""

    pairs: int
    first: Example

    def __add__(self, other: "Finding") -> "Finding":
        return Finding(self.pairs + other.pairs, min(self.first, other.first))


class Findings:
    """All pairs of one rule so far."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.kinds: dict[Kind, Finding] = {}

    def add(self, first: Columns, second: Columns, outcome: npt.NDArray[np.uint8]) -> list[Kind]:
        """Count pairs (k,), each with its `Outcome`. Returns the kinds that were not known before."""
        self.counts += Counts(
            exposed=len(outcome),
            kernel_serialised=int(np.count_nonzero(outcome == Outcome.KERNEL_SERIALISED)),
            lost=int(np.count_nonzero(outcome == Outcome.LOST)),
        )
        columns = (first["dev"], first["ino"], outcome, first["op"], second["op"])
        ids = dense_groups(*columns)
        begins = first["seq_begin"], second["seq_begin"]
        order = np.lexsort((begins[1], begins[0], ids))
        _, start, pairs = np.unique(ids[order], return_index=True, return_counts=True)
        new = []
        for at, count in zip(order[start].tolist(), pairs.tolist(), strict=True):
            kind = tuple(int(column[at]) for column in columns)
            rows = int(first["row"][at]), int(second["row"][at])
            example = Example(int(begins[0][at]), int(begins[1][at]), *rows)
            new += self._count(kind, Finding(count, example))  # type: ignore[arg-type] # five of them
        return new

    def merge(self, other: "Findings") -> list[Kind]:
        """Take another part's in. Returns the kinds that were not known before."""
        self.counts += other.counts
        return [new for kind, finding in other.kinds.items() for new in self._count(kind, finding)]

    def _count(self, kind: Kind, finding: Finding) -> list[Kind]:
        known = self.kinds.get(kind)
        self.kinds[kind] = finding if known is None else known + finding
        return [kind] if known is None else []
