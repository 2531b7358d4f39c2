"""The qcow2 node: reads, writes, copy-on-write and flush of an open image (QEMU: block/qcow2.c,
block/qcow2-cluster.c).
"""

import asyncio
import errno
from collections.abc import Awaitable, Sequence
from contextlib import suppress

from blockstack.block_status import BlockStatus
from blockstack.errors import ImageError
from blockstack.file_posix import FilePosix
from blockstack.mutex import Mutex
from blockstack.node import Buffer, Node
from blockstack.qcow2 import compressed, snapshots
from blockstack.qcow2.allocation import Allocation, Part
from blockstack.qcow2.cache import DEFAULT_SIZES, Cache, CacheSizes
from blockstack.qcow2.data_file import DataClusters, ExternalClusters, OwnClusters
from blockstack.qcow2.header import AUTOCLEAR, AUTOCLEAR_DATA_FILE_RAW, MAX_CHAIN_L1_BYTES, Header, rewrite
from blockstack.qcow2.lazy import DirtyBit
from blockstack.qcow2.mapping import Mapping, Run, pack_l2
from blockstack.qcow2.overlap import MetadataMap
from blockstack.qcow2.refcounts import Refcounts
from blockstack.qcow2.resize import resize
from blockstack.qcow2.snapshots import Snapshot
from blockstack.qcow2.widths import pack
from blockstack.qcow2.zeroing import Zeroing
from blockstack.requests import TrackedRequest
from blockstack.settled import uninterrupted

MAX_WORKERS = 8
"""Parts of one guest request that run at the same time (QEMU: QCOW2_MAX_WORKERS)."""


