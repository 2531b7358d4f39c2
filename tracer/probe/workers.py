"""The two threads of a try: one submits the write, as io_submit(2) may block; one calls fallocate(2)."""

import asyncio
import contextlib
import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from blockstack.aio import LinuxAio
from blockstack.buffers import BufferPool
from tracer.errors import UnsupportedError

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Worker(threading.Thread):
    """One operation on an open file: opening it would wait behind a held write on some file systems (f2fs).

    `error` is its errno, 0 for success, None until it has ended; times in ns, CLOCK_MONOTONIC.

    `ready` is called when all is prepared; the operation begins when it returns.
    """

    def __init__(self, fd: int, name: str, ready: Callable[[], object]) -> None:
        # daemon: one that the kernel never lets go must not keep us from ending, and from failing the held write.
        super().__init__(name=name, daemon=True)
        self.error: int | None = None
        self.t_begin = 0
        self.t_end = 0
        self.size_after: int | None = None
        self._fd = fd
        self._ready = ready

    @property
    def tid(self) -> int:
        """Of the running thread."""
        return self.native_id or 0

    def run(self) -> None:
        """Do it, once."""
        error = 0
        try:
            self._operate()
        except OSError as failure:
            error = failure.errno or errno.EIO
        self.t_end = self.t_end or time.monotonic_ns()
        self.error = error

    def _operate(self) -> None:
        raise NotImplementedError


class AioWrite(Worker):
    """A write through Linux AIO (blockstack's engine) on an O_DIRECT descriptor.

    It is acknowledged when io_getevents(2) says so.
    """

    def __init__(self, fd: int, data: bytes, offset: int, ready: Callable[[], object] = lambda: None) -> None:
        super().__init__(fd, "probe write", ready)
        self._data = data
        self._offset = offset

    def _operate(self) -> None:
        asyncio.run(self._write())

    async def _write(self) -> None:
        engine = LinuxAio(self._fd)
        try:
            buffer, length = BufferPool().gather([self._data])
            self._ready()
            self.t_begin = time.monotonic_ns()
            await engine.pwrite(buffer, length, self._offset, 1)
            self.t_end = time.monotonic_ns()
            self.size_after = os.fstat(self._fd).st_size
        finally:
            engine.close()


class Fallocate(Worker):
    """fallocate(2) from 0."""

    def __init__(self, fd: int, mode: int, length: int, ready: Callable[[], object] = lambda: None) -> None:
        super().__init__(fd, "probe fallocate", ready)
        self._mode = mode
        self._length = length

    def _operate(self) -> None:
        self._ready()
        self.t_begin = time.monotonic_ns()
        failed = _libc.fallocate(self._fd, self._mode, 0, self._length) != 0
        self.t_end = time.monotonic_ns()
        if failed:
            raise OSError(ctypes.get_errno(), "fallocate")
        self.size_after = os.fstat(self._fd).st_size


@contextlib.contextmanager
def opened_direct(path: Path) -> Iterator[int]:
    """A descriptor for direct I/O. Raises `UnsupportedError` where there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedError(
            f"O_DIRECT is refused ({error.strerror}): name a directory on another file system (--dir)"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)
