"""`eofrace explore`: every cell of strategies x models x guests, searched and judged."""

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockstack.sim.models import FileSystem
from blockstack.strategies import CONTROL, Strategy
from tracer.analysis.hazards import Verdict
from tracer.errors import Status
from tracer.explore.crash import Loss, crash_losses
from tracer.explore.guest import Guest
from tracer.explore.judge import Outcome, Schedule, finished, judge
from tracer.explore.pct import Bound, Pct
from tracer.explore.replay import save
from tracer.explore.shrink import shrink
from tracer.explore.space import Runs, Space
from tracer.explore.tasks import Found, Task, cut, drain, run_task
from tracer.explore.verdict import verdict_of
from tracer.explore.workers import Checkpoint, executor, run_tasks

SCHEMA = "eofrace.explore/1"

SMALL = 4000
"""Schedules that are searched by one core before others are asked."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `count` None: exhaustive; `limit`: schedules of a cell at most."""

    strategies: tuple[Strategy, ...]
    models: tuple[FileSystem, ...]
    guests: tuple[tuple[Guest, bool], ...]
    """Each with whether its image is about to need a refcount block."""
    count: int | None = None
    seed: int = 0
    limit: int | None = None
    crash: bool = False
    late: bool = False
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    scheduler: str | None = None
    checkpoint: Path | None = None
    output: Path | None = None


@dataclass(slots=True)
class Cell:
    """What the search of one space has found."""

    space: Space
    found: Found
    verdict: Verdict
    reason: str
    bound: Bound | None = None
    shrunk: Space | None = None
    """The space of the counterexample, which has fewer requests of the guest."""
    example: Schedule | None = None
    counterexample: str | None = None
    crash_losses: list[Loss] = field(default_factory=list)
    crash_points: int = 0

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.space.strategy.name} x {self.space.model.name}"

    @property
    def is_control(self) -> bool:
        """Whether it is there to show the hazard."""
        return self.space.strategy.name == CONTROL

    @property
    def exhaustive(self) -> bool:
        """Whether every schedule was searched."""
        return self.bound is None and self.found.complete

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it, and more."""
        tally = self.found.tally
        return {
            "strategy": self.space.strategy.name,
            "model": self.space.model.name,
            "writes": self.space.guest.writes,
            "guest": str(self.space.guest),
            "cluster_size": self.space.guest.cluster_size,
            "late": self.space.late,
            "schedules": tally.schedules,
            "states": tally.states,
            "redundant": tally.redundant,
            "exhaustive": self.exhaustive,
            "outcomes": {outcome.value: self.found.outcomes[outcome.value] for outcome in Outcome},
            "rules": dict(sorted(self.found.rules.items())),
            "disagreements": sum(self.found.disagreements.values()),
            "crash_points": self.crash_points,
            "crash_losses": len(self.crash_losses),
            "missed_probability": None if self.bound is None else self.bound.missed,
            "counterexample": self.counterexample,
            "verdict": self.verdict.value,
            "reason": self.reason,
        }


@dataclass(slots=True)
class Report:
    """All cells."""

    cells: list[Cell]
    seed: int
    interrupted: bool = False

    @property
    def status(self) -> Status:
        """Exit status: the worst protecting cell's, and inconclusive where a control shows nothing."""
        verdicts = [cell.verdict for cell in self.cells if not cell.is_control]
        if any(cell.is_control and cell.verdict in (Verdict.CONFIRMED, Verdict.INCONCLUSIVE) for cell in self.cells):
            verdicts.append(Verdict.INCONCLUSIVE)
        return max(verdicts, key=lambda verdict: verdict.rank).status if verdicts else Status.OK

    def to_json(self) -> dict[str, Any]:
        """As design.md defines it."""
        return {"schema": SCHEMA, "seed": self.seed, "results": [cell.to_json() for cell in self.cells]}


Progress = Callable[[str], None]


def run(options: Options, stopped: Callable[[], bool], progress: Progress) -> Report:
    """Search every cell, until `stopped` says so: then what is left is not there, and the cell at hand not complete."""
    report = Report([], options.seed)
    checkpoint = Checkpoint(options.checkpoint)
    for (guest, tight), model, strategy in itertools.product(options.guests, options.models, options.strategies):
        if stopped():
            report.interrupted = True
            break
        space = Space(strategy, model, guest, tight, options.late)
        report.cells.append(_cell(space, options, checkpoint, stopped, progress))
    return report


