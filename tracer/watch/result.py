"""What watching has come to so far, as text, JSON and metrics tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracer.analysis.completeness import essential_gaps
from tracer.analysis.hazards import Counts, Hazard, Verdict, verdict_of
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.errors import Status
from tracer.operations import Op

SCHEMA = "eofrace.watch/1"
HAZARD_SCHEMA = "eofrace.watch-hazard/1"


@dataclass(frozen=True, slots=True)
class Event:
    """A hazard as it was heard of: pairs of one kind on one file since the last look."""

    time: float
    """Seconds since the epoch when it was heard of."""
    dev: int
    path: str | None
    hazard: Hazard

    def to_json(self) -> dict[str, Any]:
        """The schema `eofrace.watch-hazard/1`."""
        return {
            "schema": HAZARD_SCHEMA,
            "time": round(self.time, 3),
            "dev": self.dev,
            "path": self.path,
            **self.hazard.to_json(),
        }


@dataclass(slots=True)
class State:
    """Running counts."""

    started: float = 0.0
    """Seconds since the epoch."""
    seconds: float = 0.0
    operations: Mapping[Op, int] = field(default_factory=dict)
    """That ended."""
    post_eof_fallocates: int = 0
    """That began."""
    hazards: int = 0
    """That were told, each of one or more pairs."""
    counts: Counts = field(default_factory=Counts)
    last_hazard: float = 0.0
    """Seconds since the epoch; 0: none."""
    lost: dict[str, int] = field(default_factory=dict)
    """Reason -> operations that were not seen, or not compared with all that they may have met."""
    in_flight: int = 0
    """At the end; compared with all that they have met until then."""
    processes: int = 0
    """That are followed."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Watching that is over."""

    state: State
    attached_after: float
    """Seconds from the start of this process to the first operation that could be seen."""
    mechanisms: Mapping[str, str]
    gaps: Mapping[str, str]
    """What was not seen -> why, and what that costs."""
    ended_by: str
    exit_status: int | None
    """Of the command, minus the signal that ended it; None where none was run."""

    @property
    def doubts(self) -> Sequence[str]:
        """Why "nothing was found" would not mean that there was nothing, one phrase each."""
        state, gaps = self.state, essential_gaps(self.gaps, RULE.needs)
        found = [f"{count:,} {reason}" for reason, count in state.lost.items() if count]
        if not state.operations and not state.in_flight:
            found.append("no operation was seen")
        return [*found, f"not seen: {', '.join(gaps)}"] if gaps else found

    @property
    def verdict(self) -> Verdict:
        """As `trace` would say."""
        return verdict_of([self.state.counts], self.doubts)

    @property
    def status(self) -> Status:
        """As design.md has it for trace."""
        return self.verdict.status

    def to_json(self) -> dict[str, Any]:
        """The schema `eofrace.watch/1`."""
        state = self.state
        return {
            "schema": SCHEMA,
            "seconds": round(state.seconds, 3),
            "attached_after": round(self.attached_after, 3),
            "ended_by": self.ended_by,
            "exit_status": self.exit_status,
            "operations": {op.label: count for op, count in sorted(state.operations.items())},
            "post_eof_fallocates": state.post_eof_fallocates,
            "in_flight": state.in_flight,
            "lost": sum(state.lost.values()),
            "lost_by": state.lost,
            "hazards": state.hazards,
            "counts": {RULE.id: state.counts.to_json()},
            "mechanisms": dict(self.mechanisms),
            "gaps": [f"{what}: {why}" for what, why in self.gaps.items()],
            "verdict": self.verdict.value,
            "doubts": list(self.doubts),
        }
