"""Folds the pairs that rules find into hazards, and the hazards into a verdict.

A trace can hold millions of pairs of the same kind: pairs of one rule, inode, outcome and kinds of operations
are one hazard, shown by its first pair and counted. Counts are totals over all pairs.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tracer.analysis.overlaps import dense_groups
from tracer.analysis.rules import Outcome, Rule, RulePairs, Severity, all_rules
from tracer.errors import Status
from tracer.operations import Op, Operations
from tracer.trace import TraceMeta, as_dict

SCHEMA = "eofrace.analysis/1"

ADVISORY_HOOKS = frozenset(
    {
        "xfs_file_fallocate",  # fallocate(2) is seen at the system call; io_uring's is a kind of its own
        "xfs_end_io_direct_write",
        "xfs_alloc_file_space",
        "xfs_zero_file_space",
        "xfs_free_file_space",
        "xfs_setattr",
        "xfs_zero_eof",
        "xfs_itruncate_extents_start",
    }
)
"""Hooks whose absence hides no operation: without `t_applied` no pair can be called kernel-serialised, and without
`size_applied` a cut that a later write hides goes unseen, as in traces before it; that is all."""


class Verdict(enum.StrEnum):
    """What a trace proves, or a cell of a run; domain.md says what each means."""

    CONFIRMED = "confirmed"
    INCONCLUSIVE = "inconclusive"
    UNSAFE = "unsafe"
    CORRUPT = "corrupt"

    @property
    def rank(self) -> int:
        """From best to worst, 0 to 3: what was seen outweighs what was not."""
        return list(Verdict).index(self)

    @property
    def status(self) -> Status:
        """Exit status of a command that ends with it."""
        match self:
            case Verdict.CONFIRMED:
                return Status.OK
            case Verdict.INCONCLUSIVE:
                return Status.INCONCLUSIVE
            case _:
                return Status.HAZARD


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


@dataclass(frozen=True, slots=True)
class Hazard:
    """One kind of dangerous pair on one inode. The operations are `tracer.trace.as_dict` of its first pair."""

    rule: str
    severity: Severity
    ino: int
    first: dict[str, Any]
    second: dict[str, Any]
    outcome: Outcome
    gap_ns: int | None
    """Later begin minus earlier end of that pair: negative, they overlapped by that much. None: one never ended."""
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "ino": self.ino,
            "first": self.first,
            "second": self.second,
            "outcome": self.outcome.label,
            "gap_ns": self.gap_ns,
            "pairs": self.pairs,
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """What some rules make of a trace, or of several."""

    operations: int
    dropped: int
    unfinished: int
    hazards: tuple[Hazard, ...]
    """Worst outcome first, then in order of the trace."""
    counts: dict[str, Counts]
    """By rule; a rule that found nothing has zeroes."""
    verdict: Verdict
    doubts: tuple[str, ...]
    """Why the trace is not complete evidence, one phrase each."""

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it."""
        return {
            "schema": SCHEMA,
            "operations": self.operations,
            "dropped": self.dropped,
            "unfinished": self.unfinished,
            "hazards": [hazard.to_json() for hazard in self.hazards],
            "counts": {rule: count.to_json() for rule, count in self.counts.items()},
            "verdict": self.verdict.value,
        }


def analyse(ops: Operations, meta: TraceMeta, rules: Sequence[Rule] | None = None) -> Analysis:
    """Judge a trace, ops (n,) in any order, by some rules (None: all)."""
    rules = all_rules() if rules is None else rules
    hazards: list[Hazard] = []
    counts: dict[str, Counts] = {}
    for rule in rules:
        found, counts[rule.id] = fold(ops, rule, rule.chunks(ops))
        hazards += found
    hazards.sort(key=lambda hazard: (-hazard.outcome, hazard.first["seq_begin"], hazard.second["seq_begin"]))
    # The recorder may count operations that it could not store; those in the trace are there to be counted.
    unfinished = max(meta.unfinished, int(np.count_nonzero(ops["seq_end"] == 0)))
    doubts = _doubts(len(ops), meta.dropped, unfinished, essential_gaps(meta.gaps, rules))
    if meta.part is not None:
        doubts = (*doubts, f"part {meta.part} of a recording: pairs with operations of another part are not seen")
    return Analysis(
        operations=len(ops),
        dropped=meta.dropped,
        unfinished=unfinished,
        hazards=tuple(hazards),
        counts=counts,
        verdict=verdict_of(counts.values(), doubts),
        doubts=doubts,
    )


