"""The two threads of a try: one submits the write, as io_submit(2) may block; one calls fallocate(2)."""

import asyncio
import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from blockstack.aio import LinuxAio
from blockstack.buffers import BufferPool

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Worker(threading.Thread):
    """One operation. `error` is its errno, 0 for success, None until it has ended; times in ns, CLOCK_MONOTONIC.

    `ready` is called when all is prepared; the operation begins when it returns.
    """

    def __init__(self, path: Path, name: str, ready: Callable[[], object]) -> None:
        # daemon: one that the kernel never lets go must not keep us from ending, and from failing the held write.
        super().__init__(name=name, daemon=True)
        self.error: int | None = None
        self.t_begin = 0
        self.t_end = 0
        self.size_after: int | None = None
        self._path = path
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
    """An O_DIRECT write through Linux AIO (blockstack's engine), acknowledged when io_getevents(2) says so."""

    def __init__(self, path: Path, data: bytes, offset: int, ready: Callable[[], object] = lambda: None) -> None:
        super().__init__(path, "probe write", ready)
        self._data = data
        self._offset = offset

    def _operate(self) -> None:
        asyncio.run(self._write())

    async def _write(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            engine = LinuxAio(fd)
            try:
                buffer, length = BufferPool().gather([self._data])
                self._ready()
                self.t_begin = time.monotonic_ns()
                await engine.pwrite(buffer, length, self._offset, 1)
                self.t_end = time.monotonic_ns()
                self.size_after = os.fstat(fd).st_size
            finally:
                engine.close()
        finally:
            os.close(fd)


class Fallocate(Worker):
    """fallocate(2) from 0."""

    def __init__(self, path: Path, mode: int, length: int, ready: Callable[[], object] = lambda: None) -> None:
        super().__init__(path, "probe fallocate", ready)
        self._mode = mode
        self._length = length

    def _operate(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ready()
            self.t_begin = time.monotonic_ns()
            failed = _libc.fallocate(fd, self._mode, 0, self._length) != 0
            self.t_end = time.monotonic_ns()
            if failed:
                raise OSError(ctypes.get_errno(), "fallocate")
            self.size_after = os.fstat(fd).st_size
        finally:
            os.close(fd)
