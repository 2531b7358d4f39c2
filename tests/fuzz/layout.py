"""Where a qcow2 image has its metadata, found without any help of blockstack: by docs/interop/qcow2.rst alone.

What QEMU protects by default (QCOW2_OL_DEFAULT, but for the bitmap directory): the header, the L1 table and its L2
tables, the refcount table and its blocks, the snapshot table and the snapshots' L1 tables.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HEADER, L1, L2, REFTABLE, REFBLOCK = "header", "L1 table", "L2 table", "refcount table", "refcount block"
SNAPSHOTS, SNAPSHOT_L1 = "snapshot table", "L1 table of a snapshot"

Words = npt.NDArray[np.uint64]

_OFFSET = 0x00FFFFFFFFFFFE00
_TABLE_LIMIT = 32 << 20
_SNAPSHOT_LIMIT = 65536
_NO_FILE = 1 << 62  # no file system has a file of so many bytes


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes [start, end) of the image, in whole clusters."""

    what: str
    start: int
    end: int


class Layout:
    """The metadata of the image at `path` as it is now."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.cluster_size = 65536
        self._tables: list[tuple[str, Words]] = []  # offsets of clusters, ascending
        self.areas: list[Area] = []  # the others
        try:
            self._walk()
        finally:
            os.close(self._fd)
        spans = sorted((area.start, area.end) for area in self.areas)
        self._starts = np.array([start for start, _ in spans], dtype=np.uint64)
        # The furthest end of all up to here: areas of a hostile image overlap.
        self._ends = np.maximum.accumulate(np.array([end for _, end in spans], dtype=np.uint64))

    def first(self, count: int) -> list[Area]:
        """All areas, but of tables that are a cluster each only so many of a kind."""
        size = self.cluster_size
        return self.areas + [
            Area(what, start, start + size) for what, starts in self._tables for start in starts[:count].tolist()
        ]

    def hit(self, offset: int, length: int) -> Area | None:
        """A piece of metadata that [offset, offset + length) touches."""
        end = offset + length
        if not length:
            return None
        behind = int(np.searchsorted(self._starts, np.uint64(end)))
        if behind and int(self._ends[behind - 1]) > offset:
            return next(area for area in self.areas if area.start < end and offset < area.end)
        for what, starts in self._tables:
            behind = int(np.searchsorted(starts, np.uint64(end)))
            if behind and int(starts[behind - 1]) + self.cluster_size > offset:
                start = int(starts[behind - 1])
                return Area(what, start, start + self.cluster_size)
        return None

    def _walk(self) -> None:
        head = self._read(0, 112).ljust(112, b"\0")
        magic, _, _, _, bits, _, _, l1_entries, l1, table, table_clusters, count, snapshots = struct.unpack_from(
            ">4sIQIIQIIQQIIQ", head
        )
        if 9 <= bits <= 21:
            self.cluster_size = 1 << bits
        self._add(HEADER, 0, self.cluster_size)
        if magic != b"QFI\xfb" or not 9 <= bits <= 21:
            return
        self._add(L1, l1, l1_entries * 8)
        self._tables.append((L2, self._pointers(l1, l1_entries * 8)))
        self._add(REFTABLE, table, table_clusters * self.cluster_size)
        self._tables.append((REFBLOCK, self._pointers(table, table_clusters * self.cluster_size)))
        at = snapshots
        for _ in range(min(count, _SNAPSHOT_LIMIT)):
            entry = self._read(at, 40)
            if len(entry) < 40:
                break
            offset, entries, name, other_name, _, _, _, _, extra = struct.unpack(">QIHHIIQII", entry)
            self._add(SNAPSHOT_L1, offset, entries * 8)
            at += -(-(40 + extra + name + other_name) // 8) * 8
        self._add(SNAPSHOTS, snapshots, at - snapshots)

    def _pointers(self, offset: int, length: int) -> Words:
        """The clusters that a table points into, in order."""
        data = self._read(offset, min(length, _TABLE_LIMIT))
        words: Words = np.frombuffer(data[: len(data) // 8 * 8], dtype=">u8").astype(np.uint64)
        del data
        words &= np.uint64(_OFFSET)
        words = words[words != 0]
        words &= np.uint64(_OFFSET & -self.cluster_size)
        words.sort()
        return words

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset) if offset < _NO_FILE else b""

    def _add(self, what: str, start: int, length: int) -> None:
        if length and start + length < _NO_FILE:
            first = start - start % self.cluster_size
            self.areas.append(Area(what, first, start + length + -(start + length) % self.cluster_size))
