"""Guest clusters to host clusters: the L1 table and its L2 tables (QEMU: block/qcow2-cluster.c, the tables' part).

L2 tables are kept in memory and written back at a flush, after the refcounts they rely on; a new table is written at
once, before the L1 table points to it. Everything here runs under the image's metadata lock.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.node import Node
from blockstack.qcow2 import compressed
from blockstack.qcow2.header import OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, Header
from blockstack.qcow2.overlap import MetadataMap
from blockstack.qcow2.refcounts import Refcounts

CACHE_BYTES = 128 << 20
"""L2 tables kept in memory, beside changed ones: they map 1 TiB of disk at 64 KiB clusters (QEMU: l2-cache-size)."""


@dataclass(slots=True, eq=False)
class L2Table:
    """One L2 table at host offset `offset`; `entries` has shape (l2_entries,)."""

    offset: int
    entries: npt.NDArray[np.uint64]
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """`clusters` neighbouring guest clusters of one state; `host` is the first one's host offset, None where
    unallocated.
    """

    clusters: int
    host: int | None
    zero: bool = False
    copied: bool = False  # refcount 1: may be written in place
    entry: int = 0  # the first one's L2 entry, where a write has to replace something; 0: nothing is there


class Mapping:
    """The two-level table of one image."""

    def __init__(self, header: Header, file: Node, refcounts: Refcounts, metadata: MetadataMap) -> None:
        self._header = header
        self._file = file
        self._refcounts = refcounts
        self._metadata = metadata
        self._l1: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._tables: dict[int, L2Table] = {}

    async def load(self) -> None:
        """Read the L1 table. Raises ImageError where it points to impossible places."""
        header = self._header
        length = header.l1_entries * 8
        readable = max(0, min(length, self._file.length - header.l1_offset))
        data = await self._file.preadv(header.l1_offset, readable) if readable else b""
        self._l1 = np.frombuffer(data.ljust(length, b"\0"), dtype=">u8").astype(np.uint64)
        offsets = self._l1 & np.uint64(OFFSET_MASK)
        if np.any(offsets % np.uint64(header.cluster_size)):
            raise ImageError("the L1 table points to an unaligned L2 table")
        used = offsets[offsets != 0]
        if len(np.unique(used)) != len(used):
            raise ImageError("two L1 entries point to the same L2 table")

    @property
    def table_offsets(self) -> npt.NDArray[np.uint64]:
        """Host offsets of the L2 tables."""
        offsets = self._l1 & np.uint64(OFFSET_MASK)
        used: npt.NDArray[np.uint64] = offsets[offsets != 0]
        return used

    async def table(self, guest_cluster: int) -> L2Table | None:
        """The L2 table that maps `guest_cluster`, None where there is none. Raises OSError, ImageError."""
        index = guest_cluster // self._header.l2_entries
        if index in self._tables:
            return self._tables[index]
        entry = int(self._l1[index])
        offset = entry & OFFSET_MASK
        if not offset:
            return None
        size = self._header.cluster_size
        readable = max(0, min(size, self._file.length - offset))
        data = await self._file.preadv(offset, readable) if readable else b""
        entries = np.frombuffer(data.ljust(size, b"\0"), dtype=">u8").astype(np.uint64)
        self._evict()
        self._tables[index] = table = L2Table(offset, entries)
        return table

    def _evict(self) -> None:
        """Make room for one more table; those that have changed stay."""
        excess = len(self._tables) + 1 - CACHE_BYTES // self._header.cluster_size
        if excess > 0:
            clean = [index for index, table in self._tables.items() if not table.dirty]
            for index in clean[:excess]:
                del self._tables[index]

    async def table_for_write(self, guest_cluster: int) -> L2Table:
        """The L2 table that maps `guest_cluster`, made if there is none (QEMU: get_cluster_table, l2_allocate).

        QEMU flushes the refcounts before it writes the empty table; here only the L1 entry waits for that flush, since
        an L2 table that nothing points to needs no refcount yet. One that a snapshot shares is copied.
        """
        index = guest_cluster // self._header.l2_entries
        table = await self.table(guest_cluster)
        if table is not None:
            if int(self._l1[index]) & OFLAG_COPIED:
                return table
            shared = table.offset
            entries = table.entries.copy()
        else:
            shared = 0
            entries = np.zeros(self._header.l2_entries, dtype=np.uint64)
        offset, _ = await self._refcounts.allocate(1)
        table = L2Table(offset, entries)
        try:
            await self._write(table)
            await self._refcounts.write_back()
            await self._file.flush()
            entry = np.array([offset | OFLAG_COPIED], dtype=">u8").tobytes()
            await self._file.pwritev(self._header.l1_offset + index * 8, [entry], metadata=True)
        except BaseException:
            await self._refcounts.free(offset, 1)
            raise
        self._l1[index] = offset | OFLAG_COPIED
        self._metadata.add(offset)
        if shared:
            self._refcounts.free_later(shared, 1)
        self._evict()
        self._tables[index] = table
        return table

    async def run(self, guest_cluster: int, limit: int) -> Run:
        """What is at `guest_cluster`, and how far (at most `limit` clusters, within one L2 table) it goes on like that.

        Raises ImageError for impossible host offsets.
        """
        l2_entries = self._header.l2_entries
        first = guest_cluster % l2_entries
        limit = min(limit, l2_entries - first)
        table = await self.table(guest_cluster)
        if table is None:
            return Run(limit, None)
        entries = table.entries[first : first + limit]
        head = int(entries[0])
        if head & OFLAG_COMPRESSED:
            return Run(1, None, entry=head)
        host = head & OFFSET_MASK
        if host % self._header.cluster_size:
            raise ImageError(f"guest cluster {guest_cluster} is mapped to unaligned host offset {host}")
        if head & OFLAG_ZERO:
            if self._header.version < 3:
                raise ImageError(f"guest cluster {guest_cluster} is a zero cluster, which version 2 does not have")
            # One at a time: each may have a host cluster of its own to give back.
            return Run(1, None, zero=True, entry=head if host else 0)
        if not host:
            # Other bits say nothing without an offset: an entry of COPIED alone is unallocated, too.
            used = np.nonzero(entries & np.uint64(OFFSET_MASK | OFLAG_ZERO | OFLAG_COMPRESSED))[0]
            return Run(int(used[0]) if len(used) else limit, None)
        steps = np.arange(limit, dtype=np.uint64) * np.uint64(self._header.cluster_size)
        breaks = np.nonzero(entries != np.uint64(head) + steps)[0]
        return Run(int(breaks[0]) if len(breaks) else limit, host, copied=bool(head & OFLAG_COPIED), entry=head)

    async def zeroize(self, guest_cluster: int, limit: int, *, unmap: bool) -> int:
        """Make up to `limit` clusters, those of one L2 table, read as zeroes (QEMU: zero_in_l2_slice).

        Host clusters are kept for later writes unless `unmap`. Returns how many were done. Raises ImageError, OSError.
        """
        table, first, count = await self._part(guest_cluster, limit)
        for position in range(first, first + count):
            old = int(table.entries[position])
            packed = bool(old & OFLAG_COMPRESSED)
            freed = packed or (unmap and bool(old & OFFSET_MASK))
            self._replace(table, position, OFLAG_ZERO if freed else old | OFLAG_ZERO, old if freed else 0)
        return count

    async def discard(self, guest_cluster: int, limit: int, *, backed: bool) -> int:
        """Give up to `limit` clusters, those of one L2 table, back (QEMU: discard_in_l2_slice).

        They read as zeroes afterwards: by the zero flag in version 3; version 2 has none, and must not be `backed`.
        """
        if not backed and await self.table(guest_cluster) is None:
            return min(limit, self._header.l2_entries - guest_cluster % self._header.l2_entries)
        table, first, count = await self._part(guest_cluster, limit)
        for position in range(first, first + count):
            old = int(table.entries[position])
            if backed or old & (OFLAG_COMPRESSED | OFFSET_MASK):
                freed = old if old & (OFLAG_COMPRESSED | OFFSET_MASK) else 0
                self._replace(table, position, OFLAG_ZERO if self._header.version >= 3 else 0, freed)
        return count

    async def _part(self, guest_cluster: int, limit: int) -> tuple[L2Table, int, int]:
        table = await self.table_for_write(guest_cluster)
        first = guest_cluster % self._header.l2_entries
        return table, first, min(limit, self._header.l2_entries - first)

    def _replace(self, table: L2Table, position: int, entry: int, freed: int) -> None:
        if entry == int(table.entries[position]):
            return
        extent = self.extent(freed, 1) if freed else None
        table.entries[position] = entry
        table.dirty = True
        if extent is not None:
            self._refcounts.free_later(*extent)

    def extent(self, entry: int, clusters: int) -> tuple[int, int]:
        """Host offset and number of the clusters that `entry`, the first of `clusters`, refers to.

        Raises ImageError where that is metadata, which is never given back on the word of an L2 entry.
        """
        if entry & OFLAG_COMPRESSED:
            offset, count = compressed.clusters(entry, self._header)
        else:
            offset, count = entry & OFFSET_MASK, clusters
        if offset % self._header.cluster_size:
            raise ImageError(f"a guest cluster is mapped to unaligned host offset {offset}")
        self._metadata.check(offset, count * self._header.cluster_size)
        return offset, count

    async def link(self, guest_cluster: int, host: int, clusters: int) -> None:
        """Map `clusters` guest clusters to the host clusters from `host` on (QEMU: qcow2_alloc_cluster_link_l2)."""
        table = await self.table_for_write(guest_cluster)
        first = guest_cluster % self._header.l2_entries
        steps = np.arange(clusters, dtype=np.uint64) * np.uint64(self._header.cluster_size)
        table.entries[first : first + clusters] = np.uint64(host | OFLAG_COPIED) + steps
        table.dirty = True

    async def write_back(self) -> None:
        """Write every table that has changed; the refcounts must be stable before. Raises OSError."""
        for table in self._tables.values():
            if table.dirty:
                await self._write(table)

    def extents(self) -> list[tuple[int, int, int, int]]:
        """All allocated guest clusters as in memory: (guest cluster, host offset, L2 table's offset, index in the
        table).
        """
        found = []
        for index, table in self._tables.items():
            for position in np.nonzero(table.entries & np.uint64(OFFSET_MASK))[0]:
                host = int(table.entries[position]) & OFFSET_MASK
                found.append((index * self._header.l2_entries + int(position), host, table.offset, int(position)))
        return found

    async def load_all(self) -> None:
        """Read every L2 table."""
        for index in np.nonzero(self._l1 & np.uint64(OFFSET_MASK))[0]:
            await self.table(int(index) * self._header.l2_entries)

    async def _write(self, table: L2Table) -> None:
        table.dirty = False
        try:
            await self._file.pwritev(table.offset, [table.entries.astype(">u8").tobytes()], metadata=True)
        except OSError:
            table.dirty = True
            raise
