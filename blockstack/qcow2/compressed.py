"""Compressed clusters: where their data lies, and what it unpacks to (docs/interop/qcow2.rst)."""

import zlib

from blockstack.errors import ImageError
from blockstack.qcow2.header import Header

_SECTOR = 512
_WINDOW_BITS = -12
"""Raw deflate with a window of 4 KiB (QEMU: qcow2_zlib_decompress)."""


def extent(entry: int, header: Header) -> tuple[int, int]:
    """Host offset in bytes, of no alignment, and the most bytes that the data takes (QEMU:
    qcow2_parse_compressed_l2_entry).
    """
    shift = 62 - (header.cluster_bits - 8)
    offset = entry & (1 << shift) - 1
    sectors = (entry >> shift & (1 << header.cluster_bits - 8) - 1) + 1
    return offset, sectors * _SECTOR - offset % _SECTOR


def clusters(entry: int, header: Header) -> tuple[int, int]:
    """Host offset and number of the clusters that the data lies in, each of which it references once."""
    offset, length = extent(entry, header)
    first = offset - offset % header.cluster_size
    return first, -(-(offset + length - first) // header.cluster_size)


def decompress(data: bytes, header: Header) -> bytes:
    """One guest cluster. Raises ImageError where the data is damaged."""
    try:
        unpacked = zlib.decompressobj(_WINDOW_BITS).decompress(data, header.cluster_size)
    except zlib.error as error:
        raise ImageError(f"a compressed cluster is damaged: {error}") from None
    if len(unpacked) != header.cluster_size:
        raise ImageError("a compressed cluster is damaged: it is too short")
    return unpacked