def merge(analyses: Sequence[Analysis]) -> Analysis:
    """Several traces as one: counts added up, hazards side by side, and the worst verdict.

    Hazards stay apart even if they look the same: their operations come from different runs.
    """
    counts: dict[str, Counts] = {}
    for rule, count in (item for analysis in analyses for item in analysis.counts.items()):
        counts[rule] = counts.get(rule, Counts()) + count
    return Analysis(
        operations=sum(analysis.operations for analysis in analyses),
        dropped=sum(analysis.dropped for analysis in analyses),
        unfinished=sum(analysis.unfinished for analysis in analyses),
        hazards=tuple(hazard for analysis in analyses for hazard in analysis.hazards),
        counts=counts,
        verdict=max((analysis.verdict for analysis in analyses), key=lambda verdict: verdict.rank),
        doubts=tuple(dict.fromkeys(doubt for analysis in analyses for doubt in analysis.doubts)),
    )


def fold(ops: Operations, rule: Rule, chunks: Iterable[RulePairs]) -> tuple[list[Hazard], Counts]:
    """Pairs that a rule found in ops (n,) as hazards and totals; holds one chunk of pairs at a time."""
    hazards: dict[tuple[int, ...], Hazard] = {}
    total = Counts()
    for chunk in chunks:
        total += Counts(
            exposed=len(chunk.outcome),
            kernel_serialised=int(np.count_nonzero(chunk.outcome == Outcome.KERNEL_SERIALISED)),
            lost=int(np.count_nonzero(chunk.outcome == Outcome.LOST)),
        )
        for key, hazard in _fold_chunk(ops, rule, chunk):
            known = hazards.get(key)
            if known is None:
                hazards[key] = hazard
            else:
                earlier = min(known, hazard, key=_position)
                hazards[key] = replace(earlier, pairs=known.pairs + hazard.pairs)
    return list(hazards.values()), total


def _fold_chunk(ops: Operations, rule: Rule, chunk: RulePairs) -> Iterable[tuple[tuple[int, ...], Hazard]]:
    """Yield each hazard of a chunk of pairs, with what tells it from others."""
    first, second = ops[chunk.first], ops[chunk.second]
    ids = dense_groups(first["dev"], first["ino"], chunk.outcome, first["op"], second["op"])
    order = np.lexsort((second["seq_begin"], first["seq_begin"], ids))
    _, start, pairs = np.unique(ids[order], return_index=True, return_counts=True)
    for row, count in zip(order[start], pairs.tolist(), strict=True):
        one, other = first[row], second[row]
        outcome = Outcome(int(chunk.outcome[row]))
        hazard = Hazard(
            rule=rule.id,
            severity=rule.severity,
            ino=int(one["ino"]),
            first=as_dict(one),
            second=as_dict(other),
            outcome=outcome,
            gap_ns=_gap_ns(one, other),
            pairs=count,
        )
        yield (int(one["dev"]), int(one["ino"]), int(outcome), int(one["op"]), int(other["op"])), hazard


def _position(hazard: Hazard) -> tuple[int, int]:
    return hazard.first["seq_begin"], hazard.second["seq_begin"]


def _gap_ns(one: np.void, other: np.void) -> int | None:
    if one["seq_end"] == 0 or other["seq_end"] == 0:
        return None
    return int(max(one["t_begin"], other["t_begin"])) - int(min(one["t_end"], other["t_end"]))


def essential_gaps(gaps: Iterable[str], rules: Sequence[Rule]) -> list[str]:
    """Hooks that are missing and that some rule needs; a name that is no kind of operation counts."""
    needed = {op.label for rule in rules for op in rule.needs}
    harmless = {op.label for op in Op} - needed | ADVISORY_HOOKS
    return sorted(set(gaps) - harmless)


def _doubts(operations: int, dropped: int, unfinished: int, gaps: list[str]) -> tuple[str, ...]:
    found = (
        ("the trace is empty", operations == 0),
        (f"{dropped} records were dropped", dropped > 0),
        (f"{unfinished} operations were still in flight at the end", unfinished > 0),
        (f"not seen: {', '.join(gaps)}", bool(gaps)),
    )
    return tuple(doubt for doubt, holds in found if holds)


def verdict_of(counts: Iterable[Counts], doubts: Sequence[str]) -> Verdict:
    """What these pairs prove, where the evidence lacks what `doubts` says."""
    total = sum(counts, Counts())
    if total.lost:
        return Verdict.CORRUPT
    if total.exposed:
        return Verdict.UNSAFE
    return Verdict.INCONCLUSIVE if doubts else Verdict.CONFIRMED
