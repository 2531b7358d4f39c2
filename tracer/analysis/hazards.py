"""Makes hazards of the findings of the rules, and a verdict of the hazards.

A trace can hold millions of pairs of the same two code paths: they are one hazard, counted, and shown by its first,
worst and last pair (`tracer.analysis.findings`). Counts are totals over all pairs.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracer.analysis.columns import Columns
from tracer.analysis.completeness import all_shortenings_are_seen, essential_gaps, is_complete
from tracer.analysis.findings import NO_GAP, Example, Findings, Kind
from tracer.analysis.findings import Counts as Counts
from tracer.analysis.overlaps import ended
from tracer.analysis.rules import Outcome, Rule, RulePairs, Severity, all_rules
from tracer.errors import Status
from tracer.operations import OPERATION, Operations, in_columns
from tracer.trace import TraceMeta, as_dict

SCHEMA = "eofrace.analysis/1"


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
class Pair:
    """One dangerous pair. The operations are as `tracer.trace.as_dict` has them."""

    first: dict[str, Any]
    second: dict[str, Any]
    outcome: Outcome
    gap_ns: int | None
    """Later begin minus earlier end: negative, they overlapped by that much. None: one never ended."""

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it for a hazard."""
        return {
            "first": self.first,
            "second": self.second,
            "outcome": self.outcome.label,
            "gap_ns": self.gap_ns,
        }


