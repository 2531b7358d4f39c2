"""Every schedule of a space, as far as it can matter: source sets with sleep sets, and naive enumeration beside it.

The reduction is that of Abdulla, Aronsson, Jonsson and Sagonas, "Optimal dynamic partial order reduction" (POPL 2014),
algorithm 1 (Source-DPOR): after each step of a run, every earlier step that races with it gets the other one's process
to try first. Steps that wait (for a lock, for direct I/O to drain) may be let go by one step and held off by another:
for them all earlier dependent steps that do not happen before by themselves count as races, not only the immediate
ones, and steps that were still waiting at the end of a run are looked at as if they had been taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blockstack.sim.footprint import Footprint
from blockstack.sim.world import Process, World
from tracer.explore.space import MAX_STEPS, Runs


@dataclass(slots=True)
class Tally:
    """How much was searched. `states`: points at which a choice was made, each prefix of a schedule counted once."""

    schedules: int = 0
    states: int = 0
    redundant: int = 0
    """Runs given up because whatever could follow had been seen already (all that could run was asleep)."""


class _Point:
    """One state of the current run, and what is to be tried from it."""

    __slots__ = ("chosen", "done", "enabled", "sleep", "wanted")

    def __init__(self, enabled: frozenset[int], sleep: dict[int, Footprint], chosen: int) -> None:
        self.enabled = enabled
        self.sleep = sleep
        self.chosen = chosen
        self.done: dict[int, Footprint] = {}
        self.wanted = {chosen}


class Exhaustive:
    """All schedules that begin with `prefix`, one of every class of equivalent ones. `sleep`: processes whose next step
    need not be tried first behind the prefix.

    There is one world, in which steps are taken and taken back.
    """

    def __init__(self, runs: Runs, prefix: Sequence[int] = (), sleep: Sequence[int] = ()) -> None:
        self.tally = Tally()
        self._runs = runs
        self._first = len(prefix)
        self._points: list[_Point] = []
        # Of each step of the current run: its process, footprint, and what happened before it, as a bit mask of steps.
        self._process: list[int] = []
        self._touch: list[int] = []
        self._conflict: list[int] = []
        self._before: list[int] = []
        self._world = world = runs.begin()
        self._maker = [-1] * len(world.processes)
        """Of each process: the step that made it, -1 for the guest's."""
        self._steps: dict[int, list[int]] = {}
        """Steps of each process."""
        for number in prefix:
            self._take(_Point(frozenset(), {}, number), world.processes[number])
        self._sleep = {number: world.processes[number].footprint for number in sleep}

    def __iter__(self) -> Iterator[tuple[list[int], World]]:
        """The choices and the final state of every complete run, which is taken back when the next one is asked for."""
        sleep: dict[int, Footprint] | None = self._sleep
        while sleep is not None:
            if self._forward(sleep):
                self.tally.schedules += 1
                yield list(self._process), self._world
            else:
                self.tally.redundant += 1
            sleep = self._back()
        self._runs.end()

    def _forward(self, sleep: dict[int, Footprint]) -> bool:
        """Take whatever comes first until the run is over; False if all that could come was asleep."""
        world, runs = self._world, self._runs
        while True:
            self.tally.states += 1
            enabled = world.enabled()
            if not enabled or runs.is_quiet(world):
                self._waiting_races()
                return True
            if len(self._points) >= MAX_STEPS:
                raise RuntimeError(f"a run of more than {MAX_STEPS} steps")
            chosen = next((process for process in enabled if process.number not in sleep), None)
            if chosen is None:
                return False
            point = _Point(frozenset([process.number for process in enabled]), sleep, chosen.number)
            sleep = self._take(point, chosen)

    def _back(self) -> dict[int, Footprint] | None:
        """Take steps back to the last point at which something is left to be tried, and try that. What is asleep then;
        None where nothing is left.
        """
        world, points = self._world, self._points
        while len(points) > self._first:
            point = points.pop()
            world.undo()
            del self._maker[len(world.processes) :]
            self._steps[self._process.pop()].pop()
            for recorded in (self._touch, self._conflict, self._before):
                recorded.pop()
            left = [number for number in point.wanted if number not in point.done and number not in point.sleep]
            if left:
                point.chosen = min(left)
                return self._take(point, world.processes[point.chosen])
        return None

    def _take(self, point: _Point, process: Process) -> dict[int, Footprint]:
        """Take a step of `process` from `point`; what is asleep behind it."""
        mark, number, at = process.footprint, process.number, len(self._points)
        asleep: dict[int, Footprint] = {}
        for some in (point.sleep, point.done):
            for other, its in some.items():
                if other != number and not its.touch & mark.conflict:
                    asleep[other] = its
        point.done[number] = mark
        self._points.append(point)
        self._process.append(number)
        self._touch.append(mark.touch)
        self._conflict.append(mark.conflict)
        self._before.append(0)
        self._races(at, number, mark.touch, process.guarded)
        self._world.take(process)
        self._steps.setdefault(number, []).append(at)
        new = len(self._world.processes) - len(self._maker)
        if new:
            self._maker.extend([at] * new)
        return asleep

    def _races(self, at: int, number: int, touch: int, guarded: bool) -> None:
        """What happened before the step `at` of process `number`, and what it races with."""
        before, conflict = self._before, self._conflict
        steps = self._steps.get(number)
        previous = steps[-1] if steps else self._maker[number]
        own = before[previous] if previous >= 0 else 0
        mask = own
        racing: list[int] = []
        for earlier in range(at - 1, -1, -1):
            if mask >> earlier & 1:
                if guarded and touch & conflict[earlier] and not own >> earlier & 1:
                    racing.append(earlier)
            elif touch & conflict[earlier]:
                racing.append(earlier)
                mask |= before[earlier]
        mask |= 1 << at
        if at < len(before):
            before[at] = mask
        for earlier in racing:
            if earlier >= self._first:
                self._reverse(earlier, at, number, mask)

    def _reverse(self, earlier: int, at: int, number: int, mask: int) -> None:
        """Have the step `at` tried before the step `earlier`, with what it needs (the initials of the rest)."""
        point, before = self._points[earlier], self._before
        rest = [step for step in range(earlier + 1, at) if not before[step] >> earlier & 1]
        bits = 1 << at
        for step in rest:
            bits |= 1 << step
        initials = [self._process[step] for step in rest if before[step] & bits == 1 << step]
        if mask & bits == 1 << at:
            initials.insert(0, number)
        for one in initials:
            if one in point.wanted or one in point.sleep:
                return
        for one in initials:
            if one in point.enabled:
                point.wanted.add(one)
                return

    def _waiting_races(self) -> None:
        """Steps that wait still could have been taken earlier."""
        for process in self._world.live:
            if not self._runs.is_last(process):
                self._races(len(self._process), process.number, process.footprint.touch, True)


class Naive:
    """Every schedule, without any reduction: what the reduction is measured against."""

    def __init__(self, runs: Runs) -> None:
        self.tally = Tally()
        self._runs = runs

    def __iter__(self) -> Iterator[tuple[list[int], World]]:
        """The choices and the final state of every run."""
        world = self._runs.begin()
        left: list[list[int]] = []
        choices: list[int] = []
        while True:
            self.tally.states += 1
            enabled = world.enabled()
            if enabled and not self._runs.is_quiet(world):
                left.append([process.number for process in enabled[1:]])
                choices.append(enabled[0].number)
                world.take(enabled[0])
                continue
            self.tally.schedules += 1
            yield list(choices), world
            while choices:
                world.undo()
                choices.pop()
                if left[-1]:
                    choices.append(left[-1].pop(0))
                    world.take(world.processes[choices[-1]])
                    break
                left.pop()
            else:
                self._runs.end()
                return
