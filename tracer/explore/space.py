"""What is searched: one strategy on one model under one guest, and the runs that start from there."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from blockstack.journal import Journal
from blockstack.sim.calls import CallKind
from blockstack.sim.driver import LiveDriver, MemoDriver, Memory, Setting
from blockstack.sim.inode import BLOCK
from blockstack.sim.models import FileSystem
from blockstack.sim.system import SimulationError
from blockstack.sim.world import Process, World
from blockstack.strategies import Strategy
from tracer.explore.guest import Guest, expected
from tracer.explore.image import Reader, prepared

MAX_STEPS = 2000
"""Steps of one run; a driver that takes more does not come to an end."""


@dataclass(frozen=True, slots=True)
class Space:
    """All schedules of `guest` on a `model` under a `strategy`. `tight`: the image soon needs a refcount block."""

    strategy: Strategy
    model: FileSystem
    guest: Guest
    tight: bool = False
    late: bool = False
    """Whether a zero-write may be late (`Setting.late`)."""

    @property
    def after(self) -> list[tuple[int, ...]]:
        """What each guest request waits for; behind them comes a flush, which waits for all."""
        own = [action.after for action in self.guest.actions]
        return [*own, tuple(range(len(own)))]

    def setting(self) -> Setting:
        """What a run begins with."""
        image = prepared(self.guest.cluster_size, tight=self.tight)
        requests = tuple(action.request() for action in self.guest.actions)
        guest = (*requests, lambda disk: disk.flush())
        failing = frozenset(action.data for action in self.guest.actions if action.verb == "bad")
        return Setting(self.strategy, self.model, image.blocks, image.size, guest, failing, self.late)


class Runs:
    """Makes worlds of one space, whose drivers share what they remember."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.memory = Memory(space.setting())
        self._after = space.after
        self._last = len(self._after) - 1
        self._driver: MemoDriver | LiveDriver | None = None
        self._expected: dict[tuple[tuple[int, int], ...], list[tuple[int, bytes | None]]] = {}

    def begin(self) -> World:
        """A new run; the one before is given up."""
        self.end()
        self._driver = MemoDriver(self.memory)
        return World(self.memory.setting, self._driver, self._after)

    def live(self, journal: Journal | None = None) -> World:
        """A run with a driver that remembers nothing."""
        self.end()
        self._driver = LiveDriver(self.memory.setting, journal)
        return World(self.memory.setting, self._driver, self._after)

    def end(self) -> None:
        """Nothing runs any more."""
        if self._driver is not None:
            self._driver.abandon()
            self._driver = None

    def is_last(self, process: Process) -> bool:
        """Whether it is the flush at the end, behind which and in which there is nothing to choose."""
        return process.number == self._last

    def is_quiet(self, world: World) -> bool:
        """Whether all that is left is the flush at the end."""
        return len(world.live) == 1 and world.live[0].number == self._last and len(world.ended) == self._last

    def replay(self, choices: Sequence[int], world: World | None = None) -> World | None:
        """The run in which those processes take a step, one after the other, and then the first that can until all is
        quiet. None where one of them cannot.
        """
        world = self.begin() if world is None else world
        for number in choices:
            if number >= len(world.processes) or world.processes[number] not in world.enabled():
                return None
            world.take(world.processes[number])
        while not self.is_quiet(world) and (enabled := world.enabled()):
            world.take(enabled[0])
        return world

    def finish(self, world: World) -> None:
        """Take what is left: the flush at the end."""
        while enabled := world.enabled():
            world.take(enabled[0])

    def expected(self, world: World) -> list[tuple[int, bytes | None]]:
        """What the guest's sectors must hold now."""
        key = tuple(sorted(world.ended.items()))
        known = self._expected.get(key)
        if known is None:
            known = self._expected[key] = list(expected(self.space.guest, world.ended))
        return known

    def file(self, world: World) -> Reader:
        """The image as the flush at the end will leave it.

        What that writes depends on the driver alone, with nobody beside it: it is looked at once for each state of the
        driver, and put over the file.
        """
        inode, size = world.inode, self.space.guest.cluster_size
        if not self.is_quiet(world):
            return Reader(inode.blocks, inode.size, size)
        assert isinstance(self._driver, MemoDriver), "what a flush writes is remembered"
        node = self._driver.node
        if node.tail is None:
            node.tail = self._flushed(world)
        written, end = node.tail
        return Reader({**inode.blocks, **written} if written else inode.blocks, max(inode.size, end), size)

    def _flushed(self, world: World) -> tuple[dict[int, bytes], int]:
        """Blocks that the flush at the end writes, and where the last one ends."""
        steps = 0
        calls = len(world.calls)
        while enabled := world.enabled():
            world.take(enabled[0])
            steps += 1
        written: dict[int, bytes] = {}
        end = 0
        for call in world.calls[calls:]:
            if call.kind is CallKind.WRITE:
                first = call.offset // BLOCK
                written.update((first + at, call.data[at * BLOCK :][:BLOCK]) for at in range(call.length // BLOCK))
                end = max(end, call.behind)
            elif call.kind is not CallKind.SYNC:
                raise SimulationError(f"a flush with nothing beside it asks for {call.kind}")
        if self._last not in world.ended:
            raise SimulationError("a flush with nothing beside it does not end")
        for _ in range(steps):
            world.undo()
        return written, end

    def is_deadlock(self, world: World) -> bool:
        """Whether a run in which nothing can be done any more has left a request of the guest without an answer."""
        return len(world.ended) < self._last


def digest(world: World) -> str:
    """Tells one run from another, bit by bit: the file, and every system call with its steps."""
    sha = hashlib.sha256()
    for index in sorted(world.inode.blocks):
        sha.update(index.to_bytes(8, "big") + world.inode.blocks[index])
    sha.update(repr((world.inode.size, sorted(world.ended.items()))).encode())
    for call in world.calls:
        what = (call.kind.name, call.offset, call.length, call.flags, call.begin, call.applied, call.end, call.result)
        sha.update(repr(what).encode() + (call.data if call.kind is not CallKind.SYNC else b""))
    return sha.hexdigest()
