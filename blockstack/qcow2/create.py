"""Makes a new qcow2 v3 image (QEMU: qcow2_co_create), laid out as qemu-img does: header, refcounts, L1 table."""

import os
from pathlib import Path

import numpy as np

from blockstack.errors import ImageError
from blockstack.qcow2.header import MAX_L1_BYTES, Header


def create(
    path: Path,
    size: int,
    *,
    cluster_size: int = 65536,
    backing_file: str | None = None,
    backing_format: str | None = None,
) -> None:
    """Write an empty image of `size` bytes to `path`, over whatever the file holds; made with mode 0600 if missing.

    Raises ImageError for an impossible geometry, OSError from the file system.
    """
    if cluster_size & (cluster_size - 1) or not 512 <= cluster_size <= 2 << 20:
        raise ImageError(f"cluster size {cluster_size} is not a power of two from 512 to 2097152")
    if not 0 <= size <= 2**62:
        raise ImageError(f"impossible disk size {size}")
    header = Header(3, cluster_size.bit_length() - 1, size, 0, 0, cluster_size, 1)
    header.backing_file, header.backing_format = backing_file, backing_format
    header.l1_entries = header.l1_needed
    if header.l1_entries * 8 > MAX_L1_BYTES:
        raise ImageError(f"a disk of {size} bytes needs larger clusters")
    l1_clusters = max(1, -(-header.l1_entries * 8 // cluster_size))
    header.l1_offset = 3 * cluster_size if header.l1_entries else 0
    used = 3 + (l1_clusters if header.l1_entries else 0)
    per_block = cluster_size // 2
    blocks = 1
    while used + blocks - 1 > blocks * per_block:
        blocks += 1
    # Refcount blocks beyond the first lie behind the L1 table.
    offsets = [2 * cluster_size, *((used + i) * cluster_size for i in range(blocks - 1))]
    used += blocks - 1
    if blocks * 8 > cluster_size:
        raise ImageError(f"a disk of {size} bytes needs larger clusters")
    refcounts = np.zeros(blocks * per_block, dtype=">u2")
    refcounts[:used] = 1
    packed = header.pack()
    if len(packed) > cluster_size:
        raise ImageError("the header does not fit into one cluster: shorten the name of the backing file")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, used * cluster_size)
        _pwrite_all(fd, np.array(offsets, dtype=">u8").tobytes(), cluster_size)
        for index, offset in enumerate(offsets):
            _pwrite_all(fd, refcounts[index * per_block : (index + 1) * per_block].tobytes(), offset)
        _pwrite_all(fd, packed, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
