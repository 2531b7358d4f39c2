"""One run of the driver on a simulated file: processes, of which whoever drives the run chooses the next.

A *process* is a sequential thing that the outside world decides about: a guest request that has yet to arrive, or a
system call from the moment the driver has asked for it until its end reaches the driver. Its steps are those of the
call in the file system's model, and a last one, in which the completion is delivered and the driver runs until nothing
is ready. A guest request has that one step alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from blockstack.sim.calls import Call, CallKind, Clock, Request, Step
from blockstack.sim.driver import Driver, Setting, Told
from blockstack.sim.footprint import LOOP, Footprint, footprint
from blockstack.sim.inode import Inode

_IN_DRIVER = footprint(LOOP)


class Process:
    """`number` counts processes in the order in which they come to be, from 0; `call` is None for a guest request."""

    __slots__ = ("call", "next", "number", "ready")

    def __init__(self, number: int, call: Call | None, step: Step | None, ready: Callable[[], bool] | None) -> None:
        self.number = number
        self.call = call
        self.next = step
        """The next step in the kernel; None: what comes next is a turn of the driver."""
        self.ready = ready
        """When that turn can be; None: at any time."""

    @property
    def guarded(self) -> bool:
        """Whether its next step may have to wait for others."""
        return (self.ready if self.next is None else self.next.ready) is not None

    @property
    def enabled(self) -> bool:
        """Whether its next step can be taken now."""
        ready = self.ready if self.next is None else self.next.ready
        return ready is None or ready()

    @property
    def footprint(self) -> Footprint:
        """Of the next step, in this state."""
        return _IN_DRIVER if self.next is None else self.next.footprint

    @property
    def step_name(self) -> str:
        """What the next step is, for people."""
        if self.next is not None:
            return self.next.name
        if self.call is None:
            return "the guest sends it"
        return "goes on" if self.call.kind is CallKind.YIELD else "the driver is told"

    @property
    def told(self) -> Told:
        """What the driver is told at its end."""
        call = self.call
        if call is None:
            return Told(self.number, 0, b"")
        return Told(self.number, call.result, call.data if call.reads else b"")


class World:
    """The simulated kernel, its one file, and a driver. `after`: for each guest request those that it waits for."""

    def __init__(self, setting: Setting, driver: Driver, after: Sequence[Sequence[int]]) -> None:
        self.inode = Inode(setting.blocks, setting.size)
        self.clock = Clock()
        self.processes: list[Process] = []
        self.live: list[Process] = []
        """Those that are not done, in order of their numbers."""
        self.ended: dict[int, int] = {}
        """Guest requests that have ended, each with 0 or -errno."""
        self.ended_at: dict[int, int] = {}
        """At which step."""
        self.sent_at: dict[int, int] = {}
        """At which step each of them was sent."""
        self.driver = driver
        self._model = setting.model
        self._failing = setting.failing
        self._taken: list[tuple[Any, ...]] = []
        for needed in after:
            self._start(None, None, self._all_ended(needed) if needed else None)

    @property
    def calls(self) -> list[Call]:
        """Every system call so far, in the order in which the driver made them."""
        return [process.call for process in self.processes if process.call is not None]

    def enabled(self) -> list[Process]:
        """Processes that can take a step now, in order of their numbers."""
        return [process for process in self.live if process.enabled]

    def take(self, process: Process) -> None:
        """Let `process` take its next step; in the driver, that is a whole turn."""
        inode, step, call = self.inode, process.next, process.call
        self.clock.now += 1
        if step is None:
            self._taken.append((None, len(self.processes), self.live, self.ended, self.ended_at))
            self._turn(process)
            return
        assert call is not None
        self._taken.append(
            (
                process,
                step,
                call.state,
                inode.size,
                inode.private_size,
                inode.locked,
                inode.dio,
                len(inode.replaced),
            )
        )
        following = step.act(inode, call)
        if isinstance(following, Step):
            process.next = following
        else:
            process.next = None
            call.ends(inode, following)

    def undo(self) -> None:
        """Go back to before the last step that was taken. The driver must be able to (`MemoDriver.untell`)."""
        self.clock.now -= 1
        taken = self._taken.pop()
        if taken[0] is None:
            _, processes, self.live, self.ended, self.ended_at = taken
            del self.processes[processes:]
            self.driver.untell()
            return
        process, inode = taken[0], self.inode
        process.next, process.call.state = taken[1], taken[2]
        inode.size, inode.private_size, inode.locked, inode.dio = taken[3:7]
        inode.go_back(taken[7])

    def _turn(self, process: Process) -> None:
        self.live = [other for other in self.live if other is not process]
        if process.call is None:
            self.sent_at[process.number] = self.clock.now
        reaction = self.driver.tell(process.told)
        if reaction.ended:
            self.ended = {**self.ended, **dict(reaction.ended)}
            self.ended_at = {**self.ended_at, **dict.fromkeys((number for number, _ in reaction.ended), self.clock.now)}
        for request in reaction.requests:
            self._call(request)

    def _call(self, request: Request) -> None:
        call = Call(request, self.clock)
        if request.kind is CallKind.YIELD:
            step = None
        elif request.kind is CallKind.WRITE and request.data in self._failing:
            step = self._model.failing_write(self.inode, call)
        else:
            step = self._model.begin(self.inode, call)
        self._start(call, step, None)

    def _start(self, call: Call | None, step: Step | None, ready: Callable[[], bool] | None) -> None:
        process = Process(len(self.processes), call, step, ready)
        self.processes.append(process)
        self.live.append(process)

    def _all_ended(self, needed: Sequence[int]) -> Callable[[], bool]:
        return lambda: all(number in self.ended for number in needed)
