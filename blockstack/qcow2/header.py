"""The qcow2 header (docs/interop/qcow2.rst of QEMU): parsed with limits, refused by name where this driver cannot
follow.
"""

import struct
from dataclasses import dataclass, field

from blockstack.errors import ImageError
from blockstack.node import Node

MAGIC = b"QFI\xfb"
V2_LENGTH = 72
V3_LENGTH = 104
L1_PLACE = 36
"""Offset of the entries of the L1 table (4 bytes), and of its place (8 bytes)."""
INCOMPATIBLE = 72
"""Offset of the incompatible feature bits."""
INCOMPAT_DIRTY = 1 << 0
"""Refcounts may be wrong: whoever writes to the image repairs them first."""
COMPAT_LAZY_REFCOUNTS = 1 << 0
AUTOCLEAR = 88
"""Offset of the autoclear feature bits."""
MAX_L1_BYTES = 32 << 20
"""QEMU: QCOW_MAX_L1_SIZE."""
MAX_CHAIN_L1_BYTES = 64 << 20
"""L1 tables of a whole backing chain, which are all in memory; 32 MiB of them map 2 PiB at 64 KiB clusters."""
MAX_REFTABLE_BYTES = 8 << 20
"""QEMU: QCOW_MAX_REFTABLE_SIZE."""
MAX_REFCOUNT_ORDER = 6
"""Refcounts of 2^6 = 64 bits are the widest."""
COMPRESSION = {0: "zlib", 1: "zstd"}
"""QEMU: Qcow2CompressionType."""
MAX_BACKING_NAME = 1023
"""QEMU refuses longer names ("Backing file name too long")."""

OFLAG_COPIED = 1 << 63
OFLAG_COMPRESSED = 1 << 62
OFLAG_ZERO = 1
OFFSET_MASK = 0x00FFFFFFFFFFFE00
"""Bits 9 to 55 of an L1 or L2 entry: the host offset in bytes."""

INCOMPAT_DATA_FILE = 1 << 2
INCOMPAT_COMPRESSION = 1 << 3
"""The compression type is another than zlib, and the header has a field for it."""
INCOMPAT_EXTENDED_L2 = 1 << 4
MIN_SUBCLUSTER = 512
SUBCLUSTERS = 32
"""Subclusters of a cluster with an extended L2 entry (QEMU: QCOW_EXTL2_SUBCLUSTERS_PER_CLUSTER)."""

AUTOCLEAR_DATA_FILE_RAW = 1 << 1
"""The external data file reads as the disk does, also for whom knows nothing of the image."""

_SUPPORTED = INCOMPAT_DIRTY | INCOMPAT_DATA_FILE | INCOMPAT_COMPRESSION | INCOMPAT_EXTENDED_L2
_INCOMPATIBLE = {
    1: "the image is marked corrupt",
}
_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3_TAIL = struct.Struct(">QQQII")
_COMPRESSION_TYPE = 104  # offset of one byte
_EXTENSION = struct.Struct(">II")
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441


