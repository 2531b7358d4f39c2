"""Compares the refcounts of an image with the references that its tables make (QEMU: qcow2_check_refcounts)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.file_posix import FilePosix
from blockstack.qcow2 import compressed, snapshots
from blockstack.qcow2.cache import CacheSizes
from blockstack.qcow2.extended import driver
from blockstack.qcow2.header import OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, Header
from blockstack.qcow2.image import Qcow2
from blockstack.qcow2.lazy import DirtyBit
from blockstack.qcow2.repair import fix_copied, rebuild, refuse_too_many
from blockstack.qcow2.subclusters import is_valid
from blockstack.strategies import STRATEGIES

MAX_CLUSTERS = 32 << 20
"""Host clusters of the largest image that is checked: their references take 128 MiB of memory."""

_BITMAPS = 1  # autoclear bit: the bitmaps extension is valid, and its clusters are in use
_HEADER_BYTES = 65536
_CACHE_BYTES = 32 << 20


@dataclass(slots=True)
class CheckReport:
    """What was found, in clusters or table entries; `leaks_fixed` and `corruptions_fixed` of them are no more."""

    corruptions: int = 0
    leaks: int = 0
    leaks_fixed: int = 0
    corruptions_fixed: int = 0

    @property
    def exit_status(self) -> int:
        """As `qemu-img check` exits: 0 clean, 2 corrupt, 3 leaks only."""
        return 2 if self.corruptions > self.corruptions_fixed else 3 if self.leaks > self.leaks_fixed else 0


async def check(path: str | Path, *, repair_leaks: bool = False, repair_all: bool = False) -> CheckReport:
    """Check a qcow2 image that nobody has open. Leaks are repaired only in an image without corruptions.

    `repair_all`: refcounts and COPIED flags are made what the tables say, leaks or not; the image is not dirty any
    more. Raises ImageError where the image cannot be opened, not be repaired, or is not understood, OSError.
    """
    read_only = not (repair_leaks or repair_all)
    file = FilePosix(Path(path), aio="threads", strategy=STRATEGIES["none"], read_only=read_only, direct=False)
    try:
        header = await _header(file)
        if header.autoclear & _BITMAPS:
            raise ImageError(
                "the image has dirty bitmaps, whose clusters this driver does not know: use qemu-img check"
            )
        report = await (await _Check.of(header, file, read_only)).run(repair_leaks and not repair_all)
        if repair_all:
            await _repair(header, file, report)
    finally:
        await file.close()
    return report


async def repair_dirty(header: Header, file: FilePosix) -> Header:
    """Repair the refcounts of an image that was not closed, before it is opened for writing (QEMU: qcow2_do_open).

    Returns its header as it is then. Raises ImageError where that cannot be done, OSError.
    """
    await _repair(header, file, await (await _Check.of(header, file, False)).run(False))
    return await _header(file)


async def _header(file: FilePosix) -> Header:
    return Header.parse(await file.preadv(0, min(file.length, _HEADER_BYTES)), file.length)


async def _repair(header: Header, file: FilePosix, report: CheckReport) -> None:
    """Without a cluster that lost its refcount, each is put right where it is; else the structure is made anew."""
    if report.corruptions or report.leaks:
        checked = await _Check.of(header, file, False)
        await checked.run(False)
        if checked.end > len(checked.references):
            # Data behind the end of the file: it was not stable yet.
            checked = await _Check.of(header, file, False, checked.end)
            await checked.run(False)
        counts, refcounts = checked.references, checked.image.refcounts
        if checked.unaligned:
            raise ImageError(f"beyond repair: {checked.unaligned} table entries refer to impossible offsets")
        refuse_too_many(header, counts)
        wrong = np.flatnonzero(checked.recorded != counts)
        if np.any(checked.recorded[wrong] == 0):
            own = [int(offset) // header.cluster_size for offset in refcounts.block_offsets]
            first = header.refcount_table_offset // header.cluster_size
            own += range(first, first + header.refcount_table_clusters)
            counts[own] -= 1
            counts = await rebuild(header, file, counts)
        else:
            for cluster in wrong.tolist():
                await refcounts.put(cluster * header.cluster_size, int(counts[cluster]))
            await refcounts.cache.flush()
        await fix_copied(header, file, counts)
        await file.flush()
        report.corruptions_fixed, report.leaks_fixed = report.corruptions, report.leaks
    if header.dirty:
        bit = DirtyBit(header, file, read_only=False)
        bit.is_set = True
        await bit.clear()


class _Check:
    def __init__(self, image: Qcow2, clusters: int) -> None:
        self.image = image
        self._file = image.file
        self._header = image.header
        self._size = image.header.cluster_size
        if clusters > MAX_CLUSTERS:
            raise ImageError(f"the image has {clusters} clusters, which is too many to check: use qemu-img check")
        self.references: npt.NDArray[np.uint32] = np.zeros(clusters, dtype=np.uint32)
        self.recorded = self.references
        self.end = 0  # of what is referred to, in clusters
        self.unaligned = 0  # references to what cannot be
        self._report = CheckReport()

    @classmethod
    async def of(cls, header: Header, file: FilePosix, read_only: bool, clusters: int = 0) -> "_Check":
        """A check of the image in `file`, of at least so many host clusters. Raises ImageError, OSError."""
        image = await driver(header).open(
            header, file, None, read_only=read_only, caches=CacheSizes(refcounts=_CACHE_BYTES)
        )
        if read_only:
            await image.refcounts.load()
        return cls(image, max(clusters, -(-file.length // header.cluster_size)))

    async def run(self, repair_leaks: bool) -> CheckReport:
        header, refcounts = self._header, self.image.refcounts
        self.recorded = await refcounts.read_all(len(self.references))
        self._count(0, self._size)
        self._count(header.refcount_table_offset, header.refcount_table_clusters * self._size)
        for offset in refcounts.block_offsets:
            self._count(int(offset), self._size)
        found, length = await snapshots.load(header, self._file)
        self._count(header.snapshots_offset, length)
        await self._count_l1(header.l1_offset, header.l1_entries, active=True)
        for snapshot in found:
            await self._count_l1(snapshot.l1_offset, snapshot.l1_entries, active=False)
        leaked = np.flatnonzero(self.recorded > self.references)
        self._report.corruptions += int(np.count_nonzero(self.recorded < self.references))
        self._report.leaks += len(leaked)
        if repair_leaks and not self._report.corruptions:
            for cluster in leaked.tolist():
                await refcounts.put(cluster * self._size, int(self.references[cluster]))
            await refcounts.cache.flush()
            self._report.leaks_fixed = len(leaked)
        return self._report

    async def _count_l1(self, offset: int, entries: int, *, active: bool) -> None:
        self._count(offset, entries * 8)
        for entry in await self._words(offset, entries):
            table = int(entry) & OFFSET_MASK
            if table:
                self._count(table, self._size)
                self._check_copied(int(entry), table, active)
                await self._count_l2(table, active)

    async def _count_l2(self, offset: int, active: bool) -> None:
        words = await self._words(offset, self._size // 8)
        if self._header.extended_l2:
            self._check_bitmaps(words)
            words = words[0::2]
        for value in words[words != 0]:
            entry = int(value)
            if entry & OFLAG_COMPRESSED and self._header.external:
                self._report.corruptions += 1
            elif entry & OFLAG_COMPRESSED:
                first, clusters = compressed.clusters(entry, self._header)
                self._count(first, clusters * self._size)
            elif self._header.external:
                # Only metadata has refcounts.
                if not entry & OFLAG_COPIED:
                    self._report.corruptions += bool(entry & OFFSET_MASK and active)
            elif entry & OFFSET_MASK:
                self._count(entry & OFFSET_MASK, self._size)
                self._check_copied(entry, entry & OFFSET_MASK, active)

    def _check_copied(self, entry: int, offset: int, active: bool) -> None:
        """The flag says that the refcount is one, in the active tables (QEMU: check_oflag_copied)."""
        cluster = offset // self._size
        recorded = int(self.recorded[cluster]) if cluster < len(self.recorded) else 0
        if active and bool(entry & OFLAG_COPIED) != (recorded == 1):
            self._report.corruptions += 1

    def _count(self, offset: int, length: int) -> None:
        if not length:
            return
        first, end = offset // self._size, -(-(offset + length) // self._size)
        self.end = max(self.end, end)
        self.unaligned += bool(offset % self._size)
        if offset % self._size or end > len(self.references):
            self._report.corruptions += 1
        self.references[first:end] += np.uint32(1)

    def _check_bitmaps(self, words: npt.NDArray[np.uint64]) -> None:
        for where in np.flatnonzero(words[1::2]).tolist():
            entry, bitmap = int(words[2 * where]), int(words[2 * where + 1])
            # A compressed cluster has no subclusters (QEMU: check_refcounts_l2).
            external = self._header.external and bool(entry & OFLAG_COPIED)
            if entry & OFLAG_COMPRESSED or not is_valid(bitmap, bool(entry & OFFSET_MASK) or external):
                self._report.corruptions += 1

    async def _words(self, offset: int, entries: int) -> npt.NDArray[np.uint64]:
        length = entries * 8
        readable = max(0, min(length, self._file.length - offset))
        data = await self._file.preadv(offset, readable) if readable else b""
        return np.frombuffer(data.ljust(length, b"\0"), dtype=">u8").astype(np.uint64)
