"""One run of the driver on a simulated file: processes, of which whoever drives the run chooses the next.

A *process* is a sequential thing that the outside world decides about: a guest request that has yet to arrive, or a
system call from the moment the driver has asked for it until its end reaches the driver. Its steps are those of the
call in the file system's model, and a last one, in which the completion is delivered and the driver runs until nothing
is ready. A guest request has that one step alone.
"""

from collections.abc import Callable, Sequence

from blockstack.sim.calls import Call, Clock, Request, Step, Steps
from blockstack.sim.driver import Driver, Setting, Told
from blockstack.sim.footprint import LOOP, Footprint, footprint
from blockstack.sim.inode import Inode

_IN_DRIVER = footprint(LOOP)


class Process:
    """`number` counts processes in the order in which they come to be, from 0; `call` is None for a guest request."""

    __slots__ = ("_ready", "_result", "_steps", "call", "done", "next", "number", "steps_taken")

    def __init__(self, number: int, call: Call | None, steps: Steps | None, ready: Callable[[], bool] | None) -> None:
        self.number = number
        self.call = call
        self.done = False
        self.steps_taken = 0
        self.next: Step | None = None
        """The next step in the kernel; None: what comes next is a turn of the driver."""
        self._steps = steps
        self._ready = ready
        self._result = 0
        if steps is not None:
            self._advance(steps)

    @property
    def guarded(self) -> bool:
        """Whether its next step may have to wait for others."""
        return (self._ready if self.next is None else self.next.ready) is not None

    @property
    def enabled(self) -> bool:
        """Whether its next step can be taken now."""
        ready = self._ready if self.next is None else self.next.ready
        return not self.done and (ready is None or ready())

    @property
    def footprint(self) -> Footprint:
        """Of the next step, in this state."""
        return _IN_DRIVER if self.next is None else self.next.footprint

    @property
    def step_name(self) -> str:
        """What the next step is, for people."""
        if self.next is not None:
            return self.next.name
        return "the guest sends it" if self.call is None else "the driver is told"

    @property
    def told(self) -> Told:
        """What the driver is told at its end."""
        return Told(self.number, self._result, self.call.data if self.call and self.call.reads else b"")

    def step(self) -> None:
        """Take the next step in the kernel."""
        assert self._steps is not None
        self._advance(self._steps)

    def _advance(self, steps: Steps) -> None:
        try:
            self.next = next(steps)
        except StopIteration as stop:
            self.next, self._result = None, stop.value
        except OSError as error:
            self.next, self._result = None, -(error.errno or 0)


class World:
    """The simulated kernel, its one file, and a driver. `after`: for each guest request those that it waits for."""

    def __init__(self, setting: Setting, driver: Driver, after: Sequence[Sequence[int]]) -> None:
        self.inode = Inode(setting.blocks, setting.size)
        self.clock = Clock()
        self.processes: list[Process] = []
        self.live: list[Process] = []
        """Those that are not done, in order."""
        self.calls: list[Call] = []
        """Every system call so far, in the order in which the driver made them."""
        self.ended: dict[int, int] = {}
        """Guest requests that have ended, each with 0 or -errno."""
        self._model = setting.model
        self._driver = driver
        for needed in after:
            self._start(None, None, self._all_ended(needed) if needed else None)

    def enabled(self) -> list[Process]:
        """Processes that can take a step now, in order of their numbers."""
        return [process for process in self.live if process.enabled]

    def take(self, process: Process) -> None:
        """Let `process` take its next step; in the driver, that is a whole turn."""
        self.clock.now += 1
        process.steps_taken += 1
        if process.next is not None:
            process.step()
            return
        process.done = True
        self.live.remove(process)
        reaction = self._driver.tell(process.told)
        for number, result in reaction.ended:
            self.ended[number] = result
        for request in reaction.requests:
            self._call(request)

    def _call(self, request: Request) -> None:
        call = Call(request, self.clock)
        self.calls.append(call)
        self._start(call, _to_the_end(self._model.steps(self.inode, call), call, self.inode), None)

    def _start(self, call: Call | None, steps: Steps | None, ready: Callable[[], bool] | None) -> None:
        process = Process(len(self.processes), call, steps, ready)
        self.processes.append(process)
        self.live.append(process)

    def _all_ended(self, needed: Sequence[int]) -> Callable[[], bool]:
        return lambda: all(number in self.ended for number in needed)


def _to_the_end(steps: Steps, call: Call, inode: Inode) -> Steps:
    """The steps of `call`, whose end is noted."""
    try:
        call.result = yield from steps
    except OSError as error:
        call.result = -(error.errno or 0)
        raise
    finally:
        call.end = call.clock.now
        call.size_end = inode.size
    return call.result
