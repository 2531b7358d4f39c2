"""What may be concluded from rounds in which two sides did the same work on the same machine.

Within a round both sides saw the same neighbours, so their ratio is what counts, and the median of the rounds' ratios,
which one round that was disturbed does not move. How sure that is says a bootstrap interval (Efron, 1979): medians of
rounds drawn anew with replacement. An interval that contains 1 says nothing about who is faster.

Rounds are added until the interval is narrow, never until it leaves 1 out: who stops at the first difference finds
one where there is none. Nor is it looked at after every round, since an interval is narrow by chance, too, and then
wrong more often: the looks are `LOOKS`, each half as many rounds again. The first is at eight, because the bootstrap of
a median of fewer is narrower than it should be. CONFIDENCE is 0.99, because with so few it still is, and a table has
many rows. tests/tracer/bench/test_statistics.py counts wrong conclusions on made data.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOOKS = (8, 12, 18, 27, 41, 61, 92, 138, 207, 310, 465, 698, 1047)
"""Rounds after which it is looked whether there are enough."""

ROUNDS = LOOKS[0]
"""The fewest that anything is concluded from."""

CONFIDENCE = 0.99

_RESAMPLES = 4000
_DRAWN = 1 << 20
"""Rounds at a time, which bounds the memory."""


class Conclusion(enum.StrEnum):
    """What an interval says of one side, compared with another one."""

    FASTER = "faster"
    SLOWER = "slower"
    OPEN = "no difference shown"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of times, ours to theirs: above 1 we are slower."""

    ratio: float
    """Median of the rounds' ratios."""
    low: float
    high: float
    """The interval that holds the true median with a probability of `CONFIDENCE`."""
    rounds: int

    @property
    def width(self) -> float:
        """Of the interval, as a part of the ratio."""
        return (self.high - self.low) / self.ratio

    @property
    def conclusion(self) -> Conclusion:
        """Nothing is concluded from too few rounds, or from an interval that contains 1."""
        if self.rounds < ROUNDS or self.low <= 1 <= self.high:
            return Conclusion.OPEN
        return Conclusion.SLOWER if self.low > 1 else Conclusion.FASTER


def estimate(ours: Sequence[float], theirs: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """From what each side took in each round, the rounds in the same order, all positive.

    The interval is one of that confidence; `Estimate.conclusion` is for the default. The same input gives the same
    interval. Raises ValueError for no rounds, or a time that is not positive.
    """
    times = np.array([ours, theirs], np.float64) if len(ours) == len(theirs) else np.empty((2, 0))
    if not times.size or not np.all(np.isfinite(times) & (times > 0)):
        raise ValueError("rounds are pairs of positive times, one at least")
    ratios = times[0] / times[1]
    tail = (1 - confidence) / 2
    low, high = np.quantile(_medians(ratios), [tail, 1 - tail])
    return Estimate(float(np.median(ratios)), float(low), float(high), len(ratios))


def _medians(ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of rounds drawn anew; some megabytes at a time, however many rounds there are."""
    random, count = np.random.default_rng(1), len(ratios)
    together = max(1, _DRAWN // count)
    sizes = [min(together, _RESAMPLES - done) for done in range(0, _RESAMPLES, together)]
    return np.concatenate([np.median(ratios[random.integers(0, count, (size, count))], axis=1) for size in sizes])


def enough(estimates: Sequence[Estimate], width: float) -> bool:
    """Whether no more rounds are needed: all intervals are as narrow as `width`, a part of the ratio, at a look."""
    return all(one.rounds in LOOKS and one.width <= width for one in estimates)
