"""Clusters for a whole new disk, before a guest writes (QEMU: preallocate_co, and qcow2_co_truncate with
PREALLOC_MODE_FALLOC and PREALLOC_MODE_FULL).

`metadata` maps every cluster and leaves holes in the file; `falloc` has the file system allocate them; `full` writes
zeroes to them.
"""

from typing import TYPE_CHECKING, Final

from blockstack.errors import ImageError
from blockstack.file_posix import FilePosix
from blockstack.node import ZERO_CHUNK

if TYPE_CHECKING:
    from blockstack.qcow2.image import Qcow2

MODES: Final = ("off", "metadata", "falloc", "full")


def refuse_mode(mode: str, *, format: str, backed: bool = False) -> None:
    """Raise ImageError for a mode that is none, or not one of this format."""
    if mode not in MODES:
        raise ImageError(f"unknown preallocation {mode!r}: one of {', '.join(MODES)}")
    if mode == "metadata" and format == "raw":
        raise ImageError("a raw image has no metadata to preallocate: off, falloc or full")
    if mode != "off" and format not in ("qcow2", "raw"):
        raise ImageError(f"a {format} image cannot be preallocated when it is made")
    if mode != "off" and backed:
        raise ImageError("backing file and preallocation cannot be used at the same time")


async def preallocate(image: "Qcow2", mode: str, start: int = 0, end: int | None = None) -> None:
    """Map the clusters of `image` that begin from guest offset `start` on, up to `end` or that of the disk, and
    allocate them in the file as `mode` says. Nothing is mapped there yet. Raises OSError.
    """
    size, l2_entries = image.header.cluster_size, image.header.l2_entries
    first, end = -(-start // size), -(-(image.length if end is None else end) // size)
    extents: list[tuple[int, int]] = []
    while first < end:
        async with image._lock:
            await image.mapping.table_for_write(first)
            host, clusters = await image.clusters.allocate(first, min(end - first, l2_entries - first % l2_entries))
            await image.mapping.link(first, host, clusters)
        extents.append((host, clusters * size))
        first += clusters
    await image.flush()
    if extents and sum(extents[-1]) > image.data.length:
        await image.data.truncate(sum(extents[-1]))
    for offset, length in extents:
        await fill(image.data, offset, length, mode)


async def fill(file: FilePosix, offset: int, length: int, mode: str) -> None:
    """Allocate a range of `file`, of which nothing was written yet. Raises OSError."""
    if mode == "falloc":
        await file.allocate(offset, length)
    elif mode == "full":
        zeroes = bytes(min(ZERO_CHUNK, length))
        for at in range(offset, offset + length, ZERO_CHUNK):
            await file.pwritev(at, [memoryview(zeroes)[: offset + length - at]])
