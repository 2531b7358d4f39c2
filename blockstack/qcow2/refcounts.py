"""Reference counts of host clusters: which are free, and the tables that say so on disk (QEMU: block/qcow2-refcount.c).

Blocks are cached; a new one is written at once, before the table that points to it. Everything here runs under the
image's metadata lock.
"""

import errno
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.node import Node
from blockstack.qcow2.cache import Cache, Entries, Table
from blockstack.qcow2.header import MAX_REFTABLE_BYTES, Header
from blockstack.qcow2.overlap import MetadataMap
from blockstack.qcow2.widths import refcount_dtype, unpack

_MAX_CLUSTER_OFFSET: Final = 2**56
"""Host offsets of L1 and L2 entries have 56 bits."""

TABLE_POINTER: Final = 48
"""Offset of refcount_table_offset in the header; refcount_table_clusters follows it."""


def _first_zero(refcounts: Entries, start: int) -> int:
    """Index of the first 0 from `start` on, the length where there is none."""
    # What is free is mostly near: one by itself, then more and more at a time.
    step = 1
    while start < len(refcounts):
        if step == 1:
            if not refcounts.item(start):
                return start
        else:
            free = np.flatnonzero(refcounts[start : start + step] == 0)
            if len(free):
                return start + int(free[0])
        start, step = start + step, step * 16
    return len(refcounts)


