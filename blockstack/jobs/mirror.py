"""The mirror job: copies a disk to another one while the guest writes to the first (QEMU: block/mirror.c).

In background mode (copy-mode=background, QEMU's default): a guest write is acknowledged as it always was and marks its
range dirty; the job copies dirty ranges until none is left. What the source shows to be zero is copied by a zero-write.
"""

import asyncio
import errno
import itertools
from collections.abc import Coroutine, Sequence

import numpy as np

from blockstack.filters import Filter
from blockstack.journal import GUEST_SHIFT, Journal, Kind, guest_request
from blockstack.node import Buffer, Node
from blockstack.qcow2 import Qcow2
from blockstack.requests import TrackedRequest
from blockstack.settled import settled

MAX_IN_FLIGHT = 16
"""Operations at once (QEMU: MAX_IN_FLIGHT)."""

MAX_IO_BYTES = 1 << 20
"""Bytes of one copy (QEMU: MAX_IO_BYTES)."""

BUF_SIZE = MAX_IN_FLIGHT * MAX_IO_BYTES
"""Bytes that one iteration takes from the bitmap (QEMU: buf-size), and of one zero-write."""

MIN_GRANULARITY, MAX_GRANULARITY = 4096, 65536


def default_granularity(target: Node) -> int:
    """Bytes of one bit: the target's clusters, within limits (QEMU: bdrv_get_default_bitmap_granularity).

    A target of larger clusters is written in parts of them.
    """
    return min(MAX_GRANULARITY, max(MIN_GRANULARITY, _cluster_size(target) or MAX_GRANULARITY))


def _cluster_size(node: Node) -> int:
    """Bytes; 0 where the driver says nothing of clusters (QEMU: bdrv_get_info, which 7.2's parallels has not)."""
    while isinstance(node, Filter):
        node = node.child
    return node.header.cluster_size if isinstance(node, Qcow2) else 0


