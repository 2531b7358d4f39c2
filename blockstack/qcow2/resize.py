"""Another length for an open image (QEMU: qcow2_co_truncate, qcow2_grow_l1_table, qcow2_shrink_l1_table).

No guest request is in flight behind the shorter of both lengths. What grows reads as zeroes.
"""

import errno
from typing import TYPE_CHECKING, Final

from blockstack.node import ZERO_CHUNK
from blockstack.qcow2.header import MAX_L1_BYTES
from blockstack.qcow2.preallocate import preallocate

if TYPE_CHECKING:
    from blockstack.qcow2.image import Qcow2

SECTOR: Final = 512
_SIZE: Final = 24
"""Offset of the disk size in the header."""


async def resize(image: "Qcow2", length: int) -> None:
    """Let the disk of `image` be `length` bytes long.

    Raises OSError: EINVAL for half a sector, ENOTSUP for version 2 with snapshots, which do not record the size of
    their disk, EFBIG where the L1 table would be too large; ImageError.
    """
    header, old = image.header, image.length
    if length % SECTOR:
        raise OSError(errno.EINVAL, f"the new size must be a multiple of {SECTOR} bytes")
    if image.snapshots and header.version < 3:
        raise OSError(errno.ENOTSUP, "a version 2 image that has snapshots cannot be resized")
    if length < old:
        await _cut(image, length)
    else:
        await _grow(image, length)
    if header.external:
        if header.data_file_raw and length > old:
            # Whoever reads the data file alone sees every cluster: so has the image to (QEMU: data_file_is_raw).
            await preallocate(image, "metadata", old, length)
        await image.data.truncate(length, shrink=True)
    await image.file.pwritev(_SIZE, [length.to_bytes(8, "big")], metadata=True)
    await image.file.flush()
    header.size = image.length = length
    image.fit_cache()
    if length < old:
        await _cut_file(image)


async def _grow(image: "Qcow2", length: int) -> None:
    header, size = image.header, image.header.cluster_size
    entries = -(-length // (size * header.l2_entries))
    if entries * 8 > MAX_L1_BYTES:
        raise OSError(errno.EFBIG, f"a disk of {length} bytes needs larger clusters")
    async with image._lock:
        await image.mapping.grow_l1(entries)
    # What lies behind the old end in its last cluster may be of a longer backing file, or of a disk that was cut.
    aligned = min(length, old + -old % size) if (old := image.length) else 0
    at = old
    while at < aligned:
        status = await image.block_status(at, aligned - at)
        if (status.allocated and not status.zero) or (not status.allocated and _backed_from(image, at)):
            await image._pwritev_parts(at, [bytes(status.length)])
        at += status.length
    if aligned >= length or not _backed_from(image, aligned):
        return
    if header.version < 3:
        for at in range(aligned, length, ZERO_CHUNK):
            await image._pwritev_parts(at, [bytes(min(ZERO_CHUNK, length - at))])
        return
    first, end = aligned // size, -(-length // size)
    while first < end:
        async with image._lock, image.mapping.holes():
            first += await image.mapping.zeroize(first, end - first, unmap=False)


def _backed_from(image: "Qcow2", offset: int) -> bool:
    """Whether the backing file would show through behind `offset` (QEMU: bdrv_co_truncate, BDRV_REQ_ZERO_WRITE)."""
    return image.backing is not None and image.backing.length > offset


async def _cut(image: "Qcow2", length: int) -> None:
    size = image.header.cluster_size
    first, end = -(-length // size), -(-image.length // size)
    while first < end:
        async with image._lock, image.mapping.holes():
            first += await image.mapping.discard(first, end - first, backed=False, full=True)
    await image._flush_caches()
    async with image._lock:
        await image.mapping.shrink_l1(-(-length // (size * image.header.l2_entries)))


async def _cut_file(image: "Qcow2") -> None:
    """Give what lies behind the last cluster in use back to the file system."""
    await image._flush_caches()
    async with image._lock:
        end = await image.refcounts.end()
        if end < image.file.length:
            await image.file.truncate(end, shrink=True)
