"""Compares the refcounts of an image with the references that its tables make (QEMU: qcow2_check_refcounts)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.file_posix import FilePosix
from blockstack.qcow2 import compressed, snapshots
from blockstack.qcow2.header import OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, Header
from blockstack.qcow2.image import Qcow2
from blockstack.strategies import STRATEGIES

MAX_CLUSTERS = 32 << 20
"""Host clusters of the largest image that is checked: their references take 128 MiB of memory."""

_BITMAPS = 1  # autoclear bit: the bitmaps extension is valid, and its clusters are in use
_HEADER_BYTES = 65536


@dataclass(slots=True)
class CheckReport:
    """What was found, in clusters or table entries; `leaks_fixed` of the leaks are leaks no more."""

    corruptions: int = 0
    leaks: int = 0
    leaks_fixed: int = 0

    @property
    def exit_status(self) -> int:
        """As `qemu-img check` exits: 0 clean, 2 corrupt, 3 leaks only."""
        return 2 if self.corruptions else 3 if self.leaks > self.leaks_fixed else 0


async def check(path: str | Path, *, repair_leaks: bool = False) -> CheckReport:
    """Check a qcow2 image that nobody has open. Leaks are repaired only in an image without corruptions.

    Raises ImageError where the image cannot be opened or is not understood, OSError.
    """
    file = FilePosix(Path(path), aio="threads", strategy=STRATEGIES["none"], read_only=not repair_leaks, direct=False)
    try:
        header = Header.parse(await file.preadv(0, min(file.length, _HEADER_BYTES)), file.length)
        if header.autoclear & _BITMAPS:
            raise ImageError(
                "the image has dirty bitmaps, whose clusters this driver does not know: use qemu-img check"
            )
        image = await Qcow2.open(header, file, None, read_only=not repair_leaks)
    except BaseException:
        await file.close()
        raise
    try:
        return await _Check(image).run(repair_leaks)
    finally:
        await image.close()


class _Check:
    def __init__(self, image: Qcow2) -> None:
        self._image = image
        self._file = image.file
        self._header = image.header
        self._size = image.header.cluster_size
        clusters = -(-image.file.length // self._size)
        if clusters > MAX_CLUSTERS:
            raise ImageError(f"the image has {clusters} clusters, which is too many to check: use qemu-img check")
        self._references: npt.NDArray[np.uint32] = np.zeros(clusters, dtype=np.uint32)
        self._report = CheckReport()

    async def run(self, repair_leaks: bool) -> CheckReport:
        header, refcounts = self._header, self._image.refcounts
        self._count(0, self._size)
        self._count(header.refcount_table_offset, header.refcount_table_clusters * self._size)
        for offset in refcounts.block_offsets:
            self._count(int(offset), self._size)
        found, length = await snapshots.load(header, self._file)
        self._count(header.snapshots_offset, length)
        await self._count_l1(header.l1_offset, header.l1_entries, active=True)
        for snapshot in found:
            await self._count_l1(snapshot.l1_offset, snapshot.l1_entries, active=False)
        leaked = []
        for cluster, references in enumerate(self._references.tolist()):
            recorded = await refcounts.get(cluster * self._size)
            if recorded < references:
                self._report.corruptions += 1
            elif recorded > references:
                self._report.leaks += 1
                leaked.append((cluster, recorded - references))
        if repair_leaks and not self._report.corruptions:
            for cluster, excess in leaked:
                for _ in range(excess):
                    await refcounts.free(cluster * self._size, 1)
            await self._image.flush()
            self._report.leaks_fixed = len(leaked)
        return self._report

    async def _count_l1(self, offset: int, entries: int, *, active: bool) -> None:
        self._count(offset, entries * 8)
        for entry in await self._table(offset, entries):
            table = int(entry) & OFFSET_MASK
            if table:
                self._count(table, self._size)
                await self._check_copied(int(entry), table, active)
                await self._count_l2(table, active)

    async def _count_l2(self, offset: int, active: bool) -> None:
        for value in await self._table(offset, self._header.l2_entries):
            entry = int(value)
            if entry & OFLAG_COMPRESSED:
                first, clusters = compressed.clusters(entry, self._header)
                self._count(first, clusters * self._size)
            elif entry & OFFSET_MASK:
                self._count(entry & OFFSET_MASK, self._size)
                await self._check_copied(entry, entry & OFFSET_MASK, active)

    async def _check_copied(self, entry: int, offset: int, active: bool) -> None:
        """The flag says that the refcount is one, in the active tables (QEMU: check_oflag_copied)."""
        if active and bool(entry & OFLAG_COPIED) != (await self._image.refcounts.get(offset) == 1):
            self._report.corruptions += 1

    def _count(self, offset: int, length: int) -> None:
        if not length:
            return
        first, end = offset // self._size, -(-(offset + length) // self._size)
        if offset % self._size or end > len(self._references):
            self._report.corruptions += 1
        self._references[first:end] += np.uint32(1)

    async def _table(self, offset: int, entries: int) -> npt.NDArray[np.uint64]:
        length = entries * 8
        readable = max(0, min(length, self._file.length - offset))
        data = await self._file.preadv(offset, readable) if readable else b""
        table = np.frombuffer(data.ljust(length, b"\0"), dtype=">u8").astype(np.uint64)
        used: npt.NDArray[np.uint64] = table[table != 0]
        return used
