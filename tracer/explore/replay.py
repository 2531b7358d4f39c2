"""A schedule in a file: what it takes to run it again, bit by bit."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockstack.sim.models import MODELS
from blockstack.sim.world import World
from blockstack.strategies import STRATEGIES, Strategy
from tracer.errors import UsageError
from tracer.explore.guest import parse
from tracer.explore.judge import Outcome, Schedule, finished, judge, operations
from tracer.explore.space import MAX_STEPS, Runs, Space, digest
from tracer.output import write_text
from tracer.report.escape import printable
from tracer.trace import TraceMeta, write

SCHEMA = "eofrace.schedule/1"
MAX_BYTES = 1 << 20
"""Bytes of a file that is still read."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A schedule by name and number. `choices`: the process that takes each step."""

    strategy: str
    model: str
    guest: str
    cluster_size: int
    tight: bool
    late: bool
    choices: tuple[int, ...]
    outcome: str
    wrong_sectors: tuple[int, ...]
    digest: str

    def space(self, strategies: Mapping[str, Strategy] = STRATEGIES) -> Space:
        """Where it belongs. Raises UsageError."""
        if self.strategy not in strategies:
            raise UsageError(f"the schedule is of an unknown strategy, {printable(self.strategy)!r}")
        if self.model not in MODELS:
            raise UsageError(f"the schedule is of an unknown model, {printable(self.model)!r}")
        guest = parse(self.guest, self.cluster_size)
        return Space(strategies[self.strategy], MODELS[self.model], guest, self.tight, self.late)


def save(path: Path, space: Space, schedule: Schedule) -> Saved:
    """Write a schedule, run once more by a driver that remembers nothing. Raises UsageError for the path."""
    runs = Runs(space)
    world = runs.replay(schedule.choices, runs.live())
    assert world is not None, "a schedule that was found can be run again"
    runs.finish(world)
    runs.end()
    saved = Saved(
        space.strategy.name,
        space.model.name,
        str(space.guest),
        space.guest.cluster_size,
        space.tight,
        space.late,
        tuple(schedule.choices),
        schedule.outcome.value,
        tuple(schedule.wrong),
        digest(world),
    )
    write_text(path, json.dumps({"schema": SCHEMA, **dataclasses.asdict(saved)}) + "\n")
    return saved


def load(path: Path) -> Saved:
    """Read a schedule. Raises UsageError for everything that is wrong with the file."""
    name = printable(str(path))
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name}: cannot open the schedule: {error.strerror}") from error
    try:
        values = json.loads(text) if len(text) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not a schedule: {printable(str(error))}") from error
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise UsageError(f"{name}: not a schedule ({SCHEMA})")
    return _checked(name, values)


def _checked(name: str, values: dict[str, Any]) -> Saved:
    kinds: dict[str, type] = {
        "strategy": str,
        "model": str,
        "guest": str,
        "cluster_size": int,
        "tight": bool,
        "late": bool,
        "choices": list,
        "outcome": str,
        "wrong_sectors": list,
        "digest": str,
    }
    if set(values) != set(kinds) or any(type(values[key]) is not kind for key, kind in kinds.items()):
        raise UsageError(f"{name}: not a schedule: it has other fields than {', '.join(kinds)}")
    numbers = [*values["choices"], *values["wrong_sectors"]]
    if any(type(number) is not int or number < 0 for number in numbers) or len(values["choices"]) > MAX_STEPS:
        raise UsageError(f"{name}: not a schedule: its choices are numbers of processes, {MAX_STEPS} at most")
    size = values["cluster_size"]
    if size not in (2048, 4096, 8192, 16384, 65536):
        raise UsageError(f"{name}: not a schedule: clusters of {size} bytes")
    return Saved(**{**values, "choices": tuple(values["choices"]), "wrong_sectors": tuple(values["wrong_sectors"])})


def run_again(saved: Saved, strategies: Mapping[str, Strategy] = STRATEGIES) -> tuple[Runs, Schedule, bool]:
    """Run it with a driver that remembers nothing; the last value says whether it was the same, bit by bit.

    Raises UsageError where a choice cannot be made: the schedule is another driver's, or model's.
    """
    runs, world = _again(saved, strategies)
    schedule = finished(runs, saved.choices, world)
    judge([schedule])
    return runs, schedule, digest(world) == saved.digest and schedule.outcome is Outcome(saved.outcome)


def write_trace(path: Path, saved: Saved) -> None:
    """Write the run's system calls as a trace (eofrace.trace/1), which every reader of traces takes."""
    runs, world = _again(saved, STRATEGIES)
    ops = operations([finished(runs, saved.choices, world)])
    meta = TraceMeta(
        mechanisms={op: "simulation" for op in ("aio_write", "fallocate", "truncate")},
        command=("eofrace", "explore", "--replay"),
        strategy=saved.strategy,
        fs=saved.model,
        aio="native",
        evidence="simulation",
    )
    write(path, ops, meta)


def _again(saved: Saved, strategies: Mapping[str, Strategy]) -> tuple[Runs, World]:
    runs = Runs(saved.space(strategies))
    world = runs.replay(saved.choices, runs.live())
    if world is None:
        raise UsageError("the schedule cannot be run here: it was made by another version of the driver or the model")
    runs.finish(world)
    runs.end()
    return runs, world
