"""Where guest data lies: in clusters of the image file, or in an external data file at the guest's own offsets (QEMU:
has_data_file, data_file_is_raw).

Only metadata has refcounts then: a guest cluster is allocated or not, but nobody else can ever have its place.
"""

from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from blockstack.errors import ImageError
from blockstack.file_posix import FilePosix
from blockstack.node import Node
from blockstack.qcow2.header import Header
from blockstack.qcow2.overlap import MetadataMap
from blockstack.qcow2.refcounts import Refcounts


class DataClusters(Protocol):
    """Who hands out the clusters of guest data. Offsets in bytes; everything runs under the image's metadata lock."""

    file: FilePosix
    """Where they lie."""

    def allocate(self, guest_cluster: int, count: int) -> Awaitable[tuple[int, int]]:
        """Take up to `count` contiguous clusters, at least one, for those from `guest_cluster` on. Returns their host
        offset and number.
        """
        ...

    def allocate_at(self, offset: int, count: int) -> Awaitable[int]:
        """Take up to `count` clusters from `offset` on, as far as they are free. Returns how many."""
        ...

    def abort(self, offset: int, count: int) -> Awaitable[object]:
        """Give clusters back that nothing ever pointed to."""
        ...

    def release(self, offset: int, count: int) -> Awaitable[object]:
        """Give clusters back that a write has replaced."""
        ...

    def discard(self, offset: int, count: int) -> Awaitable[list[tuple[int, int]]]:
        """Give clusters back whose data is no longer needed. Returns host offset and number of those that may become
        holes.
        """
        ...

    def check(self, offset: int, length: int) -> None:
        """Raise ImageError where guest data must not be."""
        ...


class OwnClusters:
    """Clusters of the image file, which have refcounts. No coroutine of its own stands between: it is asked often."""

    def __init__(self, file: FilePosix, refcounts: Refcounts, metadata: MetadataMap) -> None:
        self.file = file
        self._refcounts = refcounts
        self.check = metadata.check  # for every write: not worth one more call

    def allocate(self, guest_cluster: int, count: int) -> Awaitable[tuple[int, int]]:
        """Free ones, wherever they are."""
        return self._refcounts.allocate(count)

    def allocate_at(self, offset: int, count: int) -> Awaitable[int]:
        """As `Refcounts.allocate_at`."""
        return self._refcounts.allocate_at(offset, count)

    def abort(self, offset: int, count: int) -> Awaitable[object]:
        """Their refcounts fall, with no table to wait for."""
        return self._refcounts.free(offset, count, linked=False)

    def release(self, offset: int, count: int) -> Awaitable[object]:
        """Their refcounts fall, on the disk after the tables that no longer point there."""
        return self._refcounts.free(offset, count)

    def discard(self, offset: int, count: int) -> Awaitable[list[tuple[int, int]]]:
        """Those that nobody else refers to."""
        return self._refcounts.free(offset, count)


class ExternalClusters:
    """Clusters of an external data file, which nothing counts: each is the guest's own (QEMU: has_data_file)."""

    def __init__(self, file: FilePosix, header: Header) -> None:
        self.file = file
        self._size = header.cluster_size

    async def allocate(self, guest_cluster: int, count: int) -> tuple[int, int]:
        """At the guest's own offset (QEMU: do_alloc_cluster_offset)."""
        return guest_cluster * self._size, count

    async def allocate_at(self, offset: int, count: int) -> int:
        """All of them: what goes on in the guest's disk goes on in the file."""
        return count

    async def abort(self, offset: int, count: int) -> None:
        """Nothing (QEMU: qcow2_alloc_cluster_abort)."""

    async def release(self, offset: int, count: int) -> None:
        """What replaced them is at the same place."""

    async def discard(self, offset: int, count: int) -> list[tuple[int, int]]:
        """Each becomes a hole by itself, at once (QEMU: qcow2_free_any_cluster, which ignores errors, too: a discard is
        optional).
        """
        for at in range(offset, offset + count * self._size, self._size):
            with suppress(OSError):
                await self.file.pdiscard(at, self._size)
        return []

    def check(self, offset: int, length: int) -> None:
        """There is no metadata in it (QEMU: qcow2_pre_write_overlap_check)."""


def data_path(image: Path, header: Header, given: str | Path | None) -> Path | None:
    """The data file: `given`, or as the header names it, relative to the image like a backing file (QEMU 7.2 looks in
    the current directory). None where the image has none.

    Raises ImageError where there must be one and is not, or the reverse.
    """
    if not header.external:
        if given is not None:
            raise ImageError("a data file can only be given for an image with an external data file")
        if header.data_file_raw:
            raise ImageError("the image says that its external data file is raw, but has none")
        return None
    if given is not None:
        return Path(given)
    if not header.data_file:
        raise ImageError("the image names no data file: give one (data_file=)")
    return image.parent / header.data_file


def refuse_shared(data: FilePosix, file: FilePosix, backing: Node | None) -> None:
    """Raise ImageError where the data file is a file of the image or of its backing chain, as a hostile header may say:
    guest data would be written over metadata. (QEMU's image locks refuse that.)
    """
    files = [file]
    while backing is not None:
        if isinstance(backing, FilePosix):
            files.append(backing)
            break
        lower: FilePosix | None = getattr(backing, "file", None)
        files += [lower] if lower is not None else []
        files += [other] if (other := getattr(backing, "data", None)) is not None else []
        backing = getattr(backing, "backing", None)
    if any(data.identity == other.identity for other in files):
        raise ImageError("the external data file is the image itself, or one of its backing files")
