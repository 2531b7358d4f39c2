"""aio=threads: pread(2) and pwrite(2) in a thread pool (QEMU: handle_aiocb_rw in block/file-posix.c)."""

import errno
import os

from blockstack.buffers import AlignedBuffer
from blockstack.journal import Journal, Kind, sampled_size
from blockstack.workers import Workers

WORKERS = 16


class ThreadPool:
    """Synchronous reads and writes, each in a worker thread."""

    def __init__(self, fd: int, journal: Journal | None = None) -> None:
        self._fd = fd
        self._journal = journal
        self._pool = Workers(WORKERS, "aio-threads")

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        """Read until `length` bytes or the end of the file. Returns the bytes read. Raises OSError."""
        return await self._pool.run(self._pread, buffer, length, offset)

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        """Write all of `length` bytes. Raises OSError."""
        await self._pool.run(self._pwrite, buffer, length, offset, request)

    def close(self) -> None:
        """End the worker threads."""
        self._pool.close()

    def _pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        done = 0
        while done < length:
            count = os.preadv(self._fd, [buffer.view[done:length]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def _pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        done = 0
        while done < length:
            count = self._pwrite_once(buffer.view[done:length], offset + done, request)
            if count == 0:
                # QEMU: a write that makes no progress is reported as EINVAL (handle_aiocb_rw).
                raise OSError(errno.EINVAL, "write of 0 bytes")
            done += count

    def _pwrite_once(self, view: memoryview, offset: int, request: int) -> int:
        journal = self._journal
        if journal is None:
            return os.pwritev(self._fd, [view], offset)
        entry = journal.begin(Kind.WRITE, offset, len(view), request=request, size=sampled_size(self._fd))
        result = -errno.EIO
        try:
            result = os.pwritev(self._fd, [view], offset)
        except OSError as error:
            result = -(error.errno or errno.EIO)
            raise
        finally:
            journal.end(entry, result, self._fd)
        return result
