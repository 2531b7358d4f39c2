"""A search cut into tasks: what one core, or one machine, does at a time, and what comes of it.

A task is a prefix of a schedule with the processes that are asleep behind it. Cutting changes nothing in what is found:
of every class of equivalent schedules exactly one is complete in exactly one task.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracer.explore.judge import BATCH, Schedule, finished, judge
from tracer.explore.search import Exhaustive, Tally
from tracer.explore.space import Runs, Space

TASKS = 64
"""Tasks that a search is cut into, about."""


@dataclass(frozen=True, slots=True)
class Task:
    """Where a part of a search begins."""

    prefix: tuple[int, ...] = ()
    sleep: tuple[int, ...] = ()


@dataclass(slots=True)
class Found:
    """What a search has found, or a part of one."""

    tally: Tally = field(default_factory=Tally)
    outcomes: Counter[str] = field(default_factory=Counter)
    worst: list[int] | None = None
    """Choices of the first schedule with the worst outcome, None where all were safe."""
    worst_rank: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    """Schedules in which each rule found a pair, whatever they ended with."""
    disagreements: Counter[str] = field(default_factory=Counter)
    disagreeing: list[int] | None = None
    """Choices of the first schedule on which rules and oracle disagree."""
    complete: bool = True

    def add(self, schedules: list[Schedule]) -> None:
        """Judge some schedules and count them; empties the list."""
        judge(schedules)
        for schedule in schedules:
            self.outcomes[schedule.outcome.value] += 1
            self.rules.update(schedule.rules.keys())
            rank = schedule.outcome.rank
            if rank > self.worst_rank:
                self.worst, self.worst_rank = schedule.choices, rank
            if schedule.disagreement is not None:
                self.disagreements[schedule.disagreement] += 1
                self.disagreeing = self.disagreeing or schedule.choices
        schedules.clear()

    def merge(self, other: "Found") -> None:
        """Put what another part has found to this."""
        self.tally.schedules += other.tally.schedules
        self.tally.states += other.tally.states
        self.tally.redundant += other.tally.redundant
        self.outcomes += other.outcomes
        self.rules += other.rules
        self.disagreements += other.disagreements
        self.disagreeing = self.disagreeing or other.disagreeing
        if other.worst_rank > self.worst_rank:
            self.worst, self.worst_rank = other.worst, other.worst_rank
        self.complete &= other.complete

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {
            "schedules": self.tally.schedules,
            "states": self.tally.states,
            "redundant": self.tally.redundant,
            "outcomes": dict(self.outcomes),
            "worst": self.worst,
            "worst_rank": self.worst_rank,
            "rules": dict(self.rules),
            "disagreements": dict(self.disagreements),
            "disagreeing": self.disagreeing,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Found":
        """What `to_json` made. Raises KeyError, TypeError for anything else."""
        return cls(
            Tally(values["schedules"], values["states"], values["redundant"]),
            Counter(values["outcomes"]),
            values["worst"],
            values["worst_rank"],
            Counter(values["rules"]),
            Counter(values["disagreements"]),
            values["disagreeing"],
        )


def run_task(
    space: Space,
    task: Task,
    *,
    limit: int | None = None,
    stop: Callable[[Found], bool] | None = None,
    runs: Runs | None = None,
) -> Found:
    """Search behind `task`, to the end, or for `limit` schedules, or until `stop` says so (asked once a batch)."""
    runs = Runs(space) if runs is None else runs
    return drain(runs, Exhaustive(runs, task.prefix, task.sleep), limit, stop)


def drain(
    runs: Runs,
    search: Any,
    limit: int | None = None,
    stop: Callable[[Found], bool] | None = None,
) -> Found:
    """Take from a search what it yields, judged."""
    found, batch = Found(search.tally), []
    for choices, world in search:
        batch.append(finished(runs, choices, world))
        if len(batch) == BATCH or (stop is not None and batch[-1].wrong):
            found.add(batch)
            if stop is not None and stop(found):
                found.complete = False
                break
        if limit is not None and search.tally.schedules >= limit:
            found.complete = False
            break
    runs.end()
    found.add(batch)
    return found


def cut(runs: Runs, count: int = TASKS) -> list[Task]:
    """At least `count` tasks that are the whole search together, as far as it has so many beginnings."""
    tasks = [Task()]
    while len(tasks) < count:
        longer = [child for task in tasks for child in _children(runs, task)]
        if longer == tasks or not longer:
            break
        tasks = longer
    runs.end()
    return tasks


def _children(runs: Runs, task: Task) -> list[Task]:
    world = runs.begin()
    for number in task.prefix:
        world.take(world.processes[number])
    enabled = {process.number: process.footprint for process in world.enabled()}
    if not enabled or runs.is_quiet(world):
        return [task]
    asleep = {number: world.processes[number].footprint for number in task.sleep}
    children = []
    for number, mark in enabled.items():
        if number in asleep:
            continue
        left = tuple(other for other, its in asleep.items() if other != number and not its.touch & mark.conflict)
        children.append(Task((*task.prefix, number), left))
        asleep[number] = mark
    return children


__all__ = ["TASKS", "Found", "Task", "cut", "drain", "run_task"]