def _cell(
    space: Space, options: Options, checkpoint: Checkpoint, stopped: Callable[[], bool], progress: Progress
) -> Cell:
    name = f"{space.strategy.name} x {space.model.name}: {space.guest}"
    progress(name)
    bound = None
    if options.count is not None:
        runs = Runs(space)
        search = Pct(runs, options.count, options.seed)
        found = drain(runs, search, stop=lambda _: stopped())
        bound = search.bound
    else:
        found = _exhaustive(space, options, checkpoint, stopped, lambda text: progress(f"{name}: {text}"))
    cell = Cell(space, found, Verdict.CONFIRMED, "", bound)
    if found.worst is not None:
        _example(cell, found.worst, options.output)
    if options.crash and not stopped():
        progress(f"{name}: power failures")
        cell.crash_points, cell.crash_losses = crash_losses(space, options.limit or SMALL, stopped)
    cell.verdict = verdict_of(found.outcomes, len(cell.crash_losses), exhaustive=cell.exhaustive)
    cell.reason = _reason(cell)
    return cell


def _exhaustive(
    space: Space, options: Options, checkpoint: Checkpoint, stopped: Callable[[], bool], progress: Progress
) -> Found:
    runs = Runs(space)
    small = SMALL if options.limit is None else min(SMALL, options.limit)
    found = run_task(space, Task(), limit=small + 1, stop=lambda _: stopped(), runs=runs)
    if found.complete or stopped() or (options.limit is not None and options.limit <= small):
        return found
    if options.limit is not None:
        return run_task(space, Task(), limit=options.limit, stop=lambda _: stopped(), runs=runs)
    tasks = cut(runs)
    with executor(options.jobs, options.scheduler) as pool:
        return run_tasks(
            pool,
            space,
            tasks,
            checkpoint,
            stopped,
            lambda done, count: progress(f"{done} of {count} parts"),
        )


def _example(cell: Cell, choices: list[int], output: Path | None) -> None:
    """The counterexample, shrunk, and in a file if there is a directory for it."""
    runs = Runs(cell.space)
    world = runs.replay(choices)
    assert world is not None, "a schedule that was found can be run again"
    schedule = finished(runs, choices, world)
    judge([schedule])
    runs.end()
    cell.shrunk, cell.example = shrink(cell.space, schedule)
    if output is not None:
        guest = re.sub(r"[^a-z0-9]+", "-", str(cell.space.guest))[:60]
        path = output / f"{cell.space.strategy.name}-{cell.space.model.name}-{guest}.json"
        save(path, cell.shrunk, cell.example)
        cell.counterexample = str(path)


def _reason(cell: Cell) -> str:
    """Of its verdict, in words."""
    found = cell.found
    counts = found.outcomes
    of = f"of {_counted(found)}" + ("" if found.complete else ", and the search stopped early")
    if counts[Outcome.LOST.value]:
        return f"acknowledged data is lost in {counts[Outcome.LOST.value]} {of}"
    if cell.crash_losses:
        return f"a power failure loses what was flushed, at {len(cell.crash_losses)} points"
    if counts[Outcome.DEADLOCK.value]:
        return f"requests wait for each other for ever in {counts[Outcome.DEADLOCK.value]} {of}"
    if counts[Outcome.EXPOSED.value]:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in sorted(found.rules.items()))
        return f"the order is left to the kernel in {counts[Outcome.EXPOSED.value]} {of} ({rules})"
    if cell.bound is not None:
        bound = cell.bound
        return (
            f"nothing found in {bound.runs} random schedules: a bug of depth {bound.depth} was missed with a"
            f" probability of at most {bound.missed:.3g} ({bound.processes} processes, {bound.steps} steps)"
        )
    if not found.complete:
        return f"nothing found, but the search stopped early, after {_counted(found)}"
    return f"the whole space, {_counted(found)}: nothing exposed, nothing lost"


def _counted(found: Found) -> str:
    count = found.tally.schedules
    return f"{count:,} schedule" if count == 1 else f"{count:,} schedules"