class Refcounts:
    """Refcounts of the header's width, one for each host cluster."""

    def __init__(self, header: Header, file: Node, metadata: MetadataMap, cache: Cache, l2_cache: Cache) -> None:
        self.cache = cache
        self._header = header
        self._file = file
        self._metadata = metadata
        self._per_block = header.refcounts_per_block
        self._table: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._l2_cache = l2_cache
        self._free_from = 0

    async def load(self) -> None:
        """Read the refcount table. Raises ImageError where it points to impossible places."""
        header = self._header
        length = header.refcount_table_clusters * header.cluster_size
        data = await self._file.preadv(
            header.refcount_table_offset, self._readable(header.refcount_table_offset, length)
        )
        self._table = np.frombuffer(data.ljust(length, b"\0"), dtype=">u8").astype(np.uint64)
        offsets = self._table[self._table != 0]
        if np.any(offsets % np.uint64(header.cluster_size)) or np.any(offsets >= _MAX_CLUSTER_OFFSET):
            raise ImageError("the refcount table points to an impossible offset")

    @property
    def block_offsets(self) -> npt.NDArray[np.uint64]:
        """Host offsets of the refcount blocks."""
        assert len(self._table), "the refcount table was not loaded: it is for writing only"
        offsets: npt.NDArray[np.uint64] = self._table[self._table != 0]
        return offsets

    async def allocate(self, count: int) -> tuple[int, int]:
        """Take `count` contiguous free clusters, fewer only at the end of a refcount block. Returns their host offset
        and number.

        Smaller gaps on the way are passed over (QEMU: alloc_clusters_noref). Raises OSError, and ImageError where a
        cluster counted as free holds metadata.
        """
        while True:
            start, found = await self._first_free(count)
            index = start // self._per_block
            block = await self._block(index)
            if block is not None:
                break
            # Making a refcount block takes clusters, and growing the table gives some back: look again.
            await self._need_block(index)
        size = self._header.cluster_size
        if (start + found) * size >= _MAX_CLUSTER_OFFSET:
            raise OSError(errno.EFBIG, "the image file is full")
        self._use(block, start, found)
        self._free_from = start + found
        return start * size, found

    async def allocate_at(self, offset: int, count: int) -> int:
        """Take up to `count` free clusters from host offset `offset` on, those of one refcount block (QEMU:
        qcow2_alloc_clusters_at). Returns how many. Raises as `allocate`.
        """
        start = offset // self._header.cluster_size
        block = await self._block(start // self._per_block)
        if block is None or offset + count * self._header.cluster_size >= _MAX_CLUSTER_OFFSET:
            return 0
        within = start % self._per_block
        free = block.entries[within : within + count] == 0
        found = len(free) if free.all() else int(np.argmin(free))
        if found:
            self._use(block, start, found)
        return found

    def _use(self, block: Table, start: int, count: int) -> None:
        """Count a first reference to `count` clusters of `block`."""
        size = self._header.cluster_size
        self._metadata.check(start * size, count * size)
        within = start % self._per_block
        block.entries[within : within + count] = 1
        block.dirty = True

    async def allocate_all(self, count: int) -> int:
        """Take `count` contiguous clusters; their host offset. Raises OSError, EFBIG for more than a refcount block of
        its own counts behind itself; ImageError.
        """
        if count >= self._per_block:
            raise OSError(errno.EFBIG, f"no room for a table of {count} clusters: larger clusters are needed")
        left: list[tuple[int, int]] = []  # too small
        try:
            while True:
                offset, found = await self.allocate(count)
                if left and left[-1][0] + left[-1][1] * self._header.cluster_size == offset:
                    offset, found = left[-1][0], left.pop()[1] + found
                if found >= count:
                    if found > count:
                        left.append((offset + count * self._header.cluster_size, found - count))
                    return offset
                left.append((offset, found))
        finally:
            for at, clusters in left:
                await self.free(at, clusters, linked=False)

    async def end(self) -> int:
        """Where the last cluster in use ends, in bytes (QEMU: qcow2_get_last_cluster)."""
        for index in np.flatnonzero(self._table)[::-1].tolist():
            block = await self._block(index)
            assert block is not None
            used = np.flatnonzero(block.entries)
            if len(used):
                return (int(index) * self._per_block + int(used[-1]) + 1) * self._header.cluster_size
        return 0

    async def _first_free(self, count: int) -> tuple[int, int]:
        """The first `count` neighbours with refcount 0, or those at the end of a block; they, and how many."""
        index, within = divmod(self._free_from, self._per_block)
        while (block := await self._block(index)) is not None:
            while (within := _first_zero(block.entries, within)) < self._per_block:
                if count == 1:
                    return index * self._per_block + within, 1
                used = np.flatnonzero(block.entries[within : within + count])
                if not len(used):
                    return index * self._per_block + within, min(count, self._per_block - within)
                within += int(used[0]) + 1
            index, within = index + 1, 0
        return index * self._per_block + within, 0

    async def free(self, offset: int, count: int, *, linked: bool = True) -> list[tuple[int, int]]:
        """Give `count` clusters at host offset `offset` back (QEMU: update_refcount). Returns those that nobody uses
        any more: host offset and number.

        No refcount falls on the disk before the L2 tables that no longer refer to the clusters are there, unless none
        ever did (not `linked`). Raises ImageError where one is free already, OSError.
        """
        size = self._header.cluster_size
        first, end = offset // size, offset // size + count
        free: list[tuple[int, int]] = []
        while first < end:
            index, within = divmod(first, self._per_block)
            clusters = min(end - first, self._per_block - within)
            block = await self._block(index)
            if block is None or not np.all(block.entries[within : within + clusters]):
                raise ImageError(f"a cluster from {first * self._header.cluster_size} on is freed twice")
            if linked:
                await self.cache.depend_on(self._l2_cache)
            references = block.entries[within : within + clusters]
            references -= references.dtype.type(1)
            block.dirty = True
            unused = np.flatnonzero(references == 0)
            if len(unused):
                self._free_from = min(self._free_from, first + int(unused[0]))
                free += [((first + int(run[0])) * size, len(run)) for run in _runs(unused)]
            first += clusters
        return free

    async def put(self, offset: int, references: int) -> None:
        """Say how many references the cluster at host offset `offset` has; its block must be there."""
        index, within = divmod(offset // self._header.cluster_size, self._per_block)
        block = await self._block(index)
        assert block is not None
        block.entries[within] = references
        block.dirty = True

    async def read_all(self, clusters: int) -> npt.NDArray[np.uint32]:
        """The refcounts of the first `clusters` host clusters, shape (clusters,); larger ones than 2^32 - 1 as that."""
        found = np.zeros(clusters, dtype=np.uint32)
        for first in range(0, clusters, self._per_block):
            block = await self._block(first // self._per_block)
            if block is not None:
                count = min(clusters - first, self._per_block)
                found[first : first + count] = np.minimum(block.entries[:count].astype(np.uint64), 0xFFFFFFFF)
        return found

    async def get(self, offset: int) -> int:
        """References to the cluster at host offset `offset`."""
        return await self._get(offset // self._header.cluster_size)

    async def _get(self, cluster: int) -> int:
        block = await self._block(cluster // self._per_block)
        return 0 if block is None else int(block.entries[cluster % self._per_block])

    async def _take(self, first: int, count: int) -> None:
        """Count one reference to each of `count` clusters whose blocks are there."""
        for cluster in range(first, first + count):
            block = await self._block(cluster // self._per_block)
            assert block is not None
            block.entries[cluster % self._per_block] = 1
            block.dirty = True

    async def _block(self, index: int) -> Table | None:
        block = self.cache.get(index)
        if block is not None:
            return block
        if index >= len(self._table) or not self._table[index]:
            return None
        length = self._header.cluster_size
        offset = int(self._table[index])
        if offset >= self._file.length:
            # To take its clusters for free would overwrite what the lost block counted.
            raise ImageError(f"the refcount block at {offset} lies beyond the end of the file")
        data = await self._file.preadv(offset, self._readable(offset, length))
        block = Table(offset, unpack(data.ljust(length, b"\0"), self._header.refcount_order))
        await self.cache.add(index, block)
        return block

    def _readable(self, offset: int, length: int) -> int:
        return max(0, min(length, self._file.length - offset))

    async def _need_block(self, index: int) -> None:
        """Make the refcount block `index`, which is missing (QEMU: alloc_refcount_block)."""
        if index >= len(self._table):
            await self._grow_table(index + 1)
        if await self._block(index) is not None:
            return
        try:
            await self._new_block(index)
            await self._write_table_entry(index)
        except BaseException:
            # Forget it: the next allocation makes the same block at the same place again.
            self.cache.forget(index)
            self._table[index] = 0
            raise
        self._metadata.add(int(self._table[index]))

    async def _new_block(self, index: int) -> None:
        """A block that describes itself: its own cluster is the first of those it counts, which are all free."""
        first = index * self._per_block
        if (first + self._per_block) * self._header.cluster_size >= _MAX_CLUSTER_OFFSET:
            raise OSError(errno.EFBIG, "the image file is full")
        self._metadata.check(first * self._header.cluster_size, self._header.cluster_size)
        block = Table(
            first * self._header.cluster_size,
            np.zeros(self._per_block, dtype=refcount_dtype(self._header.refcount_order)),
            dirty=True,
        )
        block.entries[0] = 1
        self._table[index] = block.offset
        await self.cache.add(index, block)
        await self.cache.write()

    async def _write_table_entry(self, index: int) -> None:
        # The block is stable before the table points to it (QEMU: bdrv_pwrite_sync in alloc_refcount_block).
        await self._file.flush()
        entry = self._table[index : index + 1].astype(">u8").tobytes()
        await self._file.pwritev(self._header.refcount_table_offset + index * 8, [entry], metadata=True)
        await self._file.flush()

    async def _grow_table(self, entries: int) -> None:
        """Move to a larger table behind everything else (QEMU: qcow2_refcount_area), then free the old one."""
        header, old_table = self._header, self._table
        old_offset, old_clusters = header.refcount_table_offset, header.refcount_table_clusters
        try:
            await self._move_table(entries)
        except BaseException:
            # As if nothing had happened: the next attempt makes the same blocks and table at the same places again.
            self.cache.forget_from(len(old_table))
            self._table = old_table
            raise
        for offset in self._table[len(old_table) :]:
            if offset:
                self._metadata.add(int(offset))
        # From here on the new table is the table, also if giving the old one back fails.
        await self.free(old_offset, old_clusters)

    async def _move_table(self, entries: int) -> None:
        header = self._header
        per_cluster = header.cluster_size // 8
        clusters = max(-(-entries // per_cluster), header.refcount_table_clusters * 3 // 2 + 1)
        if clusters * header.cluster_size > MAX_REFTABLE_BYTES:
            raise OSError(errno.EFBIG, "the image file is full: no room for a larger refcount table")
        table = np.zeros(clusters * per_cluster, dtype=np.uint64)
        table[: len(self._table)] = self._table
        old_entries = len(self._table)
        self._table = table
        # All blocks up to the old end are in use, so the new area begins with a block of its own and the table behind
        # it.
        first_block = old_entries
        await self._new_block(first_block)
        first = first_block * self._per_block + 1
        for cluster in range(first, first + clusters):
            if await self._block(cluster // self._per_block) is None:
                await self._new_block(cluster // self._per_block)
        # A block that begins inside the area would lie in the middle of the table: take the first run that holds it
        # all.
        start = first
        while any([await self._get(cluster) for cluster in range(start, start + clusters)]):
            start += 1
            if await self._block((start + clusters) // self._per_block) is None:
                await self._new_block((start + clusters) // self._per_block)
        self._metadata.check(start * header.cluster_size, clusters * header.cluster_size)
        await self._take(start, clusters)
        await self.cache.write()
        offset = start * header.cluster_size
        await self._file.pwritev(offset, [table.astype(">u8").tobytes()], metadata=True)
        await self._file.flush()
        pointer = offset.to_bytes(8, "big") + clusters.to_bytes(4, "big")
        await self._file.pwritev(TABLE_POINTER, [pointer], metadata=True)
        await self._file.flush()
        header.refcount_table_offset, header.refcount_table_clusters = offset, clusters


def _runs(numbers: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Ascending numbers, cut where one is left out."""
    return np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
