"""The reduction loses nothing: the same outcomes as naive enumeration, at a tenth of the schedules or less."""

import hashlib

import pytest

from blockstack.sim.models import MODELS
from blockstack.strategies import STRATEGIES
from tracer.explore.guest import parse
from tracer.explore.search import Exhaustive, Naive
from tracer.explore.space import Runs, Space
from tracer.explore.tasks import Found, Task, cut, drain, run_task


def runs_of(strategy: str, model: str, guest: str) -> Runs:
    return Runs(Space(STRATEGIES[strategy], MODELS[model], parse(guest, 4096)))


def ends(runs: Runs, search: Exhaustive | Naive) -> set[str]:
    """Everything in which two schedules can end otherwise: content, size, answers."""
    found = set()
    for _, world in search:
        state = (sorted(world.inode.blocks.items()), world.inode.size, sorted(world.ended.items()))
        found.add(hashlib.sha256(repr(state).encode()).hexdigest())
    return found


@pytest.mark.parametrize("model", ["xfs-fixed", "xfs-pre-5.5", "xfs-pre-4.4", "posix-weakest"])
@pytest.mark.parametrize("strategy", ["none", "serialise"])
def test_same_ends_as_naive_enumeration(strategy: str, model: str) -> None:
    runs = runs_of(strategy, model, "sub@0 full@1")
    assert ends(runs, Exhaustive(runs)) == ends(runs, Naive(runs))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["none", "serialise"])
@pytest.mark.parametrize("guest", ["sub@0 full@1", "full@0 sub@1"])
def test_same_ends_on_zfs(strategy: str, guest: str) -> None:
    runs = runs_of(strategy, "zfs-11797", guest)
    assert ends(runs, Exhaustive(runs)) == ends(runs, Naive(runs))


def test_same_outcomes_at_a_tenth_of_the_schedules() -> None:
    runs = runs_of("none", "xfs-pre-5.5", "sub@0 full@1")
    reduced, naive = drain(runs, Exhaustive(runs)), drain(runs, Naive(runs))
    assert set(reduced.outcomes) == set(naive.outcomes) == {"safe", "lost"}
    assert naive.tally.schedules >= 10 * reduced.tally.schedules
    assert not reduced.disagreements
    assert not naive.disagreements


def test_a_footprint_that_says_too_little_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: if completions were said not to touch the size, the loss would go unseen."""
    import blockstack.sim.models.xfs_fixed as model

    for bit in ("SIZE_MAX", "DIO_END", "DIO_BEGIN", "WRITE_EDGE", "LOCK_SHARED", "LOCK_EXCLUSIVE"):
        monkeypatch.setattr(model, bit, 0)
    runs = runs_of("none", "xfs-pre-5.5", "sub@0 full@1")
    reduced, naive = drain(runs, Exhaustive(runs)), drain(runs, Naive(runs))
    assert set(naive.outcomes) == {"safe", "lost"}
    assert set(reduced.outcomes) != set(naive.outcomes)


def test_parts_are_the_whole() -> None:
    runs = runs_of("none", "zfs-11797", "sub@0 full@1")
    whole = run_task(runs.space, Task(), runs=runs)
    parts = Found()
    tasks = cut(runs, 20)
    assert len(tasks) >= 20
    for task in tasks:
        parts.merge(run_task(runs.space, task))
    assert parts.outcomes == whole.outcomes
    assert parts.tally.schedules == whole.tally.schedules
