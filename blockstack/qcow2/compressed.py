"""Compressed clusters: where their data lies, and what it unpacks to (docs/interop/qcow2.rst)."""

import sys
import zlib

from blockstack.errors import ImageError
from blockstack.qcow2.header import Header

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_SECTOR = 512
_WINDOW_BITS = -12
"""Raw deflate with a window of 4 KiB (QEMU: qcow2_zlib_decompress)."""
_MAX_FRAMES = 64
"""zstd frames of one cluster. QEMU writes one; each costs a copy of the bytes behind it, so a limit there must be."""


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
    """One guest cluster. Raises ImageError where the data is damaged.

    `data` goes on behind the compressed stream; whatever it says, no more than one cluster is unpacked.
    """
    unpack = _unpack_zstd if header.compression == "zstd" else _unpack_zlib
    try:
        unpacked = unpack(data, header.cluster_size)
    except (zlib.error, zstd.ZstdError) as error:
        raise ImageError(f"a compressed cluster is damaged: {error}") from None
    if len(unpacked) != header.cluster_size:
        raise ImageError("a compressed cluster is damaged: it is too short")
    return unpacked


def _unpack_zlib(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(_WINDOW_BITS).decompress(data, size)


def _unpack_zstd(data: bytes, size: int) -> bytes:
    """One or more frames (QEMU: qcow2_zstd_decompress). A window of more than 128 MiB is refused, as by QEMU: that is
    zstd's own limit for streams, and of the window only what is unpacked is ever touched.
    """
    unpacked = b""
    for _ in range(_MAX_FRAMES):
        frame = zstd.ZstdDecompressor()
        unpacked += frame.decompress(data, size - len(unpacked))
        if len(unpacked) == size or not frame.eof:
            break
        data = frame.unused_data
    return unpacked
