"""Makes a new qcow2 image (QEMU: qcow2_co_create), laid out as qemu-img does: header, refcounts, L1 table."""

import os
from pathlib import Path

import numpy as np

from blockstack import raw
from blockstack.errors import ImageError
from blockstack.qcow2.header import (
    AUTOCLEAR_DATA_FILE_RAW,
    COMPAT_LAZY_REFCOUNTS,
    INCOMPAT_DATA_FILE,
    INCOMPAT_EXTENDED_L2,
    MAX_L1_BYTES,
    MIN_SUBCLUSTER,
    Header,
)
from blockstack.qcow2.widths import pack, refcount_dtype


def create(
    path: Path,
    size: int,
    *,
    cluster_size: int = 65536,
    version: int = 3,
    refcount_bits: int = 16,
    backing_file: str | None = None,
    backing_format: str | None = None,
    data_file: str | None = None,
    data_file_raw: bool = False,
    extended_l2: bool = False,
    lazy_refcounts: bool = False,
) -> None:
    """Write an empty image of `size` bytes to `path`, over whatever the file holds; made with mode 0600 if missing.

    Raises ImageError for an impossible geometry, OSError from the file system.
    """
    if cluster_size & (cluster_size - 1) or not 512 <= cluster_size <= 2 << 20:
        raise ImageError(f"cluster size {cluster_size} is not a power of two from 512 to 2097152")
    if not 0 <= size <= 2**62:
        raise ImageError(f"impossible disk size {size}")
    if version not in (2, 3):
        raise ImageError(f"unsupported qcow2 version {version}: 2 or 3")
    if refcount_bits not in (1, 2, 4, 8, 16, 32, 64):
        raise ImageError(f"refcount width {refcount_bits} is not a power of two from 1 to 64 bits")
    if version < 3 and refcount_bits != 16:
        raise ImageError("version 2 has refcounts of 16 bits only: use version 3")
    if version < 3 and lazy_refcounts:
        raise ImageError("version 2 has no lazy refcounts: use version 3")
    header = Header(version, cluster_size.bit_length() - 1, size, 0, 0, cluster_size, 1)
    header.refcount_order = refcount_bits.bit_length() - 1
    header.backing_file, header.backing_format = backing_file, backing_format
    _set_data_file(header, data_file, data_file_raw)
    if extended_l2:
        _set_extended_l2(header)
    header.compatible = COMPAT_LAZY_REFCOUNTS if lazy_refcounts else 0
    header.l1_entries = header.l1_needed
    if header.l1_entries * 8 > MAX_L1_BYTES:
        raise ImageError(f"a disk of {size} bytes needs larger clusters")
    l1_clusters = max(1, -(-header.l1_entries * 8 // cluster_size))
    if not header.l1_entries:
        l1_clusters = 0
    per_block = header.refcounts_per_block
    blocks = table = 1
    while 1 + table + l1_clusters + blocks > blocks * per_block or blocks * 8 > table * cluster_size:
        blocks += 1
        table = -(-blocks * 8 // cluster_size)
    header.refcount_table_clusters = table
    first = 1 + table
    header.l1_offset = (first + 1) * cluster_size if header.l1_entries else 0
    # Refcount blocks beyond the first lie behind the L1 table.
    behind = first + 1 + l1_clusters
    offsets = [first * cluster_size, *((behind + i) * cluster_size for i in range(blocks - 1))]
    used = behind + blocks - 1
    refcounts = np.zeros(blocks * per_block, dtype=refcount_dtype(header.refcount_order))
    refcounts[:used] = 1
    packed = header.pack()
    if len(packed) > cluster_size:
        raise ImageError("the header does not fit into one cluster: shorten the names of other files in it")
    if data_file is not None:
        _create_data_file(path.parent / data_file, path, size)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, used * cluster_size)
        _pwrite_all(fd, np.array(offsets, dtype=">u8").tobytes(), cluster_size)
        for index, offset in enumerate(offsets):
            _pwrite_all(fd, pack(refcounts[index * per_block : (index + 1) * per_block], header.refcount_order), offset)
        _pwrite_all(fd, packed, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _set_data_file(header: Header, name: str | None, is_raw: bool) -> None:
    if name is None:
        if is_raw:
            raise ImageError("data_file_raw needs a data_file")
        return
    if header.version < 3:
        raise ImageError("version 2 has no external data files: use version 3")
    if is_raw and header.backing_file is not None:
        raise ImageError("a backing file and data_file_raw cannot be used at the same time")
    header.incompatible |= INCOMPAT_DATA_FILE
    header.autoclear |= AUTOCLEAR_DATA_FILE_RAW if is_raw else 0
    header.data_file = name


def _set_extended_l2(header: Header) -> None:
    if header.version < 3:
        raise ImageError("version 2 has no extended L2 entries: use version 3")
    header.incompatible |= INCOMPAT_EXTENDED_L2
    if header.subcluster_size < MIN_SUBCLUSTER:
        raise ImageError("extended L2 entries need clusters of at least 16 KiB")


def _create_data_file(path: Path, image: Path, size: int) -> None:
    if (path.exists() and image.exists() and path.samefile(image)) or path == image:
        raise ImageError("the data file is the image itself")
    raw.create(path, size)


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)
