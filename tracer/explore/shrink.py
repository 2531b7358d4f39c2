"""Makes a counterexample small: fewest requests of the guest, then fewest switches from one process to another."""

import itertools

from tracer.explore.judge import Outcome, Schedule, finished, judge
from tracer.explore.search import Exhaustive
from tracer.explore.space import Runs, Space

MAX_SCHEDULES = 2_000
"""Schedules that are looked at for each guest with one request less."""


def shrink(space: Space, schedule: Schedule) -> tuple[Space, Schedule]:
    """The smallest schedule with the same outcome that greedy steps lead to, and the space that it belongs to."""
    space, schedule = _fewer_requests(space, schedule)
    return space, _fewer_switches(space, schedule)


def switches(choices: list[int]) -> int:
    """How often another process goes on than the one before."""
    return sum(one != other for one, other in itertools.pairwise(choices))


def _fewer_requests(space: Space, schedule: Schedule) -> tuple[Space, Schedule]:
    number = len(space.guest.actions) - 1
    while number >= 0 and len(space.guest.actions) > 1:
        smaller = Space(space.strategy, space.model, space.guest.without(number), space.tight, space.late)
        found = _find(smaller, schedule.outcome)
        if found is not None:
            space, schedule = smaller, found
        number -= 1
    return space, schedule


def _find(space: Space, outcome: Outcome) -> Schedule | None:
    runs = Runs(space)
    search = Exhaustive(runs)
    for choices, world in search:
        found = finished(runs, choices, world)
        if outcome is Outcome.EXPOSED or bool(found.wrong) or found.deadlock:
            judge([found])
            if found.outcome is outcome:
                runs.end()
                return found
        if search.tally.schedules >= MAX_SCHEDULES:
            runs.end()
            return None
    return None


def _fewer_switches(space: Space, schedule: Schedule) -> Schedule:
    runs = Runs(space)
    improved = True
    while improved:
        improved = False
        for choices in _joined(schedule.choices):
            world = runs.replay(choices)
            if world is None:
                continue
            found = finished(runs, choices, world)
            judge([found])
            if found.outcome is schedule.outcome and switches(choices) < switches(schedule.choices):
                schedule, improved = found, True
                break
    runs.end()
    return schedule


def _joined(choices: list[int]) -> "list[list[int]]":
    """The same steps, with one process' next stretch moved up behind its last one, or its last one down."""
    found = []
    for at in range(1, len(choices)):
        if choices[at] == choices[at - 1]:
            continue
        for later in range(at + 1, len(choices)):
            if choices[later] == choices[at - 1]:
                end = later + 1
                while end < len(choices) and choices[end] == choices[later]:
                    end += 1
                found.append([*choices[:at], *choices[later:end], *choices[at:later], *choices[end:]])
                break
        start = at - 1
        while start and choices[start - 1] == choices[at - 1]:
            start -= 1
        for later in range(at + 1, len(choices)):
            if choices[later] == choices[at - 1]:
                found.append([*choices[:start], *choices[at:later], *choices[start:at], *choices[later:]])
                break
    return found