class Qcow2(Zeroing):
    """An open qcow2 image over a file node, and possibly a backing node and an external data file's."""

    mapping_class: type[Mapping] = Mapping

    def __init__(
        self,
        header: Header,
        file: FilePosix,
        backing: Node | None,
        *,
        read_only: bool,
        discard: bool = False,
        data: FilePosix | None = None,
        caches: CacheSizes = DEFAULT_SIZES,
    ) -> None:
        super().__init__(header.size, read_only=read_only)
        self.header = header
        self.zero_alignment = header.subcluster_size if header.extended_l2 else header.cluster_size
        self.file = file
        self.backing = backing
        self.l1_bytes: int = header.l1_entries * 8 + (
            backing.l1_bytes if isinstance(backing, Qcow2) else 0
        )  # of the chain
        self.metadata = MetadataMap(header)
        self._cache_sizes = caches
        self.dirty_bit = DirtyBit(header, file, read_only=read_only)
        self.data = data or file  # where guest data is (QEMU: data_file)
        # What a table points to may lie in another file.
        barrier = self._barrier if header.external else None
        self._l2_cache = Cache(file, caches.l2_tables(header), pack_l2, barrier)
        blocks = Cache(file, caches.refcount_blocks(header), lambda block: pack(block, header.refcount_order), barrier)
        self.refcounts = Refcounts(header, file, self.metadata, blocks, self._l2_cache)
        self.clusters: DataClusters = (
            ExternalClusters(self.data, header) if header.external else OwnClusters(file, self.refcounts, self.metadata)
        )
        self.mapping = self.mapping_class(
            header, file, self.refcounts, self.metadata, self._l2_cache, self.dirty_bit, self.clusters
        )
        self.allocations: list[Allocation] = []
        self.snapshots: list[Snapshot] = []
        self._discard = discard
        self._lock = Mutex()

    @classmethod
    async def open(
        cls,
        header: Header,
        file: FilePosix,
        backing: Node | None,
        *,
        read_only: bool,
        discard: bool = False,
        data: FilePosix | None = None,
        caches: CacheSizes = DEFAULT_SIZES,
    ) -> "Qcow2":
        """Load the tables, those of refcounts only for writing. `discard`: a guest's discards give clusters back (QEMU:
        discard=unmap). `data`: the external data file, if the image has one and guest data is to be read or written.

        Raises ImageError, OSError.
        """
        image = cls(header, file, backing, read_only=read_only, discard=discard, data=data, caches=caches)
        if image.l1_bytes > MAX_CHAIN_L1_BYTES:
            raise ImageError(f"the L1 tables of the backing chain take more than {MAX_CHAIN_L1_BYTES >> 20} MiB")
        await image.mapping.load()
        if not read_only:
            await image.refcounts.load()
            await image._load_snapshots()
            image.metadata.load(image.mapping.table_offsets, image.refcounts.block_offsets)
            if header.autoclear & ~AUTOCLEAR_DATA_FILE_RAW:
                # What this driver knows nothing of (dirty bitmaps) is no longer true once it writes (qcow2.rst).
                header.autoclear &= AUTOCLEAR_DATA_FILE_RAW
                await rewrite(file, header, AUTOCLEAR, header.autoclear)
        return image

    async def _load_snapshots(self) -> None:
        self.snapshots, length = await snapshots.load(self.header, self.file)
        if self.snapshots:
            self.metadata.add_area("snapshot table", self.header.snapshots_offset, length)
        for snapshot in self.snapshots:
            if snapshot.l1_entries:
                self.metadata.add_area("L1 table of a snapshot", snapshot.l1_offset, snapshot.l1_entries * 8)

    # Reading

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        size = self.header.cluster_size
        host = self.mapping.in_memory(offset // size, -(-(offset + length) // size) - offset // size)
        if host is not None:
            return await self._read_host(host + offset % size, length)
        parts = []
        at, end = offset, offset + length
        while at < end:
            async with self._lock:
                run = await self.mapping.run(at // size, -(-end // size) - at // size)
            count = min(end, (at // size + run.clusters) * size) - at
            try:
                part = await self._read_run(run, at, count, run.host + at % size if run.host is not None else 0)
            except ImageError:
                if await self._is(run, at):
                    raise
                continue
            # Compressed data moves when a part of it is written, and its place goes to others.
            if run.host is None and run.entry and not run.zero and not await self._is(run, at):
                continue
            parts.append(part)
            at += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _is(self, run: Run, offset: int) -> bool:
        """Whether `run` is still what is at guest offset `offset`."""
        async with self._lock:
            return (await self.mapping.run(offset // self.header.cluster_size, run.clusters)).entry == run.entry

    async def block_status(self, offset: int, length: int) -> BlockStatus:
        """By the L2 table alone: the backing node is not asked whether it reads as zeroes."""
        size = self.header.cluster_size
        async with self._lock:
            run = await self.mapping.run(offset // size, -(-(offset + length) // size) - offset // size)
        allocated = run.zero or run.host is not None or bool(run.entry)
        count = min(length, (offset // size + run.clusters) * size - offset)
        return BlockStatus(count, allocated=allocated, zero=run.zero or (not allocated and self.backing is None))

    async def _read_run(self, run: Run, offset: int, length: int, host: int) -> bytes:
        """What `run` holds at guest offset `offset`, which is at `host` if the run is allocated."""
        if run.host is not None:
            return await self._read_host(host, length)
        if run.zero:
            return bytes(length)
        if run.entry:
            unpacked = compressed.decompress(
                await self._read_host(*compressed.extent(run.entry, self.header)), self.header
            )
            within = offset % self.header.cluster_size
            return unpacked[within : within + length]
        return await self._read_backing(offset, length)

    async def _read_host(self, offset: int, length: int) -> bytes:
        # Behind the end of the file an allocated cluster reads as zeroes (QEMU: bdrv_aligned_preadv).
        readable = max(0, min(length, self.data.length - offset))
        data = await self.data.preadv(offset, readable) if readable else b""
        return data.ljust(length, b"\0")

    async def _read_backing(self, offset: int, length: int) -> bytes:
        if self.backing is None or offset >= self.backing.length:
            return bytes(length)
        data = await self.backing.preadv(offset, min(length, self.backing.length - offset))
        return data.ljust(length, b"\0")

    # Writing

    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        host = self._in_place(offset, request.length)
        if host is not None:
            await self.data.pwritev(host, buffers)
            return
        # To its end, also for a caller that is cancelled: clusters are allocated and linked on the way.
        await uninterrupted(self._pwritev_parts(offset, buffers))

    def _in_place(self, offset: int, length: int) -> int | None:
        """Host offset of a write that replaces data and nothing else, None where that is not so, or takes I/O to know.

        Without the lock: nothing is awaited here, and who holds it changes tables in one go.
        """
        size = self.header.cluster_size
        first, last = offset // size, -(-(offset + length) // size)
        host = self.mapping.in_memory(first, last - first, copied=True)
        if host is None or (self.allocations and self._dependency(offset, length) != (length, None)):
            return None
        self.clusters.check(host, (last - first) * size)
        return host + offset % size

    async def _pwritev_parts(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Allocate part by part, and run the parts side by side (QEMU: qcow2_co_pwritev_part)."""
        data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        at, end = offset, offset + len(data)
        part = await self._place(at, end - at)
        if part.length == len(data):
            await self._write_part(data, part)
            return
        workers = asyncio.Semaphore(MAX_WORKERS)
        tasks: list[asyncio.Task[None]] = []
        try:
            while True:
                piece = data[at - offset : at - offset + part.length]
                tasks.append(asyncio.create_task(self._write_limited(workers, piece, part)))
                at += part.length
                if at == end:
                    break
                part = await self._place(at, end - at)
        finally:
            # Every part ends before the request does, also when one has failed.
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _write_limited(self, workers: asyncio.Semaphore, data: memoryview, part: Part) -> None:
        async with workers:
            await self._write_part(data, part)

    async def _write_part(self, data: memoryview, part: Part) -> None:
        """Zero or copy what surrounds the data, write it, link the clusters (QEMU: qcow2_co_pwritev_task)."""
        waiting = part.allocations[::-1]  # the last one first, as QEMU's list has them
        try:
            copied = [one for one in waiting if (one.head or one.tail) and not await self._alloc_space(one)]
            # One write for what is copied and the data, if they are all that there is (QEMU: merge_cow).
            merged = bool(copied) and copied[0].length == part.length
            if merged:
                head, tail = await self._read_around(copied[0])
                await self.data.pwritev(part.host - len(head), [head, data, tail])
            else:
                await self.data.pwritev(part.host, [data])
            while waiting:
                one = waiting[0]
                if one in copied and not merged:
                    await self._copy(one)
                async with self._lock:
                    await self._link(one, copied=one in copied)
                    self._end(waiting.pop(0))
        finally:
            for allocation in waiting:
                async with self._lock:
                    await self._forget(allocation)

    async def _link(self, allocation: Allocation, *, copied: bool) -> None:
        """Map its clusters, and give back those that they replace (QEMU: qcow2_alloc_cluster_link_l2).

        Once they are mapped they are the guest's: replaced ones that cannot be given back are leaked, as in QEMU.
        """
        await self._map(allocation, copied=copied)
        for run in () if allocation.kept else allocation.replaced:
            if run.entry:
                with suppress(OSError, ImageError):
                    await self.clusters.release(*self.mapping.extent(run.entry, run.clusters))

    def _map(self, allocation: Allocation, *, copied: bool) -> Awaitable[None]:
        return self.mapping.link(allocation.guest_cluster, allocation.host, allocation.clusters, copied=copied)

    async def _alloc_space(self, allocation: Allocation) -> bool:
        """Zero all its clusters with one zero-write, instead of writing zeroes around the data.

        QEMU: handle_alloc_space (c8bb23cbdbe32f, v4.1). Returns whether the copy-on-write can be skipped; a zero-write
        that would have to fall back (ENOTSUP, EAGAIN) means that it cannot.
        """
        if not self.data.strategy.uses_alloc_space(self.data) or not await self._copies_only_zeroes(allocation):
            return False
        size = self.header.cluster_size
        within = allocation.guest_offset % size
        start = within - allocation.head
        end = within + allocation.length + allocation.tail
        try:
            await self.data.pwrite_zeroes(allocation.host + start, end - start, fallback=False)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EAGAIN):
                return False
            raise
        return True

    async def _copies_only_zeroes(self, allocation: Allocation) -> bool:
        """Whether everything around the data is known to be zero (QEMU: is_zero_cow)."""
        end = allocation.guest_offset + allocation.length
        head = self._known_zero(allocation.replaced[0], allocation.guest_offset - allocation.head, allocation.head)
        return head and self._known_zero(allocation.replaced[-1], end, allocation.tail)

    def _known_zero(self, run: Run, offset: int, length: int) -> bool:
        if not length:
            return True
        if offset + length > self.length:
            return False  # nobody says so of what lies behind the disk's end (QEMU: bdrv_co_is_zero_fast)
        if run.zero:
            return True
        return not run.entry and (self.backing is None or self.backing.known_zero(offset, length))

    async def _copy(self, allocation: Allocation) -> None:
        """Write what surrounds the data (QEMU: perform_cow)."""
        head, tail = await self._read_around(allocation)
        at = allocation.host + allocation.guest_offset % self.header.cluster_size
        if head:
            await self.data.pwritev(at - len(head), [head])
        if tail:
            await self.data.pwritev(at + allocation.length, [tail])

    async def _read_around(self, allocation: Allocation) -> tuple[bytes, bytes]:
        """What has to be copied before the data and behind it."""
        head = await self._read_old(allocation, allocation.guest_offset - allocation.head, allocation.head)
        end = allocation.guest_offset + allocation.length
        return head, await self._read_old(allocation, end, allocation.tail)

    async def _read_old(self, allocation: Allocation, offset: int, length: int) -> bytes:
        if not length:
            return b""
        size = self.header.cluster_size
        cluster = allocation.guest_cluster
        for run in allocation.replaced:
            if offset < (cluster + run.clusters) * size:
                break
            cluster += run.clusters
        return await self._read_run(run, offset, length, (run.host or 0) + offset - cluster * size)

    # Making it stable

    async def _flush(self) -> None:
        await uninterrupted(self._flush_caches())

    async def _flush_caches(self) -> None:
        """Write the caches, in the order that they keep by themselves, and a barrier (QEMU: qcow2_flush_caches)."""
        async with self._lock:
            await self._l2_cache.write()
            if not self.dirty_bit.is_set:
                await self.refcounts.cache.write()
        await self._barrier()

    async def _barrier(self) -> None:
        await self.file.flush()
        if self.data is not self.file:
            await self.data.flush()

    async def _mark_clean(self) -> None:
        """QEMU: qcow2_mark_clean."""
        async with self._lock:
            if self.dirty_bit.is_set:
                await self.refcounts.cache.flush()
                await self.dirty_bit.clear()

    async def _truncate(self, length: int) -> None:
        await resize(self, length)

    def fit_cache(self) -> None:
        """Let the L2 cache be as large as the disk asks for."""
        self._l2_cache.limit = self._cache_sizes.l2_tables(self.header)

    async def _close(self) -> None:
        try:
            if not self.read_only:
                await self._flush()
                await uninterrupted(self._mark_clean())
        finally:
            try:
                await self.file.close()
                if self.data is not self.file:
                    await self.data.close()
            finally:
                if self.backing is not None:
                    await self.backing.close()
