"""The qcow2 node of an image with extended L2 entries: copy-on-write, zeroes and reads by subclusters (QEMU:
calculate_l2_meta, handle_alloc_space, qcow2_subcluster_zeroize).
"""

from blockstack.block_status import BlockStatus
from blockstack.qcow2.allocation import Allocation
from blockstack.qcow2.header import OFLAG_COMPRESSED, SUBCLUSTERS, Header
from blockstack.qcow2.image import Qcow2
from blockstack.qcow2.mapping import Run
from blockstack.qcow2.subclusters import ALL, SubclusterMapping, SubclusterRun, subclusters_from
from blockstack.requests import TrackedRequest


def driver(header: Header) -> type[Qcow2]:
    """The node for an image with this header."""
    return ExtendedQcow2 if header.extended_l2 else Qcow2


def _start(allocation: Allocation) -> int:
    """Guest offset of what is copied and written."""
    return allocation.guest_offset - allocation.head


def _end(allocation: Allocation) -> int:
    return allocation.guest_offset + allocation.length + allocation.tail


def _bitmaps(runs: list[Run]) -> list[int]:
    return [run.bitmap for run in runs if isinstance(run, SubclusterRun)]


class ExtendedQcow2(Qcow2):
    """An open image with extended L2 entries."""

    mapping_class = SubclusterMapping
    mapping: SubclusterMapping

    # Reading

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        size = self.header.cluster_size
        host = self.mapping.in_memory(offset // size, -(-(offset + length) // size) - offset // size)
        if host is not None:
            return await self._read_host(host + offset % size, length)
        return await self._read(offset, length)

    async def _read(self, offset: int, length: int) -> bytes:
        parts = []
        at, end = offset, offset + length
        while at < end:
            async with self._lock:
                run, count = await self.mapping.span(at, end - at)
            parts.append(await self._read_run(run, at, count, run.host or 0))
            at += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def block_status(self, offset: int, length: int) -> BlockStatus:
        """By the L2 table alone, as `Qcow2`."""
        async with self._lock:
            run, count = await self.mapping.span(offset, length)
        allocated = run.zero or run.host is not None or bool(run.entry)
        return BlockStatus(count, allocated=allocated, zero=run.zero or (not allocated and self.backing is None))

    # Writing

    def _dependency(self, offset: int, length: int) -> tuple[int, Allocation | None]:
        """As in any image, but that a write into other subclusters of a cluster that keeps its place need not wait."""
        size = self.header.cluster_size
        for other in self.allocations:
            start = other.guest_cluster * size
            end = start + other.clusters * size
            if offset + length <= start or offset >= end:
                continue
            if other.kept and (offset + length <= _start(other) or offset >= _end(other)):
                continue
            if offset >= start:
                return 0, other
            length = start - offset
        return length, None

    async def _runs(self, offset: int, length: int) -> list[Run]:
        size = self.header.cluster_size
        first, last = offset // size, -(-(offset + length) // size)
        return list(await self.mapping.subcluster_runs(first, last - first))

    def _needs_link(self, runs: list[Run], offset: int, length: int) -> bool:
        """Unless nothing but allocated subclusters is written."""
        size, sub_size = self.header.cluster_size, self.header.subcluster_size
        start = offset % size
        for number, bitmap in enumerate(_bitmaps(runs)):
            begin = max(start - number * size, 0) // sub_size
            end = -(-min(start + length - number * size, size) // sub_size)
            if begin < end and subclusters_from(begin, end) & ~bitmap:
                return True
        return False

    def _around(self, runs: list[Run], offset: int, length: int, kept: bool) -> tuple[int, int]:
        """In a cluster that keeps its place an allocated subcluster needs nothing, any other is filled up. A new
        cluster takes over all that the old one has allocated (QEMU: calculate_l2_meta).
        """
        size, sub_size = self.header.cluster_size, self.header.subcluster_size
        start = offset % size
        end = start + length
        behind = (end - 1) // size * SUBCLUSTERS  # subclusters before the last cluster
        first, last = start // sub_size, (end - 1) // sub_size
        tail_run = runs[(end - 1) // size]
        head_bitmap, tail_bitmap = _bitmaps([runs[0], tail_run])
        if kept:
            head = 0 if head_bitmap >> first & 1 else start - first * sub_size
            tail = 0 if tail_bitmap >> (last - behind) & 1 else (last + 1) * sub_size - end
            return head, tail
        allocated = head_bitmap & ALL
        if runs[0].entry & OFLAG_COMPRESSED:
            first = 0
        elif allocated:
            first = min(first, (allocated & -allocated).bit_length() - 1)
        last += 1
        if tail_run.entry & OFLAG_COMPRESSED:
            last = behind + SUBCLUSTERS
        else:
            last = max(last, behind + (tail_bitmap & ALL).bit_length())
        return start - first * sub_size, last * sub_size - end

    async def _map(self, allocation: Allocation, *, copied: bool) -> None:
        await self.mapping.link_written(
            allocation.guest_cluster,
            allocation.host,
            allocation.clusters,
            _start(allocation),
            _end(allocation),
            new=not allocation.kept,
            copied=copied,
        )

    async def _copies_only_zeroes(self, allocation: Allocation) -> bool:
        data_end = allocation.guest_offset + allocation.length
        async with self._lock:
            return await self._reads_zero(_start(allocation), allocation.head) and await self._reads_zero(
                data_end, allocation.tail
            )

    async def _reads_zero(self, offset: int, length: int) -> bool:
        """Whether a range is known to read as zeroes, which nobody says behind the disk's end (QEMU:
        bdrv_co_is_zero_fast).
        """
        if length and offset + length > self.length:
            return False
        while length:
            run, count = await self.mapping.span(offset, length)
            if run.host is not None or run.entry:
                return False
            if not run.zero and self.backing is not None and not self.backing.known_zero(offset, count):
                return False
            offset, length = offset + count, length - count
        return True

    async def _read_old(self, allocation: Allocation, offset: int, length: int) -> bytes:
        # The table still says what was there.
        return await self._read(offset, length) if length else b""

    # Zeroes

    async def _zero_parts(self, offset: int, length: int, unmap: bool) -> None:
        """Whole subclusters by their bitmaps, the ends by writing zeroes where the rest of the subcluster has data.

        A part of a compressed cluster is written, too. (QEMU writes the whole request then.)
        """
        sub_size = self.header.subcluster_size
        at = raw_zero = offset  # a raw data file is zeroed up to there
        end = offset + length
        while at < end:
            until = end - end % sub_size
            if at == until and end == self.length:
                until = end  # by itself, as in QEMU: what goes before is no whole cluster then
            if at % sub_size == 0 and at < until:
                if at >= raw_zero:
                    raw_zero = until
                    await self._zero_raw(at, until, unmap)
                async with self._lock, self.mapping.holes():
                    count, done = await self._zeroize(at, until, unmap)
            else:
                count = min(end, at - at % sub_size + sub_size) - at
                async with self._lock, self.mapping.holes():
                    done = await self._zeroize_around(at, count, unmap)
            if not done:
                await self._pwritev_parts(at, [bytes(count)])
            at += count

    async def _zeroize(self, at: int, until: int, unmap: bool) -> tuple[int, bool]:
        """Subclusters up to the end of the cluster, or whole clusters. Returns how many bytes, and whether it could
        be done (QEMU: qcow2_subcluster_zeroize).
        """
        size, sub_size = self.header.cluster_size, self.header.subcluster_size
        cluster, within = divmod(at, size)
        if within == 0 and (until - at >= size or until == self.length):
            whole = -(-(until - at) // size) if until == self.length else (until - at) // size
            done = await self.mapping.zeroize(cluster, whole, unmap=unmap)
            return min(until - at, done * size), True
        stop = min(until - cluster * size, size)
        return stop - within, await self.mapping.zeroize_part(cluster, within // sub_size, -(-stop // sub_size))

    async def _zeroize_around(self, at: int, count: int, unmap: bool) -> bool:
        """The whole subcluster, if all around a part of it reads as zeroes (QEMU: qcow2_co_pwrite_zeroes)."""
        size, sub_size = self.header.cluster_size, self.header.subcluster_size
        start = at - at % sub_size
        end = min(start + sub_size, self.length)
        run, _ = await self.mapping.span(start, sub_size)
        if run.host is not None or run.entry:
            return False
        if not await self._reads_zero(start, at - start) or not await self._reads_zero(at + count, end - at - count):
            return False
        await self._zero_raw(start, end, unmap)
        index = start % size // sub_size
        return await self.mapping.zeroize_part(start // size, index, index + 1)
