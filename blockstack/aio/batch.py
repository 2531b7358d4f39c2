"""What the asynchronous engines share: requests of one turn of the event loop go out in one system call.

QEMU batches with bdrv_io_plug(); here the end of the turn is the unplug. An engine says how many requests it has room
for, sends a batch, and reports what has completed.
"""

import asyncio
import errno
import os
from abc import ABC, abstractmethod
from collections import deque

from blockstack.buffers import AlignedBuffer
from blockstack.journal import Entry, Journal, Kind, sampled_size
from blockstack.settled import Uncancellable


class Pending:
    """One request from queueing to completion. Offsets and lengths in bytes."""

    __slots__ = ("buffer", "done", "entry", "future", "length", "offset", "request", "write")

    def __init__(
        self, write: bool, buffer: AlignedBuffer, length: int, offset: int, request: int, future: "asyncio.Future[int]"
    ) -> None:
        self.write = write
        self.buffer = buffer  # kept: the kernel knows only its address
        self.length = length
        self.offset = offset
        self.request = request
        self.future = future
        self.done = 0  # bytes read by an attempt that was short
        self.entry: Entry | None = None  # of the attempt in flight


class BatchedEngine(ABC):
    """Queue, batches, journal and errors. Created in the event loop that it works in."""

    def __init__(self, fd: int, journal: Journal | None) -> None:
        self._fd = fd
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Pending] = deque()
        self._scheduled = False

    @abstractmethod
    def _room(self) -> int:
        """How many requests can be sent now."""

    @abstractmethod
    def _busy(self) -> bool:
        """Whether anything is in flight, so that a completion will come."""

    @abstractmethod
    def _send(self, batch: list[Pending]) -> int:
        """Hand `batch` to the kernel; returns how many it took, from the first. Raises OSError if none."""

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        """Read into `buffer`. Returns the bytes read, fewer only at the end of the file. Raises OSError."""
        return await self._enqueue(False, buffer, length, offset, 0)

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        """Write `length` bytes. Raises OSError.

        A short write is ENOSPC (QEMU: qemu_laio_process_completion, luring_process_completions): the rest is not
        written.
        """
        if await self._enqueue(True, buffer, length, offset, request) != length:
            raise OSError(errno.ENOSPC, "short write")

    async def _enqueue(self, write: bool, buffer: AlignedBuffer, length: int, offset: int, request: int) -> int:
        future: Uncancellable[int] = Uncancellable(loop=self._loop)
        self._queue.append(Pending(write, buffer, length, offset, request, future))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._submit)
        result = await future
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _schedule(self) -> None:
        if not self._scheduled and self._queue and self._room():
            self._scheduled = True
            self._loop.call_soon(self._submit)

    def _submit(self) -> None:
        """Send as much of the queue as there is room for, in one system call."""
        self._scheduled = False
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), self._room()))]
        if not batch:
            return
        if self._journal is not None:
            self._begin(self._journal, batch)
        sent = failed = 0
        try:
            sent = self._send(batch)
        except OSError as error:
            failed = error.errno or errno.EIO
        for pending in reversed(batch[sent:]):
            self._unsend(pending)
            queue.appendleft(pending)
        if failed == errno.EAGAIN and self._busy():
            return  # tried again when something has completed
        if failed:
            # The error is the first request's (io_submit(2)); with nothing in flight EAGAIN would never clear.
            queue.popleft().future.set_result(-failed)
        self._schedule()

    def _begin(self, journal: Journal, batch: list[Pending]) -> None:
        size = sampled_size(self._fd)
        for pending in batch:
            if pending.write:
                pending.entry = journal.begin(
                    Kind.WRITE, pending.offset, pending.length, request=pending.request, size=size
                )

    def _unsend(self, pending: Pending) -> None:
        if self._journal is not None and pending.entry is not None:
            self._journal.entries.remove(pending.entry)
            pending.entry = None

    def _end(self, pending: Pending, result: int) -> None:
        """Tell the journal that the attempt in flight is over; `result` is bytes or -errno."""
        if self._journal is not None and pending.entry is not None:
            self._journal.end(pending.entry, result, self._fd)
