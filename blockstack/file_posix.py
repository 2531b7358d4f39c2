"""The file node: a regular file under O_DIRECT, an AIO engine, and fallocate in a thread pool (QEMU:
block/file-posix.c).
"""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from blockstack.aio import Engine
from blockstack.block_status import BlockStatus
from blockstack.buffers import KEEP_BYTES, BufferPool
from blockstack.fallocate import BEHAVIOURS, FallocateBehaviour
from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.gate import Gate, Point
from blockstack.journal import Journal, RequestFlag
from blockstack.node import Buffer, Node, total
from blockstack.requests import RequestType, TrackedRequest
from blockstack.strategies import Strategy
from blockstack.system import HOST, System

MAX_TRANSFER = 16 << 20
"""Bytes of one read or write; a longer request is split."""

_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


class FilePosix(Node):
    """One open file. `is_xfs` and `linux_aio` are what strategies go by.

    `stand_in` makes both true whatever the host has: the file then stands in for one on XFS with aio=native, so that a
    host without XFS can still show what the XFS-only strategies do.
    """

    def __init__(
        self,
        path: Path,
        *,
        aio: str,
        strategy: Strategy,
        read_only: bool = False,
        direct: bool = True,
        fallocate: str = "kernel",
        journal: Journal | None = None,
        stand_in: bool = False,
        gate: Gate | None = None,
        discard: bool = False,
        system: System = HOST,
    ) -> None:
        """Open `path`. `discard`: make holes of what is discarded (QEMU: discard=unmap). `system`: whose file it is.

        Raises OSError: ENOENT, EACCES, EINVAL where O_DIRECT is refused, EISDIR, ENOTSUP for no file.
        """
        with ExitStack() as resources:
            opened = system.open(path, aio=aio, read_only=read_only, direct=direct, journal=journal)
            resources.callback(opened.close)
            self.identity = opened.identity
            super().__init__(
                opened.size,
                request_alignment=opened.request_alignment,
                read_only=read_only,
                journal=journal,
            )
            self._calls = opened.calls
            self._engine: Engine = opened.engine
            self._behaviour: FallocateBehaviour = BEHAVIOURS[fallocate](self._calls)
            emulated = self._behaviour.emulates_xfs
            self.is_xfs = stand_in or emulated or opened.is_xfs
            # What is known of the real one says nothing about an emulated one.
            self.file_system = fallocate if emulated else opened.file_system
            self._resources = resources.pop_all()
        self.growable = True
        self.max_transfer = MAX_TRANSFER
        self.strategy = strategy
        self._journal = journal
        self._gate = gate
        self._discard = discard
        # A chain has up to 64 read-only ones.
        self._buffers = BufferPool(KEEP_BYTES >> 4 if read_only else KEEP_BYTES)
        self.linux_aio = stand_in or aio == "native"
        self._direct = direct
        self._lost = 0  # errno of a flush that lost writes of the page cache
        self.failed_discards = 0
        """Discards that ended with an error, and may have left data."""
        self._has_write_zeroes = self._has_discard = self._has_fallocate = True

    async def pwrite_zeroes(
        self, offset: int, length: int, *, unmap: bool = False, fallback: bool = True, metadata: bool = False
    ) -> None:
        """As any node's; a gate may keep it back."""
        if self._gate is not None:
            await self._gate.reached(Point.ZERO_WRITE)
        await super().pwrite_zeroes(offset, length, unmap=unmap, fallback=fallback, metadata=metadata)

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        parts = []
        for at in range(offset, offset + length, self.max_transfer):
            count = min(self.max_transfer, offset + length - at)
            buffer = self._buffers.get(count)
            done = await self._engine.pread(buffer, count, at)
            # A short read is the end of the file: what lies behind it reads as zeroes (QEMU: bdrv_aligned_preadv).
            parts.append(bytes(buffer.view[:done]).ljust(count, b"\0"))
            self._buffers.put(buffer)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        if total(buffers) > self.max_transfer:
            data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
            for at in range(0, len(data), self.max_transfer):
                await self._pwrite(request, offset + at, [data[at : at + self.max_transfer]])
        else:
            await self._pwrite(request, offset, buffers)

    async def _pwrite(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        buffer, length = self._buffers.gather(buffers)
        await self._behaviour.begin_write()
        try:
            await self._engine.pwrite(buffer, length, offset, request.id)
        finally:
            self._behaviour.end_write()
            self._buffers.put(buffer)

    async def _pwrite_zeroes(self, request: TrackedRequest, offset: int, length: int, *, unmap: bool) -> None:
        """Zero with fallocate(2), in the order of QEMU's raw_do_pwrite_zeroes and handle_aiocb_write_zeroes (7.2)."""
        if offset + length > self.length:
            if request.entry is not None:
                request.entry.flags |= RequestFlag.POST_EOF
            await self.strategy.order_post_eof_zero_write(request, self)
        elif unmap and self._has_discard:
            # QEMU: handle_aiocb_write_zeroes_unmap. Behind the end it would leave the file short.
            if await self._try_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, request):
                return
            self._has_discard = False
        if self._has_write_zeroes:
            if await self._try_fallocate(FALLOC_FL_ZERO_RANGE, offset, length, request):
                return
            self._has_write_zeroes = False
        if self._has_discard and self._has_fallocate:
            if await self._try_fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, request):
                if await self._try_fallocate(0, offset, length, request):
                    return
                self._has_fallocate = False
            else:
                self._has_discard = False
        if self._has_fallocate and offset >= self._calls.size():
            if await self._try_fallocate(0, offset, length, request):
                return
            self._has_fallocate = False
        raise OSError(errno.ENOTSUP, "no fallocate on this file system")

    @property
    def makes_holes(self) -> bool:
        """Whether discards become holes: the file was opened so, and the file system has not refused."""
        return self._discard and self._has_discard

    async def pdiscard(self, offset: int, length: int) -> None:
        """Make a hole of the whole blocks in a range, where the file was opened so and the file system can (QEMU:
        raw_co_pdiscard). Raises OSError.
        """
        await super().pdiscard(offset, length)
        start, end = self._align_inwards(offset, offset + length)
        if not self.makes_holes or start >= end:
            return
        with self.tracker.track(TrackedRequest(start, end - start, RequestType.DISCARD)) as request:
            await self.tracker.wait_serialising(request)
            mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
            try:
                self._has_discard = await self._try_fallocate(mode, start, end - start, request)
            except OSError:
                self.failed_discards += 1
                raise

    async def _try_fallocate(self, mode: int, offset: int, length: int, request: TrackedRequest) -> bool:
        """Whether the file system did it; False where it does not support the mode. Raises other OSErrors."""
        if self._gate is not None:
            await self._gate.reached(Point.FALLOCATE)
        try:
            await self._behaviour.fallocate(mode, offset, length, request.id)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True

    async def block_status(self, offset: int, length: int) -> BlockStatus:
        """Holes read as zeroes; where the file system cannot tell, all is data (QEMU: raw_co_block_status)."""
        try:
            hole, end = self._calls.hole(offset)
        except OSError:
            return BlockStatus(length, allocated=True, zero=False)
        return BlockStatus(min(length, end - offset), allocated=True, zero=hole)

    async def _flush(self) -> None:
        if self._lost:
            raise OSError(self._lost, f"an earlier flush failed: {os.strerror(self._lost)}")
        try:
            await self._calls.fdatasync()
        except OSError as error:
            if not self._direct:
                # The kernel has dropped what it could not write, and would say so only once (QEMU:
                # page_cache_inconsistent in handle_aiocb_flush).
                self._lost = error.errno or errno.EIO
            raise

    async def _truncate(self, length: int) -> None:
        """QEMU: raw_co_truncate."""
        if not self.growable and length % self.request_alignment:
            raise OSError(errno.EINVAL, f"O_DIRECT takes a length in multiples of {self.request_alignment} bytes")
        await self._calls.run(lambda: self._calls.ftruncate(length, 0))
        self.length = length

    async def allocate(self, offset: int, length: int) -> None:
        """Have the file system allocate a range, which grows the file to its end (QEMU: PREALLOC_MODE_FALLOC).

        Raises OSError.
        """
        await self._calls.run(lambda: self._calls.fallocate(0, offset, length, 0))
        self._wrote(offset + length)

    async def _close(self) -> None:
        self._resources.close()
