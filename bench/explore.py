"""`python -m bench explore`: schedules a second on one core, and what the reduction saves against naive enumeration."""

import sys
import time
from typing import Any

import click

from blockstack.sim.models import MODELS
from blockstack.strategies import STRATEGIES
from tracer.explore.guest import parse
from tracer.explore.search import Exhaustive, Naive
from tracer.explore.space import Runs, Space
from tracer.explore.tasks import Found, drain
from tracer.output import JsonFile

SCHEMA = "eofrace.bench-explore/1"
WANTED_RATE = 2000
"""Schedules a second of CPU time."""
WANTED_REDUCTION = 10

_SPEED = ("serialise", "zfs-11797", "sub@0 full@1 sub@2")
"""A space of three writes that is large enough to be measured in."""
_REDUCTION = ("none", "xfs-pre-5.5", "sub@0 full@1")
"""The two writes of the race."""


@click.command()
@click.option("--schedules", type=click.IntRange(1000), default=20_000, show_default=True, help="To measure the rate.")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
def explore(schedules: int, json_file: str | None) -> None:
    """Every schedule is run, judged by the hazard rules and compared byte by byte; the times are of one core's CPU."""
    into = JsonFile(json_file)
    speed = _measured(_SPEED, Exhaustive, schedules)
    reduced, naive = _measured(_REDUCTION, Exhaustive, None), _measured(_REDUCTION, Naive, None)
    reduction = naive["schedules"] / reduced["schedules"]
    result = {
        "schema": SCHEMA,
        "speed": speed,
        "reduced": reduced,
        "naive": naive,
        "reduction": reduction,
        "same_outcomes": set(reduced["outcomes"]) == set(naive["outcomes"]),
        "reached": speed["rate"] >= WANTED_RATE
        and reduction >= WANTED_REDUCTION
        and set(reduced["outcomes"]) == set(naive["outcomes"]),
    }
    into.write(result)
    if not into.is_stdout:
        for name in ("speed", "reduced", "naive"):
            _print(name, result[name])
        click.echo(f"reduction {reduction:.1f} x (wanted {WANTED_REDUCTION}), rate wanted {WANTED_RATE}/s")
    sys.exit(0 if result["reached"] else 1)


def _measured(space: tuple[str, str, str], kind: type[Exhaustive] | type[Naive], limit: int | None) -> dict[str, Any]:
    strategy, model, guest = space
    runs = Runs(Space(STRATEGIES[strategy], MODELS[model], parse(guest, 4096)))
    started = time.process_time()
    search = kind(runs)
    found: Found = drain(runs, search, limit)
    seconds = time.process_time() - started
    return {
        "space": f"{strategy} x {model}, {guest}",
        "schedules": found.tally.schedules,
        "states": found.tally.states,
        "turns": runs.memory.turns,
        "outcomes": dict(found.outcomes),
        "complete": found.complete,
        "cpu_seconds": seconds,
        "rate": found.tally.schedules / seconds,
    }


def _print(name: str, row: dict[str, Any]) -> None:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in row["outcomes"].items())
    click.echo(
        f"{name}: {row['space']}: {row['schedules']:,} schedules{'' if row['complete'] else ' (stopped)'},"
        f" {row['states']:,} states, {row['turns']:,} turns of the driver, {outcomes};"
        f" {row['cpu_seconds']:.1f} s of CPU, {row['rate']:,.0f} a second"
    )
