"""A node of the block graph: one byte-granular interface over drivers with alignment, limits and a length.

What QEMU's block/io.c does for every driver is done here once: bounds, tracking, waiting for conflicting requests,
read-modify-write of unaligned requests, the fallback of zero-writes to plain writes, and the growth of the length when
a request that extends it has finished. A driver implements the four `_` methods for aligned requests.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NoReturn, TypeAlias

from blockstack.block_status import BlockStatus
from blockstack.journal import Journal
from blockstack.requests import MAX_LENGTH, RequestTracker, RequestType, TrackedRequest
from blockstack.settled import uninterrupted

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_REQUEST = (2**31 - 1) // 512 * 512
"""Bytes of the longest read or write (QEMU: BDRV_REQUEST_MAX_BYTES); zero-writes and discards have no such limit."""

ZERO_CHUNK = 16 << 20
"""Largest zero buffer of the fallback, in bytes (QEMU: MAX_BOUNCE_BUFFER)."""


def total(buffers: Sequence[Buffer]) -> int:
    """Bytes in all buffers."""
    return len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))


class Node(ABC):
    """Base of all drivers. `length` is in bytes; `request_alignment` is a power of two."""

    def __init__(
        self,
        length: int,
        *,
        request_alignment: int = 1,
        read_only: bool = False,
        journal: Journal | None = None,
    ) -> None:
        self.length = length
        self.request_alignment = request_alignment
        self.zero_alignment = request_alignment  # what it can zero begins and ends there
        self.read_only = read_only
        self.growable = False
        self.closed = False
        self.tracker = RequestTracker(journal)

    # The driver's part. Offsets and lengths are multiples of request_alignment.

    @abstractmethod
    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; what lies beyond the data reads as zeroes."""

    @abstractmethod
    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all buffers one behind the other."""

    async def _pwrite_zeroes(self, request: TrackedRequest, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range without carrying the zeroes. Raises OSError(ENOTSUP) where the driver cannot."""
        raise OSError(errno.ENOTSUP, "no efficient zero-write")

    @abstractmethod
    async def _flush(self) -> None:
        """Make everything that was acknowledged stable."""

    async def _truncate(self, length: int) -> None:
        """Set `length`, on the disk and of the node. Raises OSError(ENOTSUP) where the driver cannot."""
        raise OSError(errno.ENOTSUP, "cannot be resized")

    @abstractmethod
    async def _close(self) -> None:
        """Write back and release; called with nothing in flight."""

    def known_zero(self, offset: int, length: int) -> bool:
        """Whether the range is known, without I/O, to read as zeroes. False means "not known"."""
        return offset >= self.length

    async def block_status(self, offset: int, length: int) -> BlockStatus:
        """What the range begins with, of `length` bytes at most. Raises OSError."""
        return BlockStatus(length, allocated=True, zero=False)

    # The generic part.

    async def preadv(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`.

        Raises OSError: EINVAL outside the node, EIO beyond `MAX_REQUEST` (QEMU: bdrv_check_request32), EBADF once it
        is closed, or the driver's error.
        """
        self._check(offset, length, extend=False)
        if length > MAX_REQUEST:
            _refuse_length(length)
        if length == 0:
            return b""
        tracker = self.tracker
        with tracker.track(TrackedRequest(offset, length, RequestType.READ)) as request:
            if tracker.serialising and await tracker.wait_serialising(request):
                self._check_bounds(offset, length, extend=False)
            if not (offset | length) & (self.request_alignment - 1):
                return await self._preadv(request, offset, length)
            start, end = self._align(offset, offset + length)
            data = await self._preadv(request, start, end - start)
        return data[offset - start : offset - start + length]

    async def pwritev(self, offset: int, buffers: Sequence[Buffer], *, metadata: bool = False) -> None:
        """Write `buffers` one behind the other at `offset`.

        An unaligned request is padded by reading what surrounds it; it is serialising then, as the bytes around it
        would otherwise be written back stale (QEMU: bdrv_padding_rmw_read). Any number of buffers: the driver gathers
        them, so that IOV_MAX limits nobody. Raises OSError as `preadv`, and EACCES where the node is read-only.
        """
        length = total(buffers)
        self._check(offset, length, extend=self.growable)
        if length > MAX_REQUEST:
            _refuse_length(length)
        self._check_writable()
        if length:
            await self._write(offset, length, buffers, metadata)

    async def _write(self, offset: int, length: int, buffers: Sequence[Buffer], metadata: bool) -> None:
        tracker, start, end = self.tracker, offset, offset + length
        with tracker.track(TrackedRequest(offset, length, RequestType.WRITE, metadata)) as request:
            padded = (offset | length) & (self.request_alignment - 1)
            if padded:
                request.make_serialising(self.request_alignment)
            if tracker.serialising and await tracker.wait_serialising(request):
                self._check_bounds(offset, length, extend=self.growable)
            if padded:
                start, aligned_end = self._align(offset, end)
                buffers = await self._pad(request, start, aligned_end, buffers)
            await self._pwritev(request, start, buffers)
            if end > self.length:
                self._wrote(end)

    async def pwrite_zeroes(
        self, offset: int, length: int, *, unmap: bool = False, fallback: bool = True, metadata: bool = False
    ) -> None:
        """Zero a range; with `fallback`, by writing zeroes where the driver has nothing better.

        Without `fallback` (QEMU: BDRV_REQ_NO_FALLBACK) OSError(ENOTSUP) says that the range would have to be written.
        """
        self._check(offset, length, extend=self.growable)
        self._check_writable()
        if length == 0:
            return
        start, end = self._align_inwards(offset, offset + length)
        if (start, end) == (offset, offset + length):
            await self._zero(offset, length, unmap, fallback, metadata)
            return
        if not fallback:
            raise OSError(errno.ENOTSUP, "unaligned zero-write")
        if start >= end:
            await self._write(offset, length, [bytes(length)], metadata)
            return
        with self.tracker.count():
            if start > offset:
                await self._write(offset, start - offset, [bytes(start - offset)], metadata)
            await self._zero(start, end - start, unmap, fallback, metadata)
            if (tail := offset + length - end) > 0:
                await self._write(end, tail, [bytes(tail)], metadata)

    async def _zero(self, offset: int, length: int, unmap: bool, fallback: bool, metadata: bool) -> None:
        with self.tracker.track(TrackedRequest(offset, length, RequestType.ZERO_WRITE, metadata=metadata)) as request:
            if await self.tracker.wait_serialising(request):
                self._check_bounds(offset, length, extend=self.growable)
            try:
                await self._pwrite_zeroes(request, offset, length, unmap=unmap)
            except OSError as error:
                if not fallback or error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
                    raise
                for at, count in self._zero_chunks(offset, length):
                    await self._pwritev(request, at, [bytes(count)])
            self._wrote(offset + length)

    def _zero_chunks(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """A range cut where the driver could have zeroed (QEMU: bdrv_co_do_pwrite_zeroes)."""
        at, end, align = offset, offset + length, self.zero_alignment
        while at < end:
            count = end - at
            if at % align:
                count = min(count, align - at % align)
            elif count > align:
                count -= end % align
            count = min(count, ZERO_CHUNK)
            yield at, count
            at += count

    async def pdiscard(self, offset: int, length: int) -> None:
        """Accept a discard and keep the data, which a discard permits (QEMU: discard=ignore, its default). A file's may
        reach behind its end.
        """
        self._check(offset, length, extend=self.growable)
        self._check_writable()

    async def flush(self) -> None:
        """Make everything acknowledged so far stable. Raises OSError."""
        self._check_open()
        with self.tracker.count():
            await self._flush()

    async def drain(self) -> None:
        """Return when nothing is in flight (QEMU: bdrv_drain). New requests are not kept off."""
        await self.tracker.drain()

    async def truncate(self, length: int, *, shrink: bool = False) -> None:
        """Let the node be `length` bytes long; what grows reads as zeroes (QEMU: bdrv_co_truncate).

        Requests that overlap what comes or goes wait, or are waited for. Raises OSError: EINVAL for a length that the
        node cannot have, and for a shorter one without `shrink`; ENOTSUP, or the driver's error.
        """
        self._check_open()
        self._check_writable()
        if not 0 <= length <= MAX_LENGTH:
            raise OSError(errno.EINVAL, f"impossible length {length}")
        self._check_shrink(length, shrink)
        if length == self.length:
            return
        start, end = sorted((length, self.length))
        with self.tracker.track(TrackedRequest(start, end - start, RequestType.TRUNCATE)) as request:
            request.stretch(MAX_LENGTH)
            request.make_serialising(self.request_alignment)
            while await self.tracker.wait_serialising(request):
                # Behind another one: what comes or goes begins where that one has put the end.
                request.overlap_offset = min(request.overlap_offset, self._align(self.length, 0)[0])
            self._check_shrink(length, shrink)
            if length != self.length:
                await uninterrupted(self._truncate(length))

    async def close(self) -> None:
        """Wait for what is in flight, write back, release. Raises OSError where writing back fails.

        Closing begins at once: a new request, or a second close, finds the node closed.
        """
        if self.closed:
            return
        self.closed = True
        await self.tracker.drain()
        await self._close()

    def _wrote(self, end: int) -> None:
        # QEMU: bdrv_co_write_req_finish raises total_sectors when the request has finished, not before.
        self.length = max(self.length, end)

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "node is closed")

    def _check(self, offset: int, length: int, *, extend: bool) -> None:
        if self.closed:
            self._check_open()
        self._check_bounds(offset, length, extend=extend)

    def _check_bounds(self, offset: int, length: int, *, extend: bool) -> None:
        limit = MAX_LENGTH if extend else self.length
        if offset < 0 or length < 0 or offset + length > limit:
            raise OSError(errno.EINVAL, f"request of {length} bytes at {offset} outside of {self.length} bytes")

    def _check_shrink(self, length: int, shrink: bool) -> None:
        if length < self.length and not shrink:
            raise OSError(errno.EINVAL, f"{length} bytes are less than {self.length}, and shrinking was not asked for")

    def _check_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EACCES, "node is read-only")

    def _align(self, start: int, end: int) -> tuple[int, int]:
        return start - start % self.request_alignment, end + -end % self.request_alignment

    def _align_inwards(self, start: int, end: int) -> tuple[int, int]:
        return start + -start % self.request_alignment, end - end % self.request_alignment

    async def _pad(self, request: TrackedRequest, start: int, end: int, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Surround `buffers` with what the first and last block hold, so that they fill [start, end)."""
        align = self.request_alignment
        head_length, tail_length = request.offset - start, end - request.end
        padded = list(buffers)
        if head_length:
            padded.insert(0, (await self._preadv(request, start, align))[:head_length])
        if tail_length:
            padded.append((await self._preadv(request, end - align, align))[align - tail_length :])
        return padded


def _refuse_length(length: int) -> NoReturn:
    raise OSError(errno.EIO, f"request of {length} bytes, more than {MAX_REQUEST}")