@dataclass(frozen=True, slots=True)
class Hazard:
    """The dangerous pairs of one rule, one file and the same two code paths."""

    rule: str
    severity: Severity
    kind: Kind
    counts: Counts
    earliest: Pair
    worst: Pair
    latest: Pair

    def without_losses(self) -> "Hazard":
        """The same pairs, of which none was proved to be lost."""
        pairs = [
            replace(pair, outcome=min(pair.outcome, Outcome.EXPOSED))
            for pair in (self.earliest, self.worst, self.latest)
        ]
        return Hazard(self.rule, self.severity, self.kind, self.counts.without_losses(), *pairs)

    @property
    def ino(self) -> int:
        """The file's inode number."""
        return self.kind.ino

    @property
    def first(self) -> dict[str, Any]:
        """What does the harm, of the worst pair."""
        return self.worst.first

    @property
    def second(self) -> dict[str, Any]:
        """What is harmed, of the worst pair."""
        return self.worst.second

    @property
    def gap_ns(self) -> int | None:
        """`Pair.gap_ns` of the worst pair."""
        return self.worst.gap_ns

    @property
    def outcome(self) -> Outcome:
        """The worst of all pairs."""
        return self.worst.outcome

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.counts.exposed

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it, of the worst pair; beside that the counts by outcome, and three examples."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "dev": self.kind.dev,
            "ino": self.kind.ino,
            **self.worst.to_json(),
            "pairs": self.pairs,
            "counts": self.counts.to_json(),
            "paths": {"first": self.kind.first.to_json(), "second": self.kind.second.to_json()},
            "examples": {
                "first": self.earliest.to_json(),
                "worst": self.worst.to_json(),
                "last": self.latest.to_json(),
            },
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """What some rules make of a trace, or of several."""

    operations: int
    dropped: int
    unfinished: int
    hazards: tuple[Hazard, ...]
    """As `worst_first` sorts them."""
    counts: dict[str, Counts]
    """By rule; a rule that found nothing has zeroes."""
    verdict: Verdict
    doubts: tuple[str, ...]
    """Why the trace is not complete evidence, one phrase each."""
    known: dict[str, Counts] | None = None
    """By rule, pairs that a baseline has taken out of all else; None: there is no baseline."""

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it; `known` only where there is a baseline."""
        known = {} if self.known is None else {rule: count.to_json() for rule, count in self.known.items()}
        return {
            "schema": SCHEMA,
            "operations": self.operations,
            "dropped": self.dropped,
            "unfinished": self.unfinished,
            "hazards": [hazard.to_json() for hazard in self.hazards],
            "counts": {rule: count.to_json() for rule, count in self.counts.items()},
            "verdict": self.verdict.value,
        } | ({} if self.known is None else {"known": known})


def analyse(ops: Operations, meta: TraceMeta, rules: Sequence[Rule] | None = None) -> Analysis:
    """Judge a trace, ops (n,) in any order, by some rules (None: all)."""
    rules = all_rules() if rules is None else rules
    known = all_shortenings_are_seen(meta)
    found = [(rule, folded(ops, rule.chunks(ops, shortenings_are_known=known))) for rule in rules]
    unfinished = int(np.count_nonzero(~ended(ops)))
    return conclude(meta, len(ops), unfinished, found)


def conclude(meta: TraceMeta, operations: int, unfinished: int, found: Sequence[tuple[Rule, Findings]]) -> Analysis:
    """What some rules make of a trace of so many operations, of which `unfinished` never ended."""
    hazards: list[Hazard] = []
    counts: dict[str, Counts] = {}
    for rule, findings in found:
        some, counts[rule.id] = hazards_of(rule, findings), findings.counts
        if rule.rests_on_absence and not is_complete(meta, rule.needs):
            some, counts[rule.id] = [hazard.without_losses() for hazard in some], counts[rule.id].without_losses()
        hazards += some
    hazards.sort(key=worst_first)
    # The recorder may count operations that it could not store; those in the trace are there to be counted.
    unfinished = max(meta.unfinished, unfinished)
    needed = {op for rule, _ in found for op in rule.needs}
    doubts = _doubts(operations, meta.dropped, unfinished, essential_gaps(meta.gaps, needed))
    if meta.part is not None:
        doubts = (*doubts, f"part {meta.part} of a recording: pairs with operations of another part are not seen")
    return Analysis(
        operations=operations,
        dropped=meta.dropped,
        unfinished=unfinished,
        hazards=tuple(hazards),
        counts=counts,
        verdict=verdict_of(counts.values(), doubts),
        doubts=doubts,
    )


def worst_first(hazard: Hazard) -> tuple[Any, ...]:
    """Sorts hazards: by outcome, then by how bad it is when they strike, then in order of the trace."""
    begins = hazard.earliest.first["seq_begin"], hazard.earliest.second["seq_begin"]
    return -hazard.outcome, list(Severity).index(hazard.severity), *begins, hazard.rule


def merge(analyses: Sequence[Analysis]) -> Analysis:
    """Several traces as one: counts added up, hazards side by side, and the worst verdict.

    Hazards stay apart even if they look the same: their operations come from different runs.
    """
    baselines = [analysis.known for analysis in analyses if analysis.known is not None]
    return Analysis(
        operations=sum(analysis.operations for analysis in analyses),
        dropped=sum(analysis.dropped for analysis in analyses),
        unfinished=sum(analysis.unfinished for analysis in analyses),
        hazards=tuple(hazard for analysis in analyses for hazard in analysis.hazards),
        counts=_total([analysis.counts for analysis in analyses]),
        verdict=max((analysis.verdict for analysis in analyses), key=lambda verdict: verdict.rank),
        doubts=tuple(dict.fromkeys(doubt for analysis in analyses for doubt in analysis.doubts)),
        known=_total(baselines) if baselines else None,
    )


def _total(parts: Sequence[dict[str, Counts]]) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for rule, count in (item for part in parts for item in part.items()):
        total[rule] = total.get(rule, Counts()) + count
    return total


def fold(ops: Operations, rule: Rule, chunks: Iterable[RulePairs]) -> tuple[list[Hazard], Counts]:
    """Pairs that a rule found in ops (n,) as hazards and totals; holds one chunk of pairs at a time."""
    found = folded(ops, chunks)
    return hazards_of(rule, found), found.counts


def folded(ops: Operations, chunks: Iterable[RulePairs]) -> Findings:
    """Pairs that a rule found in ops (n,), told apart by their indices there."""
    found = Findings()
    columns = Columns({**in_columns(ops), "row": np.arange(len(ops))})
    for chunk in chunks:
        found.add(columns.take(chunk.first), columns.take(chunk.second), chunk.outcome)
    return found


def hazards_of(rule: Rule, found: Findings) -> list[Hazard]:
    """What a rule found, told by examples."""
    return [
        Hazard(rule.id, rule.severity, kind, finding.counts, *map(_pair, (finding.first, finding.worst, finding.last)))
        for kind, finding in found.kinds.items()
    ]


def _pair(example: Example) -> Pair:
    first, second = (np.frombuffer(record, OPERATION)[0] for record in (example.first, example.second))
    return Pair(
        first=as_dict(first),
        second=as_dict(second),
        outcome=Outcome(example.outcome),
        gap_ns=None if example.gap_ns == NO_GAP else example.gap_ns,
    )


def _doubts(operations: int, dropped: int, unfinished: int, gaps: list[str]) -> tuple[str, ...]:
    found = (
        ("the trace is empty", not operations),
        (f"{dropped} records were dropped", dropped > 0),
        (f"{unfinished} operations were still in flight at the end", bool(unfinished)),
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
