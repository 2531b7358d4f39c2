"""Extended L2 entries: 32 subclusters a cluster, each allocated, zero or neither (docs/interop/qcow2.rst, "Extended L2
Entries"; QEMU 5.2, block/qcow2-cluster.c).

An entry is two words: that of an ordinary table, and a bitmap whose low half says which subclusters are allocated, its
high half which of them read as zeroes. Everything here runs under the image's metadata lock.
"""

import enum
from dataclasses import dataclass

import numpy as np

from blockstack.errors import ImageError
from blockstack.qcow2.cache import Entries, Table
from blockstack.qcow2.header import OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, SUBCLUSTERS
from blockstack.qcow2.mapping import FEW, Mapping, Run

ALL = (1 << SUBCLUSTERS) - 1
"""Every subcluster, in either half of a bitmap."""
ALL_ZERO = ALL << SUBCLUSTERS
"""The bitmap of a cluster that reads as zeroes (QEMU: QCOW_L2_BITMAP_ALL_ZEROES)."""


class Kind(enum.Enum):
    """Of a subcluster (QEMU: QCow2SubclusterType). ALLOC: its cluster has a place on the host, PLAIN: it has none."""

    UNALLOCATED_PLAIN = enum.auto()
    UNALLOCATED_ALLOC = enum.auto()
    ZERO_PLAIN = enum.auto()
    ZERO_ALLOC = enum.auto()
    NORMAL = enum.auto()
    COMPRESSED = enum.auto()


_ON_HOST = (Kind.UNALLOCATED_ALLOC, Kind.ZERO_ALLOC, Kind.NORMAL)
_ZERO = (Kind.ZERO_PLAIN, Kind.ZERO_ALLOC)


def subclusters_from(first: int, end: int) -> int:
    """The bits of the subclusters from `first` up to, not including, `end`."""
    return (1 << end) - (1 << first)


def kind_of(bitmap: int, index: int, allocated: bool) -> Kind:
    """What a subcluster of a cluster that is not compressed is (QEMU: qcow2_get_subcluster_type)."""
    if bitmap >> SUBCLUSTERS >> index & 1:
        return Kind.ZERO_ALLOC if allocated else Kind.ZERO_PLAIN
    if bitmap >> index & 1:
        return Kind.NORMAL
    return Kind.UNALLOCATED_ALLOC if allocated else Kind.UNALLOCATED_PLAIN


def is_valid(bitmap: int, allocated: bool) -> bool:
    """Whether no subcluster is both allocated and zero, and none is allocated where its cluster is not (QEMU:
    QCOW2_SUBCLUSTER_INVALID).
    """
    return not (bitmap >> SUBCLUSTERS & bitmap if allocated else bitmap & ALL)


def _alike(bitmap: int, index: int) -> int:
    """How many subclusters from `index` on are of its kind (QEMU: qcow2_get_subcluster_range_type)."""
    zero, normal = bitmap >> SUBCLUSTERS, bitmap & ALL
    if zero >> index & 1:
        word = zero
    elif normal >> index & 1:
        word = normal
    else:
        word = ~(zero | normal) & ALL
    word >>= index
    return (~word & word + 1).bit_length() - 1


@dataclass(frozen=True, slots=True)
class SubclusterRun(Run):
    """One cluster and its bitmap. `entry` is 0 where it has no place; `host` is not used."""

    bitmap: int = 0


