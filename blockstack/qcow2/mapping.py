"""Guest clusters to host clusters: the L1 table and its L2 tables (QEMU: block/qcow2-cluster.c, the tables' part).

L2 tables are cached, and written after the refcounts they rely on; a new table is written at once, before the L1 table
points to it. Everything here runs under the image's metadata lock.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.node import Node
from blockstack.qcow2 import compressed
from blockstack.qcow2.cache import Cache, Entries, Table
from blockstack.qcow2.data_file import DataClusters
from blockstack.qcow2.header import L1_PLACE, OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, Header
from blockstack.qcow2.lazy import DirtyBit
from blockstack.qcow2.overlap import MetadataMap
from blockstack.qcow2.refcounts import Refcounts

FEW = 16
"""Entries that are looked at one by one; of more numpy is quicker."""


def pack_l2(entries: Entries) -> bytes:
    """An L2 table as on the disk."""
    return entries.astype(">u8").tobytes()


@dataclass(frozen=True, slots=True)
class Run:
    """`clusters` neighbouring guest clusters of one state; `host` is the first one's host offset, None where
    unallocated.
    """

    clusters: int
    host: int | None
    zero: bool = False  # reads as zeroes; `entry` may have a host cluster all the same
    copied: bool = False  # has a host cluster of refcount 1: may be written in place
    entry: int = 0  # the first one's L2 entry, where a write has to replace something; 0: nothing is there


class Mapping:
    """The two-level table of one image."""

    def __init__(
        self,
        header: Header,
        file: Node,
        refcounts: Refcounts,
        metadata: MetadataMap,
        cache: Cache,
        dirty_bit: DirtyBit,
        data: DataClusters,
    ) -> None:
        self._header = header
        self._file = file
        self._refcounts = refcounts
        self._metadata = metadata
        self._data = data
        self._external = header.external
        self._l2_entries = header.l2_entries
        self._l1: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._cache = cache
        self._dirty_bit = dirty_bit
        self._unused: list[tuple[int, int]] = []
        """Host offset and number of clusters that nobody uses any more, as the guest wanted (QEMU: s->discards)."""

    async def load(self) -> None:
        """Read the L1 table. Raises ImageError where it points to impossible places.

        The largest one is 32 MiB: what is no longer needed goes before the next copy of it is made.
        """
        header = self._header
        self._l1 = np.zeros(header.l1_entries, np.uint64)
        readable = max(0, min(header.l1_entries * 8, self._file.length - header.l1_offset))
        data = await self._file.preadv(header.l1_offset, readable) if readable else b""
        if len(data) % 8:
            data = data.ljust(len(data) + -len(data) % 8, b"\0")
        self._l1[: len(data) // 8] = np.frombuffer(data, dtype=">u8")
        del data
        used = self.table_offsets
        if np.any(used & np.uint64(header.cluster_size - 1)):
            raise ImageError("the L1 table points to an unaligned L2 table")
        used.sort()  # np.unique would take 160 MiB
        if np.any(used[1:] == used[:-1]):
            raise ImageError("two L1 entries point to the same L2 table")

    @property
    def table_offsets(self) -> npt.NDArray[np.uint64]:
        """Host offsets of the L2 tables."""
        offsets = self._l1 & np.uint64(OFFSET_MASK)
        used: npt.NDArray[np.uint64] = offsets[offsets != 0]
        return used

    async def table(self, guest_cluster: int) -> Table | None:
        """The L2 table that maps `guest_cluster`, None where there is none. Raises OSError, ImageError."""
        index = guest_cluster // self._l2_entries
        table = self._cache.get(index)
        if table is not None:
            return table
        entry = int(self._l1[index])
        offset = entry & OFFSET_MASK
        if not offset:
            return None
        size = self._header.cluster_size
        readable = max(0, min(size, self._file.length - offset))
        data = await self._file.preadv(offset, readable) if readable else b""
        table = Table(offset, np.frombuffer(data.ljust(size, b"\0"), dtype=">u8").astype(np.uint64))
        await self._cache.add(index, table)
        return table

    async def table_for_write(self, guest_cluster: int) -> Table:
        """The L2 table that maps `guest_cluster`, made if there is none (QEMU: get_cluster_table, l2_allocate).

        One that a snapshot shares is copied. Refcounts, table and L1 entry are made stable one after the other.
        """
        index = guest_cluster // self._l2_entries
        table = await self.table(guest_cluster)
        if table is not None:
            if int(self._l1[index]) & OFLAG_COPIED:
                return table
            shared = table.offset
            entries = table.entries.copy()
        else:
            shared = 0
            entries = np.zeros(self._header.cluster_size // 8, dtype=np.uint64)
        await self._punch()  # it may take a cluster that waits for that (QEMU: alloc_clusters_noref)
        offset, _ = await self._refcounts.allocate(1)
        table = Table(offset, entries, dirty=True)
        try:
            await self._refcounts.cache.flush()
            await self._cache.add(index, table)
            await self._cache.flush()
            entry = np.array([offset | OFLAG_COPIED], dtype=">u8").tobytes()
            await self._file.pwritev(self._header.l1_offset + index * 8, [entry], metadata=True)
        except BaseException:
            self._cache.forget(index)
            await self._refcounts.free(offset, 1, linked=False)
            raise
        self._l1[index] = offset | OFLAG_COPIED
        self._metadata.add(offset)
        await self._file.flush()
        if shared:
            await self._refcounts.free(shared, 1)
        return table

    def in_memory(self, guest_cluster: int, clusters: int, *, copied: bool = False) -> int | None:
        """Host offset of clusters that lie one behind the other, as far as is known without I/O; None: ask `run`.

        `copied`: only of those that may be written in place.
        """
        index, first = divmod(guest_cluster, self._l2_entries)
        table = self._cache.get(index)
        if table is None or first + clusters > self._l2_entries or clusters > FEW:
            return None
        head: int = table.entries.item(first)
        host = head & OFFSET_MASK
        size = self._header.cluster_size
        if not host or host % size or head & (OFLAG_COMPRESSED | OFLAG_ZERO) or (copied and not head & OFLAG_COPIED):
            return None
        for step in range(1, clusters):
            if table.entries.item(first + step) != head + step * size:
                return None
        if self._external and host != guest_cluster * size:
            return None
        return host

    async def run(self, guest_cluster: int, limit: int) -> Run:
        """What is at `guest_cluster`, and how far (at most `limit` clusters, within one L2 table) it goes on like that.

        Raises ImageError for impossible host offsets.
        """
        first = guest_cluster % self._l2_entries
        limit = min(limit, self._l2_entries - first)
        table = await self.table(guest_cluster)
        if table is None:
            return Run(limit, None)
        entries = table.entries[first : first + limit]
        head = table.entries.item(first)
        if self._external:
            self._check_external(head, guest_cluster)
        if head & OFLAG_COMPRESSED:
            return Run(1, None, entry=head)
        host = head & OFFSET_MASK
        if host % self._header.cluster_size:
            raise ImageError(f"guest cluster {guest_cluster} is mapped to unaligned host offset {host}")
        if head & OFLAG_ZERO:
            if self._header.version < 3:
                raise ImageError(f"guest cluster {guest_cluster} is a zero cluster, which version 2 does not have")
            # One at a time: each may have a host cluster of its own to give back.
            return Run(1, None, zero=True, copied=bool(host and head & OFLAG_COPIED), entry=head if host else 0)
        if not host and not self._is_allocated(head):
            if limit > 1:
                # Other bits say nothing without an offset: an entry of COPIED alone is unallocated, too.
                used = np.nonzero(entries & np.uint64(OFFSET_MASK | OFLAG_ZERO | OFLAG_COMPRESSED))[0]
                limit = int(used[0]) if len(used) else limit
            return Run(limit, None)
        if limit > 1:
            steps = np.arange(limit, dtype=np.uint64) * np.uint64(self._header.cluster_size)
            breaks = np.nonzero(entries != np.uint64(head) + steps)[0]
            limit = int(breaks[0]) if len(breaks) else limit
        return Run(limit, host, copied=bool(head & OFLAG_COPIED), entry=head)

    async def zeroize(self, guest_cluster: int, limit: int, *, unmap: bool) -> int:
        """Make up to `limit` clusters, those of one L2 table, read as zeroes (QEMU: zero_in_l2_slice).

        Host clusters are kept for later writes unless `unmap`. Returns how many were done. Raises ImageError, OSError.
        """
        table, first, count = await self._part(guest_cluster, limit)
        freed: list[tuple[int, int]] = []
        try:
            for position in range(first, first + count):
                old = int(table.entries[position])
                given_back = bool(old & OFLAG_COMPRESSED) or (unmap and self._is_allocated(old))
                self._replace(table, position, OFLAG_ZERO if given_back else old | OFLAG_ZERO, given_back, freed)
        finally:
            await self._free(freed)
        return count

    async def discard(self, guest_cluster: int, limit: int, *, backed: bool, full: bool = False) -> int:
        """Give up to `limit` clusters, those of one L2 table, back (QEMU: discard_in_l2_slice).

        They read as zeroes afterwards: by the zero flag in version 3; version 2 has none, and must not be `backed`.
        `full`: nothing at all is left, not even the flag.
        """
        if full and await self.table(guest_cluster) is None:
            return min(limit, self._l2_entries - guest_cluster % self._l2_entries)
        table, first, count = await self._part(guest_cluster, limit)
        freed: list[tuple[int, int]] = []
        try:
            for position in range(first, first + count):
                given_back = self._is_allocated(int(table.entries[position]))
                if backed or given_back or full:
                    new = OFLAG_ZERO if self._header.version >= 3 and not full else 0
                    self._replace(table, position, new, given_back, freed)
        finally:
            await self._free(freed)
        return count

    async def _part(self, guest_cluster: int, limit: int) -> tuple[Table, int, int]:
        table = await self.table_for_write(guest_cluster)
        first = guest_cluster % self._l2_entries
        return table, first, min(limit, self._l2_entries - first)

    def _entries(self, table: Table) -> Entries:
        """The words of a table that refer to clusters."""
        return table.entries

    def _is_allocated(self, entry: int) -> bool:
        """Whether an entry has a host cluster, or compressed data (QEMU: qcow2_cluster_is_allocated).

        The first cluster of an external data file is at host offset 0: there COPIED says it.
        """
        if entry & (OFLAG_COMPRESSED | OFFSET_MASK):
            return True
        return self._external and entry & (OFLAG_COPIED | OFLAG_ZERO) == OFLAG_COPIED

    def _check_external(self, entry: int, guest_cluster: int) -> None:
        """Raise ImageError where an entry says that guest data is elsewhere in the data file than at its own offset
        (QEMU: qcow2_get_host_offset).
        """
        if entry & OFLAG_COMPRESSED:
            raise ImageError(f"guest cluster {guest_cluster} is compressed, in an image with an external data file")
        host = entry & OFFSET_MASK
        if self._is_allocated(entry) and host != guest_cluster * self._header.cluster_size:
            raise ImageError(f"guest cluster {guest_cluster} is mapped to offset {host} of the external data file")

    def _replace(self, table: Table, position: int, entry: int, given_back: bool, freed: list[tuple[int, int]]) -> None:
        """Put `entry` in the place of one whose clusters are added to `freed` where they are given back."""
        old = int(table.entries[position])
        if entry == old:
            return
        if given_back:
            freed.append(self.extent(old, 1))  # raises before anything is changed
        table.entries[position] = entry
        table.dirty = True

    async def _free(self, extents: list[tuple[int, int]]) -> None:
        """Give back what no entry refers to any more, neighbours at once."""
        size = self._header.cluster_size
        for index, (offset, count) in enumerate(extents):
            if index + 1 < len(extents) and extents[index + 1][0] == offset + count * size:
                extents[index + 1] = offset, count + extents[index + 1][1]
            else:
                for unused, clusters in await self._data.discard(offset, count):
                    self._note_unused(unused, clusters)

    def _note_unused(self, offset: int, count: int) -> None:
        """Neighbours become one hole (QEMU: update_refcount_discard)."""
        size = self._header.cluster_size
        for other in self._unused:
            if offset + count * size == other[0] or other[0] + other[1] * size == offset:
                self._unused.remove(other)
                offset, count = min(offset, other[0]), count + other[1]
                break
        self._unused.append((offset, count))

    @asynccontextmanager
    async def holes(self) -> AsyncIterator[None]:
        """Around `zeroize` and `discard`, under the lock: make holes of what was given back before anybody can have it
        (QEMU: qcow2_process_discards, which ignores errors, too: a discard is optional).
        """
        try:
            yield
            await self._punch()
        finally:
            self._unused.clear()

    async def _punch(self) -> None:
        unused, self._unused = self._unused, []
        for offset, count in unused:
            with suppress(OSError):
                await self._data.file.pdiscard(offset, count * self._header.cluster_size)

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
        self._data.check(offset, count * self._header.cluster_size)
        return offset, count

    async def link(self, guest_cluster: int, host: int, clusters: int, *, copied: bool = False) -> None:
        """Map `clusters` guest clusters to the host clusters from `host` on (QEMU: qcow2_alloc_cluster_link_l2).

        `copied`: some of what they hold comes from elsewhere (COW), and has to be stable before the table is written.
        """
        table = await self.table_for_write(guest_cluster)
        await self._order(copied)
        first = guest_cluster % self._l2_entries
        if clusters <= FEW:
            for step in range(clusters):
                table.entries[first + step] = host + step * self._header.cluster_size | OFLAG_COPIED
        else:
            steps = np.arange(clusters, dtype=np.uint64) * np.uint64(self._header.cluster_size)
            table.entries[first : first + clusters] = np.uint64(host | OFLAG_COPIED) + steps
        table.dirty = True

    async def _order(self, copied: bool) -> None:
        """What has to be stable before a table that is about to link clusters."""
        if self._dirty_bit.lazy:
            await self._dirty_bit.set()
        if not self._dirty_bit.is_set:
            await self._cache.depend_on(self._refcounts.cache)
        if copied or self._external:
            self._cache.depends_on_flush = True

    async def grow_l1(self, entries: int) -> None:
        """Move to an L1 table of so many entries, if it has fewer (QEMU: qcow2_grow_l1_table). Raises OSError."""
        header = self._header
        if entries <= header.l1_entries:
            return
        table = np.zeros(entries, dtype=np.uint64)
        table[: len(self._l1)] = self._l1
        clusters = -(-entries * 8 // header.cluster_size)
        offset = await self._refcounts.allocate_all(clusters)
        try:
            await self._refcounts.cache.flush()
            data = table.astype(">u8").tobytes().ljust(clusters * header.cluster_size, b"\0")
            await self._file.pwritev(offset, [data], metadata=True)
            await self._file.flush()
            place = entries.to_bytes(4, "big") + offset.to_bytes(8, "big")
            await self._file.pwritev(L1_PLACE, [place], metadata=True)
        except BaseException:
            await self._refcounts.free(offset, clusters, linked=False)
            raise
        old_offset, old_clusters = header.l1_offset, -(-header.l1_entries * 8 // header.cluster_size)
        self._l1, header.l1_entries, header.l1_offset = table, entries, offset
        await self._file.flush()
        if old_clusters:
            await self._refcounts.free(old_offset, old_clusters)

    async def shrink_l1(self, entries: int) -> None:
        """Give back the L2 tables behind the first `entries`, which are empty; the L1 table stays as long as it is
        (QEMU: qcow2_shrink_l1_table). Raises OSError.
        """
        behind = self._l1[entries:]
        offsets = [int(entry) & OFFSET_MASK for entry in behind[behind != 0].tolist()]
        if not offsets:
            return
        # In memory first: half of it may reach the disk, and what is linked from memory must be linked there, too.
        self._cache.forget_from(entries)
        behind[:] = 0
        await self._file.pwritev(self._header.l1_offset + entries * 8, [bytes(8 * len(behind))], metadata=True)
        await self._file.flush()
        for offset in offsets:
            self._metadata.remove(offset)
            await self._refcounts.free(offset, 1)

    async def extents(self) -> list[tuple[int, int, int, int]]:
        """All allocated guest clusters, on the disk or changed since: (guest cluster, host offset, L2 table's offset,
        index in the table). Raises OSError.
        """
        found = []
        # The first cluster of an external data file is at host offset 0.
        used = OFFSET_MASK | OFLAG_COPIED if self._external else OFFSET_MASK
        for index in np.flatnonzero(self._l1 & np.uint64(OFFSET_MASK)).tolist():
            table = await self.table(index * self._l2_entries)
            assert table is not None
            entries = self._entries(table)
            for position in np.flatnonzero(entries & np.uint64(used)).tolist():
                host = int(entries[position]) & OFFSET_MASK
                found.append((index * self._l2_entries + position, host, table.offset, position))
        return found
