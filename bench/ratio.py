"""A ratio of times, from interleaved rounds."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of the rounds' ratios (peer's seconds / ours: above 1 we are faster), with a 90 % bootstrap interval."""

    median: float
    low: float
    high: float


def ratio(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    """From the seconds of each round, in order: a round's two runs saw the same machine. Raises ValueError if empty."""
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    if not ratios:
        raise ValueError("no rounds")
    generator = random.Random(1)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Ratio(statistics.median(ratios), medians[_RESAMPLES // 20], medians[-_RESAMPLES // 20])
