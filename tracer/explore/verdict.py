"""What the numbers of a search come to, wherever they are read: in the search itself, and again where its JSON is."""

from collections.abc import Mapping

from tracer.analysis.hazards import Verdict
from tracer.explore.judge import Outcome


def verdict_of(outcomes: Mapping[str, int], crash_losses: int, *, exhaustive: bool) -> Verdict:
    """The verdict of a cell of which so many schedules had each outcome."""
    if outcomes[Outcome.LOST.value] or crash_losses:
        return Verdict.CORRUPT
    if outcomes[Outcome.DEADLOCK.value] or outcomes[Outcome.EXPOSED.value]:
        return Verdict.UNSAFE
    return Verdict.CONFIRMED if exhaustive else Verdict.INCONCLUSIVE
