"""Which host clusters hold metadata, so that guest data and new tables are never written over them.

QEMU: qcow2_pre_write_overlap_check, with its default set (header, active L1 and L2 tables, refcount table and blocks,
snapshot table and the snapshots' L1 tables).
An image whose tables are intact never fails it; in a hostile one an entry may point anywhere.
"""

from array import array
from bisect import bisect_left
from itertools import pairwise
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.qcow2.header import Header


class MetadataMap:
    """The metadata clusters of one image. Offsets and lengths in bytes."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._loaded = array("Q")  # offsets of tables, ascending
        self._added: set[int] = set()
        self._fixed: list[tuple[str, int, int]] = []  # ascending, once loaded
        self._fixed_starts: list[int] = []

    def load(self, l2_tables: npt.NDArray[np.uint64], refcount_blocks: npt.NDArray[np.uint64]) -> None:
        """Take over the offsets of all tables. Raises ImageError where any two pieces of metadata overlap."""
        offsets = np.concatenate((l2_tables, refcount_blocks))
        offsets.sort()  # np.sort would make one copy more, of up to 40 MiB
        # In order of their places: 65,536 snapshots have an area each.
        areas = sorted(self._areas(), key=lambda area: area[1:])
        for (below, _, below_end), (what, start, _) in pairwise(areas):
            if start < below_end:
                raise ImageError(f"the {what} overlaps the {below}")
        for what, start, end in areas:
            first = int(np.searchsorted(offsets, np.uint64(start)))
            if first < len(offsets) and int(offsets[first]) < end:
                raise ImageError(f"the table at {offsets[first]} overlaps the {what}")
        twice = np.flatnonzero(offsets[1:] == offsets[:-1])
        if len(twice):
            raise ImageError(f"two tables share the cluster at {offsets[twice[0]]}")
        self._loaded = array("Q")
        self._loaded.frombytes(offsets.data.cast("B"))
        self._fixed.sort(key=lambda area: area[1])
        self._fixed_starts = [start for _, start, _ in self._fixed]

    def add_area(self, what: str, offset: int, length: int) -> None:
        """Bytes that hold metadata of a kind that this driver never moves: `what` names it."""
        size = self._header.cluster_size
        self._fixed.append((what, offset, offset + -(-length // size) * size))

    def add(self, offset: int) -> None:
        """The cluster at `offset` holds a table now."""
        self._added.add(offset)

    def remove(self, offset: int) -> None:
        """The cluster at `offset` holds no table any more."""
        self._added.discard(offset)
        at = bisect_left(self._loaded, offset)
        if at < len(self._loaded) and self._loaded[at] == offset:
            del self._loaded[at]

    def check(self, offset: int, length: int) -> None:
        """Raise ImageError where [offset, offset + length) overlaps metadata. `offset` is a cluster's."""
        end = offset + length
        header, size = self._header, self._header.cluster_size
        l1, table = header.l1_offset, header.refcount_table_offset
        if (
            offset < size
            or (l1 < end and offset < l1 + header.l1_entries * 8)
            or (table < end and offset < table + header.refcount_table_clusters * size)
        ):
            for what, start, stop in self._movable():
                if offset < stop and start < end:
                    _refuse(offset, f"the {what}")
        if self._fixed:
            # They do not overlap: the last one that begins before the end is the only one that can reach here.
            behind = bisect_left(self._fixed_starts, end)
            for what, _, stop in self._fixed[max(0, behind - 1) : behind]:
                if offset < stop:
                    _refuse(offset, f"the {what}")
        at = bisect_left(self._loaded, offset)
        hit = at < len(self._loaded) and self._loaded[at] < end
        if hit or not self._added.isdisjoint(range(offset, end, size)):
            _refuse(offset, "a table")

    def _areas(self) -> list[tuple[str, int, int]]:
        return self._movable() + self._fixed

    def _movable(self) -> list[tuple[str, int, int]]:
        header, size = self._header, self._header.cluster_size
        lengths = (
            ("header", 0, size),
            ("L1 table", header.l1_offset, -(-header.l1_entries * 8 // size) * size),
            ("refcount table", header.refcount_table_offset, header.refcount_table_clusters * size),
        )
        return [(what, start, start + length) for what, start, length in lengths if length]


def _refuse(offset: int, what: str) -> NoReturn:
    raise ImageError(f"the image is corrupt: cluster at {offset} overlaps {what}, writing is refused")
