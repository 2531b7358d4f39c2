"""The header and the BAT (docs/interop/parallels.txt of QEMU): parsed with limits, refused where they cannot be true.

All numbers are little-endian. The magic decides what a BAT entry counts: sectors, or clusters.
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError

MAGIC_SECTORS = b"WithoutFreeSpace"
MAGIC_CLUSTERS = b"WithouFreSpacExt"
MAGICS = (MAGIC_SECTORS, MAGIC_CLUSTERS)
VERSION = 2
SECTOR = 512
LENGTH = 64
"""Bytes of the header; the BAT follows."""
IN_USE = 0x746F6E59
CLOSED = 0x312E3276
MAX_SECTORS_PER_CLUSTER = (2**31 - 1) // 513
"""QEMU: "Too big cluster"."""
MAX_BAT_BYTES = 64 << 20
"""The driver keeps the BAT in memory. QEMU takes up to 2 GiB."""
HEADS, SECTORS_PER_CYLINDER = 16, 32
"""The geometry that QEMU writes (HEADS_NUMBER, SEC_IN_CYL); it is not used."""

Bat = npt.NDArray[np.uint32]

_HEADER = struct.Struct("<16sIIIIIQIIIQ")


@dataclass(slots=True)
class Header:
    """Sizes in the units of the format: sectors of 512 bytes, unless a name says otherwise."""

    magic: bytes
    tracks: int  # sectors of a cluster
    bat_entries: int
    sectors: int  # of the disk
    data_offset: int
    in_use: int = 0
    flags: int = 0
    extension_offset: int = 0
    heads: int = HEADS
    cylinders: int = 0

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return self.tracks * SECTOR

    @property
    def unit(self) -> int:
        """Bytes that a BAT entry counts."""
        return self.cluster_size if self.magic == MAGIC_CLUSTERS else SECTOR

    @property
    def bat_end(self) -> int:
        """First byte behind the BAT."""
        return LENGTH + 4 * self.bat_entries

    @property
    def data_start(self) -> int:
        """Where the data area begins, in bytes."""
        return self.data_offset * SECTOR or self.bat_end + -self.bat_end % SECTOR

    def pack(self) -> bytes:
        """The header as at offset 0 of the image."""
        return _HEADER.pack(
            self.magic,
            VERSION,
            self.heads,
            self.cylinders,
            self.tracks,
            self.bat_entries,
            self.sectors,
            self.in_use,
            self.data_offset,
            self.flags,
            self.extension_offset,
        )

    @classmethod
    def parse(cls, data: bytes, file_length: int) -> "Header":
        """Parse the first 64 bytes of an image. Raises ImageError."""
        if len(data) < LENGTH or data[:16] not in MAGICS:
            raise ImageError("not a parallels image")
        magic, version, heads, cylinders, tracks, entries, sectors, in_use, offset, flags, extension = (
            _HEADER.unpack_from(data)
        )
        if version != VERSION:
            raise ImageError(f"unsupported parallels version {version}")
        if magic == MAGIC_SECTORS:
            sectors &= 0xFFFFFFFF
        header = cls(magic, tracks, entries, sectors, offset, in_use, flags, extension, heads, cylinders)
        header._validate(file_length)
        return header

    def _validate(self, file_length: int) -> None:
        if not self.tracks:
            raise ImageError("clusters have no sectors")
        if self.tracks > MAX_SECTORS_PER_CLUSTER:
            raise ImageError(f"clusters of {self.tracks} sectors are too large")
        if self.sectors > (2**63 - 1) // SECTOR:
            raise ImageError("the disk size overflows")
        if self.bat_entries * 4 > MAX_BAT_BYTES:
            raise ImageError("the BAT is larger than 64 MiB")
        if self.bat_entries * self.tracks < self.sectors:
            raise ImageError("the BAT is too small for the disk")
        if self.bat_end > file_length:
            raise ImageError("the BAT is cut off")
        if self.data_start < self.bat_end:
            raise ImageError(f"the data area begins within the BAT ({self.data_start})")
        if self.magic == MAGIC_CLUSTERS and (not self.data_offset or self.data_offset % self.tracks):
            raise ImageError(f"the data area begins at an impossible sector ({self.data_offset})")

    def parse_bat(self, data: bytes, file_length: int) -> Bat:
        """The BAT (bat_entries,) from the bytes behind the header. Raises ImageError for entries that cannot be."""
        bat = np.frombuffer(data, "<u4", self.bat_entries).astype(np.uint32)
        used = bat[bat != 0].astype(np.int64)
        # In units, and compared as such: a product with the unit may overflow.
        if len(used) and int(used.min()) * self.unit < self.data_start:
            raise ImageError(f"a cluster lies before the data area (BAT entry {used.min()})")
        if len(used) and int(used.max()) * self.unit >= file_length:
            raise ImageError(f"a cluster lies behind the end of the file (BAT entry {used.max()})")
        if self.magic == MAGIC_SECTORS and np.any((used - self.data_start // SECTOR) % self.tracks):
            raise ImageError("a cluster is not aligned to the data area")
        if len(np.unique(used)) != len(used):
            raise ImageError("two clusters of the disk share one of the file")
        return bat