@dataclass(slots=True)
class Header:
    """Offsets and sizes in bytes unless a name says clusters or entries."""

    version: int
    cluster_bits: int
    size: int
    l1_entries: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int = 0
    refcount_order: int = 4
    autoclear: int = 0
    backing_file: str | None = None
    backing_format: str | None = None
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    compression: str = "zlib"
    data_file: str | None = None
    cluster_size: int = field(init=False)
    """Bytes of a cluster."""

    def __post_init__(self) -> None:
        self.cluster_size = 1 << self.cluster_bits

    @property
    def dirty(self) -> bool:
        """Whether the refcounts may be wrong."""
        return bool(self.incompatible & INCOMPAT_DIRTY)

    @property
    def lazy_refcounts(self) -> bool:
        """Whether the refcounts may be left wrong while the image is marked dirty (QEMU: use_lazy_refcounts)."""
        return bool(self.compatible & COMPAT_LAZY_REFCOUNTS)

    @property
    def external(self) -> bool:
        """Whether guest data lies in an external data file (QEMU: has_data_file)."""
        return bool(self.incompatible & INCOMPAT_DATA_FILE)

    @property
    def data_file_raw(self) -> bool:
        """Whether that is kept readable as a raw image (QEMU: data_file_is_raw)."""
        return bool(self.autoclear & AUTOCLEAR_DATA_FILE_RAW)

    @property
    def l2_entries(self) -> int:
        """Entries of one L2 table, which fills one cluster."""
        return self.cluster_size // (16 if self.extended_l2 else 8)

    @property
    def extended_l2(self) -> bool:
        """Whether L2 entries have a bitmap of subclusters (QEMU: has_subclusters)."""
        return bool(self.incompatible & INCOMPAT_EXTENDED_L2)

    @property
    def subcluster_size(self) -> int:
        """Bytes of a subcluster, where there are some."""
        return self.cluster_size // SUBCLUSTERS

    @property
    def refcounts_per_block(self) -> int:
        """Refcounts in one refcount block, which fills one cluster."""
        return self.cluster_size * 8 >> self.refcount_order

    @property
    def l1_needed(self) -> int:
        """L1 entries that `size` takes."""
        return -(-self.size // (self.cluster_size * self.l2_entries))

    def pack(self) -> bytes:
        """The header with its extensions and the backing file name, as at offset 0 of the image."""
        extensions = b""
        if self.backing_format is not None:
            extensions += _extension(_EXTENSION_BACKING_FORMAT, self.backing_format.encode())
        if self.data_file is not None:
            extensions += _extension(_EXTENSION_DATA_FILE, self.data_file.encode("utf-8", "surrogateescape"))
        extensions += _EXTENSION.pack(_EXTENSION_END, 0)
        backing = (self.backing_file or "").encode("utf-8", "surrogateescape")
        if len(backing) > MAX_BACKING_NAME:
            raise ImageError("the name of the backing file is longer than 1023 bytes")
        tail = (
            b""
            if self.version < 3
            else _V3_TAIL.pack(self.incompatible, self.compatible, self.autoclear, self.refcount_order, V3_LENGTH)
        )
        backing_offset = V2_LENGTH + len(tail) + len(extensions) if backing else 0
        return (
            _V2.pack(
                MAGIC,
                self.version,
                backing_offset,
                len(backing),
                self.cluster_bits,
                self.size,
                0,
                self.l1_entries,
                self.l1_offset,
                self.refcount_table_offset,
                self.refcount_table_clusters,
                0,
                0,
            )
            + tail
            + extensions
            + backing
        )

    @classmethod
    def parse(cls, data: bytes, file_length: int) -> "Header":
        """Parse the first bytes of an image (one cluster of at most 64 KiB is enough). Raises ImageError."""
        if len(data) < V2_LENGTH or data[:4] != MAGIC:
            raise ImageError("not a qcow2 image")
        (
            _,
            version,
            backing_offset,
            backing_length,
            cluster_bits,
            size,
            crypt_method,
            l1_entries,
            l1_offset,
            refcount_table_offset,
            refcount_table_clusters,
            snapshots,
            snapshots_offset,
        ) = _V2.unpack_from(data)
        if version not in (2, 3):
            raise ImageError(f"unsupported qcow2 version {version}")
        if not 9 <= cluster_bits <= 21:
            raise ImageError(f"cluster size 2^{cluster_bits} is outside of 512 B to 2 MiB")
        if crypt_method:
            raise ImageError("encrypted images are not supported")
        refcount_order, header_length, autoclear = 4, V2_LENGTH, 0
        incompatible = compatible = 0
        if version == 3:
            if len(data) < V3_LENGTH:
                raise ImageError("the header is cut off")
            incompatible, compatible, autoclear, refcount_order, header_length = _V3_TAIL.unpack_from(data, V2_LENGTH)
            _refuse_features(incompatible)
            if header_length < V3_LENGTH or header_length > (1 << cluster_bits):
                raise ImageError(f"header length {header_length} is impossible")
        if refcount_order > MAX_REFCOUNT_ORDER:
            raise ImageError(f"refcounts of 2^{refcount_order} bits are impossible: 1 to 64")
        header = cls(
            version,
            cluster_bits,
            size,
            l1_entries,
            l1_offset,
            refcount_table_offset,
            refcount_table_clusters,
            snapshots,
            refcount_order,
            autoclear,
            snapshots_offset=snapshots_offset,
            incompatible=incompatible,
            compatible=compatible,
            compression=_compression(data, header_length, incompatible),
        )
        extensions = _extensions(data, header_length, backing_offset)
        if (backing_format := extensions.get(_EXTENSION_BACKING_FORMAT)) is not None:
            header.backing_format = backing_format.decode("ascii", "replace")
        if (data_file := extensions.get(_EXTENSION_DATA_FILE)) is not None:
            header.data_file = _file_name("data file", data_file)
        if backing_offset:
            if backing_length > MAX_BACKING_NAME or backing_offset + backing_length > min(
                len(data), header.cluster_size
            ):
                raise ImageError("the name of the backing file lies outside of the header cluster")
            name = data[backing_offset : backing_offset + backing_length]
            header.backing_file = _file_name("backing file", name)
        header._validate(file_length)
        return header

    def _validate(self, file_length: int) -> None:
        if self.extended_l2 and self.subcluster_size < MIN_SUBCLUSTER:
            raise ImageError("extended L2 entries need clusters of at least 16 KiB")
        if self.size > 2**63 - 1 - self.cluster_size:
            raise ImageError("the disk size overflows")
        if self.l1_entries * 8 > MAX_L1_BYTES:
            raise ImageError("the L1 table is larger than 32 MiB")
        if self.l1_entries < self.l1_needed:
            raise ImageError("the L1 table is too small for the disk")
        if self.refcount_table_clusters * self.cluster_size > MAX_REFTABLE_BYTES:
            raise ImageError("the refcount table is larger than 8 MiB")
        if not self.refcount_table_clusters:
            raise ImageError("there is no refcount table")
        tables = [
            ("L1 table", self.l1_offset, self.l1_entries * 8),
            ("refcount table", self.refcount_table_offset, self.refcount_table_clusters * self.cluster_size),
        ]
        for what, offset, length in tables:
            if length and (offset % self.cluster_size or not self.cluster_size <= offset < file_length):
                raise ImageError(f"the {what} lies at an impossible offset ({offset})")
            if offset + length > 2**56:
                raise ImageError(f"the {what} lies beyond the largest file")


def _compression(data: bytes, header_length: int, incompatible: int) -> str:
    """The type of compressed clusters (QEMU: validate_compression_type)."""
    kind = data[_COMPRESSION_TYPE] if header_length > _COMPRESSION_TYPE < len(data) else 0
    if kind not in COMPRESSION:
        raise ImageError(f"unknown compression type {kind}")
    if bool(kind) != bool(incompatible & INCOMPAT_COMPRESSION):
        raise ImageError(f"compression type {COMPRESSION[kind]} contradicts the incompatible features")
    return COMPRESSION[kind]


def _refuse_features(incompatible: int) -> None:
    for bit in range(64):
        if (incompatible & ~_SUPPORTED) >> bit & 1:
            raise ImageError(_INCOMPATIBLE.get(bit, f"unknown incompatible feature (bit {bit})"))


def _file_name(what: str, name: bytes) -> str:
    if b"\0" in name:
        raise ImageError(f"the name of the {what} has a NUL in it")
    return name.decode("utf-8", "surrogateescape")


def _extension(kind: int, data: bytes) -> bytes:
    return _EXTENSION.pack(kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def _extensions(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """The header's extensions by their kind (QEMU: qcow2_read_extensions)."""
    found: dict[int, bytes] = {}
    end = end or len(data)
    while at + _EXTENSION.size <= min(end, len(data)):
        kind, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        if kind == _EXTENSION_END:
            break
        if length > end - at:
            raise ImageError("a header extension is longer than the header")
        found[kind] = data[at : at + length]
        at += -(-length // 8) * 8
    return found


async def rewrite(file: Node, header: Header, offset: int, word: int) -> None:
    """Write the header's cluster with another 64-bit word at `offset`, and make it stable (QEMU: qcow2_update_header,
    which writes all of the cluster). Raises OSError.
    """
    cluster = bytearray(await file.preadv(0, min(header.cluster_size, file.length)))
    cluster[offset : offset + 8] = word.to_bytes(8, "big")
    await file.pwritev(0, [cluster.ljust(header.cluster_size, b"\0")], metadata=True)
    await file.flush()
