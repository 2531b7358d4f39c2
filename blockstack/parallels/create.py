"""Makes a new image, as qemu-img does (QEMU: parallels_co_create)."""

import os
from pathlib import Path

from blockstack.errors import ImageError
from blockstack.parallels.header import (
    HEADS,
    LENGTH,
    MAGIC_CLUSTERS,
    MAX_BAT_BYTES,
    MAX_SECTORS_PER_CLUSTER,
    SECTOR,
    SECTORS_PER_CYLINDER,
    Header,
)

DEFAULT_CLUSTER_SIZE = 1 << 20
"""Bytes (QEMU: DEFAULT_CLUSTER_SIZE)."""


def create(path: Path, size: int, *, cluster_size: int = DEFAULT_CLUSTER_SIZE) -> None:
    """Write an empty image of `size` bytes to `path`, over whatever the file holds; made with mode 0600 if missing.

    Raises ImageError for an impossible geometry, OSError from the file system.
    """
    if cluster_size % SECTOR or not 0 < cluster_size <= MAX_SECTORS_PER_CLUSTER * SECTOR:
        raise ImageError(f"cluster size {cluster_size} is not a multiple of 512 from 512 to {2**31 // 513 * SECTOR}")
    if size < 0 or size % SECTOR:
        raise ImageError(f"impossible disk size {size}")
    entries = -(-size // cluster_size)
    if entries * 4 > MAX_BAT_BYTES:
        raise ImageError(f"a disk of {size} bytes needs larger clusters")
    data_start = -(-(LENGTH + 4 * entries) // cluster_size) * cluster_size
    header = Header(
        MAGIC_CLUSTERS,
        tracks=cluster_size // SECTOR,
        bat_entries=entries,
        sectors=size // SECTOR,
        data_offset=data_start // SECTOR,
        cylinders=min(size // SECTOR // HEADS // SECTORS_PER_CYLINDER, 2**32 - 1),
    )
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, header.pack(), 0)
        os.ftruncate(fd, data_start)
        os.fsync(fd)
    finally:
        os.close(fd)
