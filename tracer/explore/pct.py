"""Random schedules with a guarantee: probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte,
ASPLOS 2010).

Every process has a random priority, and the one with the highest that can go on does; at `depth` - 1 random steps the
one that just ran falls behind all others. A run with n processes and k steps meets a given bug of that depth (one that
needs so many orderings) with a probability of at least 1 / (n k^(depth - 1)), whatever the program is.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from blockstack.sim.world import World
from tracer.explore.search import Tally
from tracer.explore.space import MAX_STEPS, Runs

DEPTH = 3
"""Orderings that a bug may need; the race of the thread needs 2: sampling before the write, setting after it."""

_PROBES = 16  # runs that say how many steps a run has


@dataclass(frozen=True, slots=True)
class Bound:
    """What `runs` random runs promise."""

    processes: int
    steps: int
    depth: int
    runs: int

    @property
    def missed(self) -> float:
        """The probability, at most, that a bug of this depth was missed by all of them."""
        return float((1 - 1 / (self.processes * self.steps ** (self.depth - 1))) ** self.runs)


class Pct:
    """`count` random schedules, the same for the same seed."""

    def __init__(self, runs: Runs, count: int, seed: int, depth: int = DEPTH) -> None:
        self.tally = Tally()
        self._runs = runs
        self._count = count
        self._random = random.Random(seed)
        self._depth = depth
        self._steps = self._processes = 1

    @property
    def bound(self) -> Bound:
        """By the longest run so far."""
        return Bound(self._processes, self._steps, self._depth, self.tally.schedules)

    def __iter__(self) -> Iterator[tuple[list[int], World]]:
        """The choices and the final state of every run."""
        for _ in range(_PROBES):
            self._run(frozenset())
        for _ in range(self._count):
            changes = frozenset(self._random.sample(range(self._steps), min(self._depth - 1, self._steps)))
            choices, world = self._run(changes)
            self.tally.schedules += 1
            self.tally.states += len(choices)
            yield choices, world
        self._runs.end()

    def _run(self, changes: frozenset[int]) -> tuple[list[int], World]:
        world = self._runs.begin()
        choices: list[int] = []
        priority: dict[int, float] = {}
        while (enabled := world.enabled()) and not self._runs.is_quiet(world):
            if len(choices) >= MAX_STEPS:
                raise RuntimeError(f"a run of more than {MAX_STEPS} steps")
            for process in enabled:
                priority.setdefault(process.number, 1 + self._random.random())
            process = max(enabled, key=lambda one: priority[one.number])
            if len(choices) in changes:
                priority[process.number] = -float(len(choices))
                process = max(enabled, key=lambda one: priority[one.number])
            choices.append(process.number)
            world.take(process)
        self._steps = max(self._steps, len(choices))
        self._processes = max(self._processes, len(world.processes))
        return choices, world
