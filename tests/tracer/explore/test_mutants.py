"""Strategies broken on purpose: each has a schedule that shows it, and what they are made from has none."""

from pathlib import Path

import pytest

from blockstack.requests import MAX_LENGTH, TrackedRequest
from blockstack.sim.models import MODELS
from blockstack.strategies import STRATEGIES, FileFacts, Strategy
from blockstack.strategies.serialise import Serialise
from tests.tracer.verify import mutants
from tracer.analysis.hazards import Verdict
from tracer.explore.guest import Guest, parse
from tracer.explore.judge import Outcome
from tracer.explore.pct import Pct
from tracer.explore.replay import load, run_again, save
from tracer.explore.run import Options, run
from tracer.explore.shrink import switches
from tracer.explore.space import Runs, Space
from tracer.explore.tasks import Found, Task, drain, run_task

CLUSTER = 4096
RUNS = 400

GUESTS = {
    "mutant-serialises-nothing": ("sub@0 full@1", False),
    "mutant-stretches-one-cluster": ("sub@0 full@1 full@2", False),
    "mutant-waits-only": ("sub@0 full@1", False),
    "mutant-forgets-metadata": ("sub@0 sub@512", True),
    "mutant-holds-off-only": ("sub@0 full@1", True),
    "mutant-stretches-32-clusters": ("sub@0 bulk@100 full@200", False),
    "mutant-waits-once": ("sub@0 bad@1 full@2", True),
}
"""For each mutant a guest that has a schedule which shows it, and whether zero-writes have to be late for that."""


def search(strategy: Strategy, text: str, *, tight: bool = False, model: str = "xfs-pre-5.5") -> Found:
    """The whole space, or as much as it takes to see something."""
    space = Space(strategy, MODELS[model], parse(text, CLUSTER), tight)
    return run_task(space, Task())


@pytest.fixture(autouse=True)
def small_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "CLUSTER", CLUSTER)


def test_every_mutant_is_here() -> None:
    assert {mutant.name for mutant in mutants.HELD_MUTANTS} == set(GUESTS)


@pytest.mark.parametrize("mutant", mutants.HELD_MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_has_a_counterexample(mutant: Strategy, tmp_path: Path) -> None:
    text, late = GUESTS[mutant.name]
    guest: Guest = parse(text, CLUSTER)
    options = Options((mutant,), (MODELS["xfs-pre-5.5"],), ((guest, False),), count=RUNS, seed=1, late=late)
    cell = run(options, lambda: False, lambda _: None).cells[0]
    assert cell.verdict in (Verdict.UNSAFE, Verdict.CORRUPT), cell.reason
    assert cell.example is not None
    assert cell.shrunk is not None
    assert cell.shrunk.guest.writes <= guest.writes
    assert cell.found.worst is not None
    assert switches(cell.example.choices) <= switches(cell.found.worst)
    path = tmp_path / "again.json"
    save(path, cell.shrunk, cell.example)
    _, schedule, same = run_again(load(path), {mutant.name: mutant})
    assert same
    assert schedule.outcome.rank >= Outcome.EXPOSED.rank


@pytest.mark.parametrize("text", ["sub@0 full@1", "sub@0 sub@1"])
def test_what_they_are_made_from_has_none(text: str) -> None:
    found = search(STRATEGIES["serialise"], text)
    assert found.complete
    assert set(found.outcomes) == {"safe"}


class DoesNotSkip(Serialise):
    """Waits for requests that wait themselves, too: what QEMU's rule is against."""

    name = "mutant-does-not-skip"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(MAX_LENGTH)
        request.make_serialising(file.request_alignment)
        while others := [one for one in file.tracker.in_flight if one is not request and one.overlaps(request)]:
            await file.tracker.wait_for(request, others[0])


def test_the_skip_rule_has_no_deadlock_and_without_it_there_is_one() -> None:
    """Beside that, one schedule in some hundred is exposed, with and without the rule, and under `none` as well: a
    full-cluster write beyond the end is in flight while another zero-write moves the end behind it, and then a
    sub-cluster write goes out into the gap (replays/serialise-posix-weakest-late-...). No zero-write is beyond the end
    there, so that no strategy has anything to say: it rests on a kernel that zeroes no gap late.
    """
    guest = parse("sub@0 sub@1 full@2", CLUSTER)
    for strategy, outcomes in ((DoesNotSkip(), {"safe", "deadlock"}), (STRATEGIES["serialise"], {"safe"})):
        runs = Runs(Space(strategy, MODELS["posix-weakest"], guest, late=True))
        random = drain(runs, Pct(runs, RUNS, seed=1))
        assert set(random.outcomes) - {"exposed"} == outcomes
        assert set(random.rules) <= {"eof-block-zeroing"}
    found = search(STRATEGIES["serialise"], "sub@0 sub@1", model="posix-weakest")
    assert found.complete
    assert set(found.outcomes) == {"safe"}
