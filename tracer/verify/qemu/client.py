"""The guest's side of NBD: a disk with the calls that `blockstack.guest` makes, several in flight, over libnbd.

libnbd (Debian: python3-libnbd) is the NBD project's own client, and its state machine is made for an event loop of
somebody else. PyPI has no client that keeps requests in flight; nbdkit's and QEMU's Python code has none at all.
"""

import asyncio
import errno
import importlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from blockstack.node import Buffer
from tracer.errors import UnsupportedError
from tracer.verify.qemu.daemon import EXPORT, NAME, Daemon

_CONNECT_SECONDS = 60.0  # some tenths of one, but for an emulated machine
_ANSWER_SECONDS = 180.0  # a build that waits for itself would never


def import_libnbd() -> Any:
    """The module. Raises UnsupportedError where it is missing."""
    try:
        return importlib.import_module("nbd")
    except ImportError as error:
        raise UnsupportedError(
            f"libnbd's Python module is missing ({error}): install it (apt-get install python3-libnbd), and use the"
            " distribution's python3"
        ) from None


class NbdDisk:
    """One connection. Any number of calls may be awaited at once; offsets and lengths in bytes, errors are OSError."""

    def __init__(self, daemon: Daemon) -> None:
        self._nbd = import_libnbd()
        self._daemon = daemon
        self._loop = asyncio.get_running_loop()
        self._handle = self._nbd.NBD()
        self._handle.set_export_name(EXPORT)
        # What it would refuse by itself is for the server to refuse.
        self._handle.set_strict_mode(0)
        self._pending: set[asyncio.Future[None]] = set()
        self._queue: list[tuple[asyncio.Future[None], Callable[[], object]]] = []
        self._fd = -1
        self._writing = False

    @property
    def length(self) -> int:
        """Size of the disk in bytes."""
        return int(self._handle.get_size())

    async def preadv(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`."""
        buffer = self._nbd.Buffer(length)
        await self._call(lambda done: self._handle.aio_pread(buffer, offset, done))
        return bytes(buffer.to_bytearray())

    async def pwritev(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write `buffers` one behind the other at `offset`."""
        data = bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)
        await self._call(lambda done: self._handle.aio_pwrite(data, offset, done))

    async def pwrite_zeroes(self, offset: int, length: int, unmap: bool = False) -> None:
        """Make a range read as zeroes; `unmap` allows giving the space back."""
        flags = 0 if unmap else self._nbd.CMD_FLAG_NO_HOLE
        await self._call(lambda done: self._handle.aio_zero(length, offset, done, flags))

    async def pdiscard(self, offset: int, length: int) -> None:
        """Say that a range is no longer needed."""
        await self._call(lambda done: self._handle.aio_trim(length, offset, done))

    async def flush(self) -> None:
        """Make everything acknowledged so far stable."""
        await self._call(lambda done: self._handle.aio_flush(done))

    async def connect(self) -> None:
        """Shake hands. Raises UnsupportedError where QEMU ends instead, with its reason."""
        # libnbd closes the socket that it is given as soon as it breaks: what the loop watches has to be another.
        self._fd = self._daemon.connection.fileno()
        with suppress(self._nbd.Error):  # it has ended already: found out below, with its last words
            self._handle.aio_connect_socket(os.dup(self._fd))
        self._loop.add_reader(self._fd, self._readable)
        self._watch()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                while not self._handle.aio_is_ready():
                    if self._gone():
                        raise UnsupportedError(f"{NAME} does not serve the image: {self._daemon.last_words()}")
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise UnsupportedError(f"{NAME} did not answer within {_CONNECT_SECONDS:g} s") from None

    def close(self) -> None:
        """Take leave of the server; calls that are still awaited fail."""
        if self._fd >= 0 and not self._gone():
            self._handle.aio_disconnect(0)
        self._unwatch()
        self._fail()

    async def _call(self, issue: Callable[[Callable[[Any], int]], object]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: Any) -> int:
            code = int(error.value)
            if not future.done():
                if code:
                    future.set_exception(OSError(code, os.strerror(code)))
                else:
                    future.set_result(None)
            return 1  # the command may be forgotten

        if not self._queue:
            self._loop.call_soon(self._send)
        self._queue.append((future, lambda: issue(done)))
        self._pending.add(future)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await future
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, f"{NAME} has not answered for {_ANSWER_SECONDS:g} s") from None
        except OSError as error:
            raise self._broken() if self._gone() else error from None
        finally:
            self._pending.discard(future)

    def _send(self) -> None:
        """Hand over the calls of one turn of the event loop: back to back, as a guest that plugs its queue has them."""
        queue, self._queue = self._queue, []
        for future, issue in queue:
            try:
                issue()
            except self._nbd.Error as error:
                if not future.done():
                    future.set_exception(OSError(error.errnum or errno.EIO, error.string))
        if self._gone():
            self._fail()
        self._watch()

    def _gone(self) -> bool:
        return bool(self._handle.aio_is_dead() or self._handle.aio_is_closed())

    def _broken(self) -> OSError:
        return OSError(errno.EPIPE, f"{NAME} is gone: {self._daemon.last_words()}")

    def _readable(self) -> None:
        self._step(self._nbd.AIO_DIRECTION_READ, self._handle.aio_notify_read)

    def _writable(self) -> None:
        self._step(self._nbd.AIO_DIRECTION_WRITE, self._handle.aio_notify_write)

    def _step(self, direction: int, notify: Callable[[], object]) -> None:
        if self._gone():
            self._unwatch()
            self._fail()
            return
        if self._handle.aio_get_direction() & direction:
            try:
                notify()
            except self._nbd.Error:
                self._unwatch()
                self._fail()
                return
        self._watch()

    def _watch(self) -> None:
        writing = not self._gone() and bool(self._handle.aio_get_direction() & self._nbd.AIO_DIRECTION_WRITE)
        if writing != self._writing:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    def _fail(self) -> None:
        for future in self._pending:
            if not future.done():
                future.set_exception(self._broken())


@asynccontextmanager
async def connected(daemon: Daemon) -> AsyncIterator[NbdDisk]:
    """The disk that `daemon` serves. Raises UnsupportedError."""
    disk = NbdDisk(daemon)
    try:
        await disk.connect()
        yield disk
    finally:
        disk.close()
