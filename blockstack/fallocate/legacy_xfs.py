"""fallocate(2) as XFS did it before 5.5, on any kernel and any file system: with real loss of data.

xfs_file_fallocate before 249bd9087a52 ("xfs: properly serialise fallocate against AIO+DIO"), step by step: take the
inode lock; compute the new size from an i_size that writes in flight have yet to raise; wait for direct I/O
(inode_dio_wait), with new submissions held off by the lock; allocate without touching the size; set the size that was
computed, which is a truncate if a write has raised i_size beyond it meanwhile. A write of any engine counts as
asynchronous here, the worst case: on the real thing only Linux AIO and io_uring left the inode unlocked while in
flight.
"""

import asyncio
import errno
import time

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FileCalls
from blockstack.journal import Kind


class LegacyXfsFallocate:
    """The racy order, made of system calls that are safe by themselves."""

    emulates_xfs = True

    def __init__(self, calls: FileCalls) -> None:
        self._calls = calls
        self._inode_lock = asyncio.Lock()
        self._writes = 0
        self._no_writes = asyncio.Event()
        self._no_writes.set()
        self._admitting = asyncio.Event()
        self._admitting.set()

    async def begin_write(self) -> None:
        """Hold a new write off while a fallocate has the inode lock."""
        while not self._admitting.is_set():
            await self._admitting.wait()
        self._writes += 1
        self._no_writes.clear()

    def end_write(self) -> None:
        """Count a write out; the last one ends inode_dio_wait."""
        self._writes -= 1
        if self._writes == 0:
            self._no_writes.set()

    async def fallocate(self, mode: int, offset: int, length: int, request: int) -> None:
        """The racy fallocate. Raises OSError."""
        async with self._inode_lock:
            journal = self._calls.journal
            old_size = self._calls.size()
            self._admitting.clear()
            entry = None
            if journal is not None:
                entry = journal.begin(
                    Kind.EMULATED_FALLOCATE, offset, length, request=request, flags=mode, size=old_size
                )
            extends = not mode & FALLOC_FL_KEEP_SIZE and offset + length > old_size
            result = -errno.ECANCELED
            try:
                await self._no_writes.wait()
                await self._calls.run(
                    lambda: self._allocate(mode, offset, length, request, offset + length if extends else None)
                )
                result = 0
            except OSError as error:
                result = -(error.errno or errno.EIO)
                raise
            finally:
                if journal is not None and entry is not None:
                    entry.t_applied = time.monotonic_ns() if result == 0 else 0
                    journal.end(entry, result, self._calls.fd)
                self._admitting.set()

    def _allocate(self, mode: int, offset: int, length: int, request: int, new_size: int | None) -> None:
        self._calls.fallocate(mode | FALLOC_FL_KEEP_SIZE, offset, length, request)
        if new_size is not None:
            self._calls.ftruncate(new_size, request)
