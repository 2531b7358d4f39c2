"""fallocate(2), ftruncate(2) and fdatasync(2) of one file, each in the thread pool, each told to the journal.

QEMU runs these in its thread pool whatever the AIO mode (block/file-posix.c, raw_thread_pool_submit): that is what
lets a fallocate race with io_submit.
"""

import ctypes
import errno
import os
from collections.abc import Callable

from blockstack.journal import Journal, Kind, sampled_size
from blockstack.workers import Workers

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

WORKERS = 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class FileCalls:
    """System calls on `fd` in a pool of `WORKERS` threads."""

    def __init__(self, fd: int, journal: Journal | None = None) -> None:
        self.fd = fd
        self.journal = journal
        self._pool = Workers(WORKERS, "fallocate")

    def size(self) -> int:
        """i_size in bytes, now. Raises OSError."""
        return os.fstat(self.fd).st_size

    def hole(self, offset: int) -> tuple[bool, int]:
        """Whether `offset` lies in a hole, and where that, or the data there, ends (QEMU: find_allocation)."""
        try:
            data = os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data behind `offset`
                raise
            return True, max(self.size(), offset + 1)
        return (True, data) if data > offset else (False, os.lseek(self.fd, offset, os.SEEK_HOLE))

    async def run(self, call: Callable[[], None]) -> None:
        """Run `call` in the pool, to its end."""
        await self._pool.run(call)

    def fallocate(self, mode: int, offset: int, length: int, request: int) -> None:
        """fallocate(2), in the calling thread. Raises OSError."""

        def call() -> None:
            while _libc.fallocate(self.fd, mode, offset, length) != 0:
                code = ctypes.get_errno()
                if code != errno.EINTR:
                    raise OSError(code, f"fallocate: {os.strerror(code)}")

        self._journalled(Kind.FALLOCATE, offset, length, mode, request, call)

    def ftruncate(self, size: int, request: int) -> None:
        """ftruncate(2), in the calling thread. Raises OSError."""
        self._journalled(Kind.TRUNCATE, size, 0, 0, request, lambda: os.ftruncate(self.fd, size))

    async def fdatasync(self) -> None:
        """fdatasync(2) in the pool. Raises OSError."""
        await self.run(lambda: os.fdatasync(self.fd))

    def close(self) -> None:
        """End the worker threads."""
        self._pool.close()

    def _journalled(
        self, kind: Kind, offset: int, length: int, flags: int, request: int, call: Callable[[], None]
    ) -> None:
        if self.journal is None:
            call()
            return
        size = sampled_size(self.fd)
        entry = self.journal.begin(kind, offset, length, request=request, flags=flags, size=size)
        result = 0
        try:
            call()
        except OSError as error:
            result = -(error.errno or errno.EIO)
            raise
        finally:
            self.journal.end(entry, result, self.fd)