class DirtyBitmap:
    """Which parts of a disk have changed; `granularity` bytes each (QEMU: BdrvDirtyBitmap)."""

    def __init__(self, length: int, granularity: int) -> None:
        self.granularity = granularity
        self.count = 0  # dirty chunks
        self.changed = asyncio.Event()  # set when a chunk turns dirty
        self._bits = np.zeros(-(-length // granularity), np.bool_)

    def set(self, offset: int, length: int) -> None:
        """Every chunk that the range touches is dirty."""
        if length:
            self._fill(offset // self.granularity, -(-(offset + length) // self.granularity), True)
            self.changed.set()

    def clear(self, first: int, last: int) -> None:
        """Chunks [first, last) are clean."""
        self._fill(first, last, False)

    def next(self, chunk: int) -> int | None:
        """The first dirty chunk from `chunk` on, None if there is none."""
        found = np.flatnonzero(self._bits[chunk : chunk + 4096])
        if not len(found):
            found = np.flatnonzero(self._bits[chunk:])
        return chunk + int(found[0]) if len(found) else None

    def run(self, chunk: int, limit: int) -> int:
        """How many chunks from `chunk` on are dirty without a gap, up to `limit`."""
        clean = np.flatnonzero(~self._bits[chunk : chunk + limit])
        return int(clean[0]) if len(clean) else min(limit, len(self._bits) - chunk)

    def _fill(self, first: int, last: int, value: bool) -> None:
        self.count -= int(np.count_nonzero(self._bits[first:last]))
        self._bits[first:last] = value
        self.count += int(np.count_nonzero(self._bits[first:last]))


class MirrorTop(Filter):
    """What the guest writes through while a mirror job runs: marks what has changed, after it was written, also if that
    failed (QEMU: bdrv_mirror_top, bdrv_co_write_req_finish).
    """

    def __init__(self, child: Node) -> None:
        super().__init__(child)
        self.bitmap: DirtyBitmap | None = None

    def _mark(self, offset: int, length: int) -> None:
        if self.bitmap is not None:
            self.bitmap.set(offset, length)

    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        try:
            await super()._pwritev(request, offset, buffers)
        finally:
            self._mark(offset, sum(len(buffer) for buffer in buffers))

    async def pwrite_zeroes(
        self, offset: int, length: int, *, unmap: bool = False, fallback: bool = True, metadata: bool = False
    ) -> None:
        """As the child's."""
        try:
            await super().pwrite_zeroes(offset, length, unmap=unmap, fallback=fallback, metadata=metadata)
        finally:
            self._mark(offset, length)

    async def pdiscard(self, offset: int, length: int) -> None:
        """As the child's."""
        try:
            await super().pdiscard(offset, length)
        finally:
            self._mark(offset, length)


class Mirror:
    """One job, from `source` to `target`, a node of the same length whose content is zero.

    `zero_target`: the target's content is anything, so all of the source is copied. `granularity` None is QEMU's
    default. `journal` is the target's: each operation of the job is told to it as a write of its guest, which it is.
    """

    def __init__(
        self,
        source: MirrorTop,
        target: Node,
        *,
        granularity: int | None = None,
        unmap: bool = True,
        zero_target: bool = False,
        journal: Journal | None = None,
    ) -> None:
        """Raises OSError(EINVAL) where the lengths differ, ValueError for an impossible granularity."""
        if source.length != target.length:
            raise OSError(errno.EINVAL, f"the source has {source.length} bytes and the target {target.length}")
        granularity = granularity or default_granularity(target)
        if granularity & (granularity - 1) or granularity < 512:
            raise ValueError(f"a granularity of {granularity} bytes is no power of two from 512 on")
        self.granularity = granularity
        self.ready = asyncio.Event()  # source and target were the same once (QEMU: BLOCK_JOB_READY)
        self.copies = self.zero_writes = 0  # operations so far
        self._source = source
        self._target = target
        self._unmap = unmap
        self._zero_target = zero_target
        self._journal = journal
        self._bitmap = DirtyBitmap(source.length, granularity)
        self._busy = np.zeros(-(-source.length // granularity), np.bool_)  # chunks in flight
        self._operations: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._cursor = 0
        self._error: OSError | None = None
        self._complete = False

    def complete(self) -> None:
        """Have the job end when both are the same. The guest may write until then, and has to stop for good after it
        (QEMU lets it go on with the target).
        """
        self._complete = True
        self._bitmap.changed.set()

    async def run(self) -> None:
        """The job, to its end (QEMU: mirror_run). Raises OSError where reading or writing fails: report, QEMU's default
        of on-source-error and on-target-error.
        """
        self._source.bitmap = self._bitmap
        try:
            await self._start()
            while self._error is None and not await self._step():
                pass
        finally:
            self._source.bitmap = None
            if self._operations:
                await settled(asyncio.gather(*self._operations, return_exceptions=True))
        if self._error is not None:
            raise self._error

    async def _start(self) -> None:
        """All that the source has is dirty (QEMU: mirror_dirty_init, sync=full)."""
        length = self._source.length
        if self._zero_target:
            self._bitmap.set(0, length)
        at = 0
        while at < length and not self._zero_target:
            status = await self._source.block_status(at, length - at)
            if status.allocated or not status.zero:
                self._bitmap.set(at, status.length)
            at += status.length

    async def _step(self) -> bool:
        """One turn of the job's loop; whether it has ended."""
        dirty = self._bitmap.count
        if len(self._operations) >= MAX_IN_FLIGHT or (not dirty and self._operations):
            await self._one_has_ended()
        elif dirty:
            await self._iterate()
        elif not self.ready.is_set():
            await self._target.flush()
            self.ready.set()
        elif self._complete:
            await self._source.tracker.drain()
            if not self._bitmap.count:
                await self._target.flush()
                return not self._bitmap.count
        else:
            self._bitmap.changed.clear()
            await self._bitmap.changed.wait()
        return False

    async def _iterate(self) -> None:
        """Take the next dirty chunks, and start what copies them (QEMU: mirror_iteration)."""
        found = self._bitmap.next(self._cursor)
        chunk = found if found is not None else self._bitmap.next(0)
        assert chunk is not None
        while self._busy[chunk]:
            await self._one_has_ended()
        limit = BUF_SIZE // self.granularity
        chunks = self._bitmap.run(chunk, limit)
        busy = np.flatnonzero(self._busy[chunk : chunk + chunks])
        last = self._cursor = chunk + (int(busy[0]) if len(busy) else chunks)
        # Clean before it is looked at: what is written from now on has to be copied again.
        self._bitmap.clear(chunk, last)
        self._busy[chunk:last] = True
        offset, end = chunk * self.granularity, min(last * self.granularity, self._source.length)
        while offset < end:
            offset += await self._perform(offset, end - offset)

    async def _perform(self, offset: int, length: int) -> int:
        """Start one operation at `offset`. Returns how many bytes it takes."""
        status = await self._source.block_status(offset, length)
        count = status.length - status.length % self.granularity or min(length, self.granularity)
        # A chunk of which only a part is zero is copied, and so is a part of the target's clusters (QEMU:
        # bdrv_round_to_subclusters).
        unit = _cluster_size(self._target) or 1
        ends = (offset + count) % unit == 0 or offset + count == self._source.length
        zero = status.zero and count <= status.length and offset % unit == 0 and ends
        if not zero:
            count = min(count, max(MAX_IO_BYTES, self.granularity))
        while len(self._operations) >= MAX_IN_FLIGHT:
            await self._one_has_ended()
        work = self._zero(offset, count) if zero else self._copy(offset, count)
        self._operations.add(asyncio.create_task(self._operation(offset, count, work)))
        return count

    async def _operation(self, offset: int, length: int, work: Coroutine[None, None, None]) -> None:
        number = next(self._numbers)
        guest_request.set(number)
        entry = None
        if self._journal is not None:
            entry = self._journal.begin(Kind.GUEST_WRITE, offset, length, request=number << GUEST_SHIFT)
        try:
            await work
            if self._journal is not None and entry is not None:
                self._journal.end(entry, length)
        except OSError as error:
            self._bitmap.set(offset, length)
            self._error = self._error or error
        finally:
            self._busy[offset // self.granularity : -(-(offset + length) // self.granularity)] = False
            task = asyncio.current_task()
            assert task is not None
            self._operations.discard(task)

    async def _copy(self, offset: int, length: int) -> None:
        self.copies += 1
        await self._target.pwritev(offset, [await self._source.child.preadv(offset, length)])

    async def _zero(self, offset: int, length: int) -> None:
        self.zero_writes += 1
        await self._target.pwrite_zeroes(offset, length, unmap=self._unmap)

    async def _one_has_ended(self) -> None:
        await asyncio.wait(self._operations, return_when=asyncio.FIRST_COMPLETED)
