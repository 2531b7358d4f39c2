"""The statistics on made data, where what is true is known."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.bench import statistics
from tracer.bench.statistics import CONFIDENCE, LOOKS, ROUNDS, Conclusion, Estimate, enough, estimate

TRIALS = 100
WIDTH = 0.03


def played(effect: float, seed: int, *, spread: float = 0.02, most: int = 200) -> Estimate:
    """Rounds on a noisy machine until the interval is narrow: its speed drifts, one run in ten is disturbed."""
    chance = np.random.default_rng(seed)
    ours: list[float] = []
    theirs: list[float] = []
    found = None
    while len(ours) < most and not (found is not None and enough([found], WIDTH)):
        machine = math.exp(chance.normal(0, 0.3))
        runs = machine * np.exp(chance.normal(0, spread, 2)) * np.where(chance.random(2) < 0.1, 1.5, 1)
        ours.append(float(runs[0] * effect))
        theirs.append(float(runs[1]))
        if len(ours) in LOOKS or len(ours) == most:
            found = estimate(ours, theirs)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("effect", "wanted"), [(1.03, Conclusion.SLOWER), (1.0, Conclusion.OPEN), (0.97, Conclusion.FASTER)]
)
def test_a_known_effect(effect: float, wanted: Conclusion) -> None:
    """3 % are found, nothing is not: in 95 of 100 trials at least."""
    said = [played(effect, seed).conclusion for seed in range(TRIALS)]
    assert said.count(wanted) >= 0.95 * TRIALS, {one: said.count(one) for one in Conclusion}


def test_without_rounds_the_statistics_would_be_fooled() -> None:
    """The control: what a single round of the same machine says, taken at its word, is wrong far more often."""
    said = [played(1.0, seed, most=1).ratio for seed in range(TRIALS)]
    assert sum(abs(ratio - 1) > 0.01 for ratio in said) > TRIALS / 2


def test_an_effect_smaller_than_the_noise_stays_open() -> None:
    said = [played(1.03, seed, spread=0.3, most=20).conclusion for seed in range(TRIALS)]
    assert said.count(Conclusion.OPEN) >= 0.8 * TRIALS
    assert said.count(Conclusion.FASTER) <= 0.05 * TRIALS


def test_the_interval_holds_the_true_ratio() -> None:
    found = [played(1.1, seed, most=ROUNDS) for seed in range(4 * TRIALS)]
    held = sum(one.low <= 1.1 <= one.high for one in found) / len(found)
    assert held >= CONFIDENCE - 0.04, held
    assert sum(one.low <= 1.0 <= one.high for one in found) < held * len(found)  # it is no interval that holds all


@given(st.lists(st.tuples(*[st.floats(1e-6, 1e6)] * 2), min_size=1, max_size=40))
def test_whatever_the_times(rounds: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*rounds, strict=True)
    found = estimate(ours, theirs)
    assert found == estimate(ours, theirs)
    ratios = [mine / other for mine, other in rounds]
    assert min(ratios) <= found.low <= found.ratio <= found.high <= max(ratios)
    if len(rounds) < ROUNDS:
        assert found.conclusion is Conclusion.OPEN
        assert not enough([found], math.inf)


@pytest.mark.parametrize(
    ("ours", "theirs"), [([], []), ([1], []), ([0], [1]), ([1], [math.nan]), ([math.inf], [1]), ([-1], [1])]
)
def test_what_is_no_round(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        estimate(ours, theirs)


def test_so_many_rounds_fit_into_some_megabytes_and_few_are_drawn_as_ever() -> None:
    tracemalloc.start()
    many = np.linspace(1, 2, 30_000).tolist()
    found = estimate(many, many[::-1])
    assert found.low < 1 < found.high
    assert tracemalloc.get_traced_memory()[1] < 128 << 20
    tracemalloc.stop()
    ours = np.random.default_rng(5).uniform(1, 2, 300)
    drawn = np.random.default_rng(1).integers(0, 300, (statistics._RESAMPLES, 300))
    assert (statistics._medians(ours) == np.median(ours[drawn], axis=1)).all()


def test_a_steady_difference_is_concluded_from_eight_rounds_and_not_from_seven() -> None:
    ours, theirs = [1.5] * 8, [1.0] * 8
    assert estimate(ours, theirs).conclusion is Conclusion.SLOWER
    assert estimate(theirs, ours).conclusion is Conclusion.FASTER
    assert estimate(ours[:7], theirs[:7]).conclusion is Conclusion.OPEN
