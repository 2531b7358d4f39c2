"""The system as file-posix has it in a simulation: everything that it asks for is handed to whoever drives the run."""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from blockstack.aio import Engine
from blockstack.aio.batch import BatchedEngine, Pending
from blockstack.fallocate.calls import FileCalls
from blockstack.settled import Uncancellable
from blockstack.sim.calls import CallKind, Request
from blockstack.sim.inode import BLOCK

if TYPE_CHECKING:
    from blockstack.sim.driver import LiveDriver, Setting


class SimulationError(Exception):
    """The driver did what the simulation has no answer to, or not what it did before: a bug, never a finding."""


class SimFile:
    """The file as the driver has it open (`blockstack.system.OpenFile`)."""

    def __init__(self, setting: "Setting", live: "LiveDriver") -> None:
        self.size = setting.size
        self.identity = 0, 1
        self.request_alignment = BLOCK
        self.is_xfs = setting.model.is_xfs
        self.file_system = setting.model.file_system
        self.calls: FileCalls = SimCalls(live)
        self.engine: Engine = SimEngine(live)

    def close(self) -> None:
        """Nothing is held."""


class SimEngine(BatchedEngine):
    """What Linux AIO is to the driver: a batch goes out at the end of the turn, completions come one by one.

    Each request of a batch enters the kernel by itself, in any order, and while one is held off there the driver goes
    on: more than io_submit(2) allows, as much as io_uring and threads do.
    """

    def __init__(self, live: "LiveDriver") -> None:
        super().__init__(-1, None)
        self._live = live
        self._in_flight = 0

    def close(self) -> None:
        """Nothing is held."""

    def _room(self) -> int:
        return 128

    def _busy(self) -> bool:
        return self._in_flight > 0

    def _send(self, batch: list[Pending]) -> int:
        for pending in batch:
            self._in_flight += 1
            self._ask(pending)
        return len(batch)

    def _ask(self, pending: Pending) -> None:
        def deliver(result: int, data: bytes) -> None:
            self._in_flight -= 1
            if not pending.write:
                pending.buffer.view[: len(data)] = data
            self._end(pending, result)
            self._schedule()
            pending.future.set_result(result)

        kind = CallKind.WRITE if pending.write else CallKind.READ
        data = bytes(pending.buffer.view[: pending.length]) if pending.write else b""
        self._live.ask(Request(kind, pending.offset, pending.length, 0, pending.request, data), deliver)


class _Asked(BaseException):
    """Leaves a thread's function at its system call, whose result is not known yet."""

    def __init__(self, request: Request) -> None:
        self.request = request


class SimCalls(FileCalls):
    """The thread pool and its system calls. A thread's function makes one system call and does nothing beside it."""

    def __init__(self, live: "LiveDriver") -> None:
        super().__init__(-1, None)
        self._live = live
        self._result: int | None = None

    def size(self) -> int:
        """Not for the loop's own thread: what it may see would have to be among what its steps touch."""
        raise SimulationError("a driver that asks for the size between two requests is not simulated")

    def hole(self, offset: int) -> tuple[bool, int]:
        """Not simulated: everything is data."""
        raise OSError(errno.EOPNOTSUPP, "no SEEK_DATA on a simulated file")

    async def run(self, call: Callable[[], None]) -> None:
        """Run `call` as a thread of its own, handed over at the end of the turn (blockstack.workers)."""
        future: Uncancellable[None] = Uncancellable()
        self._live.loop.call_soon(self._put, call, future)
        await future

    def fallocate(self, mode: int, offset: int, length: int, request: int) -> None:
        """fallocate(2) in a thread. Raises OSError."""
        self._system_call(Request(CallKind.FALLOCATE, offset, length, mode, request, b""))

    def ftruncate(self, size: int, request: int) -> None:
        """ftruncate(2) in a thread. Raises OSError."""
        self._system_call(Request(CallKind.TRUNCATE, size, 0, 0, request, b""))

    async def fdatasync(self) -> None:
        """fdatasync(2) in a thread. Raises OSError."""
        await self.run(lambda: self._system_call(Request(CallKind.SYNC, 0, 0, 0, 0, b"")))

    def close(self) -> None:
        """Nothing is held."""

    def _put(self, function: Callable[[], None], future: "Uncancellable[None]") -> None:
        self._result = None
        try:
            function()
        except _Asked as asked:
            request = asked.request
        else:
            raise SimulationError("a thread without a system call")

        def deliver(result: int, data: bytes) -> None:
            self._result = result
            try:
                function()
            except OSError as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        self._live.ask(request, deliver)

    def _system_call(self, request: Request) -> None:
        if self._result is None:
            raise _Asked(request)
        result, self._result = self._result, None
        if result < 0:
            raise OSError(-result, os.strerror(-result))