class SubclusterMapping(Mapping):
    """The two-level table of an image with extended L2 entries; a table's `entries` has both words of each."""

    def _entries(self, table: Table) -> Entries:
        return table.entries[0::2]

    def _is_allocated(self, entry: int) -> bool:
        if entry & (OFLAG_COMPRESSED | OFFSET_MASK):
            return True
        return self._external and bool(entry & OFLAG_COPIED)

    def in_memory(self, guest_cluster: int, clusters: int, *, copied: bool = False) -> int | None:
        """Of clusters all of whose subclusters are allocated; None for others, too."""
        index, first = divmod(guest_cluster, self._l2_entries)
        table = self._cache.get(index)
        if table is None or first + clusters > self._l2_entries or clusters > FEW:
            return None
        head: int = table.entries.item(2 * first)
        host = head & OFFSET_MASK
        size = self._header.cluster_size
        if not host or host % size or head & OFLAG_COMPRESSED or (copied and not head & OFLAG_COPIED):
            return None
        if self._external and host != guest_cluster * size:
            return None
        for step in range(clusters):
            where = 2 * (first + step)
            if table.entries.item(where) != head + step * size or table.entries.item(where + 1) != ALL:
                return None
        return host

    async def span(self, offset: int, length: int) -> tuple[Run, int]:
        """What is at guest offset `offset`, and for how many bytes, at most `length` and within one L2 table, it goes
        on like that (QEMU: qcow2_get_host_offset). `host` of the run is that of `offset` itself.

        Raises ImageError for impossible entries.
        """
        size, sub_size = self._header.cluster_size, self._header.subcluster_size
        cluster, within = divmod(offset, size)
        position = cluster % self._l2_entries
        table = await self.table(cluster)
        if table is None:
            return Run(0, None), min(length, (self._l2_entries - position) * size - within)
        index = within // sub_size
        entry, bitmap = self._entry(table, cluster)
        if entry & OFLAG_COMPRESSED:
            return Run(1, None, entry=entry), min(length, size - within)
        kind = kind_of(bitmap, index, self._is_allocated(entry))
        host = entry & OFFSET_MASK
        step = size if kind in _ON_HOST else 0
        reach = index + _alike(bitmap, index)  # in subclusters from the first cluster's begin
        clusters = 1
        while reach == clusters * SUBCLUSTERS and reach * sub_size < within + length:
            if position + clusters == self._l2_entries:
                break
            entry, bitmap = self._entry(table, cluster + clusters)
            if entry & OFLAG_COMPRESSED or kind_of(bitmap, 0, self._is_allocated(entry)) is not kind:
                break
            if step and entry & OFFSET_MASK != host + clusters * step:
                break
            reach += _alike(bitmap, 0)
            clusters += 1
        run = Run(clusters, host + within if kind is Kind.NORMAL else None, zero=kind in _ZERO)
        return run, min(length, reach * sub_size - within)

    async def subcluster_runs(self, guest_cluster: int, limit: int) -> list["SubclusterRun"]:
        """The clusters from `guest_cluster` on, at most `limit` and within one L2 table, that a write in place to
        neighbouring clusters, or one allocation, can take (QEMU: count_single_write_clusters).
        """
        size = self._header.cluster_size
        limit = min(limit, self._l2_entries - guest_cluster % self._l2_entries)
        table = await self.table(guest_cluster)
        if table is None:
            return [SubclusterRun(1, None) for _ in range(limit)]
        runs: list[SubclusterRun] = []
        for cluster in range(guest_cluster, guest_cluster + limit):
            entry, bitmap = self._entry(table, cluster)
            used = self._is_allocated(entry)
            in_place = used and bool(entry & OFLAG_COPIED) and not entry & OFLAG_COMPRESSED
            if runs and in_place != runs[0].copied:
                break
            if in_place and runs and entry & OFFSET_MASK != (runs[0].entry & OFFSET_MASK) + len(runs) * size:
                break
            runs.append(SubclusterRun(1, None, copied=in_place, entry=entry if used else 0, bitmap=bitmap))
        return runs

    async def link_written(
        self, guest_cluster: int, host: int, clusters: int, start: int, end: int, *, new: bool, copied: bool
    ) -> None:
        """Guest offsets `start` to `end`, whole subclusters or parts of allocated ones, are at their place in the
        host clusters from `host` on (QEMU: qcow2_alloc_cluster_link_l2).
        """
        size, sub_size = self._header.cluster_size, self._header.subcluster_size
        table = await self.table_for_write(guest_cluster)
        await self._order(copied)
        # In one go: who reads without the lock must not see half of it.
        if new:
            self._place(table, guest_cluster, host, clusters)
        for cluster in range(guest_cluster, guest_cluster + clusters):
            begin = max(start - cluster * size, 0) // sub_size
            stop = -(-min(end - cluster * size, size) // sub_size)
            written = subclusters_from(begin, stop)
            where = cluster % self._l2_entries * 2 + 1
            table.entries[where] = (int(table.entries[where]) | written) & ~(written << SUBCLUSTERS)
        table.dirty = True

    async def link(self, guest_cluster: int, host: int, clusters: int, *, copied: bool = False) -> None:
        """Give guest clusters their places on the host; what is in them is left to their bitmaps, as where QEMU
        preallocates.
        """
        table = await self.table_for_write(guest_cluster)
        await self._order(copied)
        self._place(table, guest_cluster, host, clusters)

    def _place(self, table: Table, guest_cluster: int, host: int, clusters: int) -> None:
        first = guest_cluster % self._l2_entries
        steps = np.arange(clusters, dtype=np.uint64) * np.uint64(self._header.cluster_size)
        self._entries(table)[first : first + clusters] = np.uint64(host | OFLAG_COPIED) + steps
        table.dirty = True

    async def zeroize(self, guest_cluster: int, limit: int, *, unmap: bool) -> int:
        """As `Mapping.zeroize`, by the bitmaps (QEMU: zero_in_l2_slice)."""
        table, first, count = await self._part(guest_cluster, limit)
        freed: list[tuple[int, int]] = []
        try:
            for position in range(first, first + count):
                old = int(table.entries[2 * position])
                given_back = bool(old & OFLAG_COMPRESSED) or (unmap and self._is_allocated(old))
                self._replace_both(table, position, 0 if given_back else old, ALL_ZERO, freed)
        finally:
            await self._free(freed)
        return count

    async def zeroize_part(self, guest_cluster: int, first: int, end: int) -> bool:
        """Make the subclusters from `first` up to `end` read as zeroes (QEMU: zero_l2_subclusters).

        Returns False where they are compressed: no part of that can be zero by itself.
        """
        table = await self.table_for_write(guest_cluster)
        entry, bitmap = self._entry(table, guest_cluster)
        if entry & OFLAG_COMPRESSED:
            return False
        zero = subclusters_from(first, end)
        self._replace_both(table, guest_cluster % self._l2_entries, entry, (bitmap | zero << SUBCLUSTERS) & ~zero, [])
        return True

    async def discard(self, guest_cluster: int, limit: int, *, backed: bool, full: bool = False) -> int:
        """As `Mapping.discard` (QEMU: discard_in_l2_slice)."""
        if full and await self.table(guest_cluster) is None:
            return min(limit, self._l2_entries - guest_cluster % self._l2_entries)
        table, first, count = await self._part(guest_cluster, limit)
        freed: list[tuple[int, int]] = []
        try:
            for position in range(first, first + count):
                if backed or full or self._is_allocated(int(table.entries[2 * position])):
                    self._replace_both(table, position, 0, 0 if full else ALL_ZERO, freed)
        finally:
            await self._free(freed)
        return count

    def _entry(self, table: Table, guest_cluster: int) -> tuple[int, int]:
        """Both words. Raises ImageError for impossible ones."""
        where = guest_cluster % self._l2_entries * 2
        entry, bitmap = int(table.entries[where]), int(table.entries[where + 1])
        if self._external:
            self._check_external(entry, guest_cluster)
        if entry & OFLAG_COMPRESSED:
            return entry, 0
        if (entry & OFFSET_MASK) % self._header.cluster_size:
            raise ImageError(f"guest cluster {guest_cluster} is mapped to unaligned host offset {entry & OFFSET_MASK}")
        if not is_valid(bitmap, self._is_allocated(entry)):
            raise ImageError(f"guest cluster {guest_cluster} has an impossible bitmap of subclusters ({bitmap:#x})")
        return entry, bitmap

    def _replace_both(self, table: Table, position: int, entry: int, bitmap: int, freed: list[tuple[int, int]]) -> None:
        """Set both words; what the entry referred to is added to `freed` if it changes."""
        old = int(table.entries[2 * position])
        if (entry, bitmap) == (old, int(table.entries[2 * position + 1])):
            return
        if old != entry and self._is_allocated(old):
            freed.append(self.extent(old, 1))  # raises before anything is changed
        table.entries[2 * position], table.entries[2 * position + 1] = entry, bitmap
        table.dirty = True
