"""Internal snapshots: the table that lists them (QEMU: block/qcow2-snapshot.c). They are kept, never made here."""

import struct
from dataclasses import dataclass

from blockstack.errors import ImageError
from blockstack.node import Node
from blockstack.qcow2.header import MAX_L1_BYTES, Header

MAX_SNAPSHOTS = 65536
"""QEMU: QCOW_MAX_SNAPSHOTS."""
MAX_EXTRA = 1024
"""QEMU: QCOW_MAX_SNAPSHOT_EXTRA_DATA, bytes of one snapshot."""
MAX_TABLE_BYTES = 64 << 20
"""QEMU: QCOW_MAX_SNAPSHOTS_SIZE."""

_ENTRY = struct.Struct(">QIHHIIQII")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot. `seconds` is its date since 1970; `disk_size` and `vm_state_size` are bytes, 0 where not
    recorded.
    """

    id: str
    name: str
    seconds: int
    l1_offset: int
    l1_entries: int
    vm_state_size: int
    disk_size: int


async def load(header: Header, file: Node) -> tuple[list[Snapshot], int]:
    """The snapshots and the bytes that their table takes. Raises ImageError, OSError."""
    if not header.snapshots:
        return [], 0
    if header.snapshots > MAX_SNAPSHOTS:
        raise ImageError(f"{header.snapshots} snapshots are more than {MAX_SNAPSHOTS}")
    start, size = header.snapshots_offset, header.cluster_size
    if start % size or not size <= start < file.length:
        raise ImageError(f"the snapshot table lies at an impossible offset ({start})")
    reader = _Reader(file, start)
    found = [await _entry(reader, size) for _ in range(header.snapshots)]
    return found, reader.at


async def _entry(reader: "_Reader", cluster_size: int) -> Snapshot:
    await reader.take(-reader.at % 8)
    fields = _ENTRY.unpack(await reader.take(_ENTRY.size))
    l1_offset, l1_entries, id_length, name_length, seconds, _, _, state_size, extra_length = fields
    if extra_length > MAX_EXTRA:
        raise ImageError(f"a snapshot has {extra_length} bytes of extra data, which is more than {MAX_EXTRA}")
    if l1_entries * 8 > MAX_L1_BYTES or l1_offset % cluster_size or l1_offset >= 1 << 56:
        raise ImageError(f"the L1 table of a snapshot lies at an impossible offset ({l1_offset}) or is too large")
    extra = await reader.take(extra_length)
    id = await reader.take(id_length)
    name = await reader.take(name_length)
    large_state_size, disk_size = struct.unpack(">QQ", extra[:16].ljust(16, b"\0"))
    return Snapshot(
        id.decode("utf-8", "replace"),
        name.decode("utf-8", "replace"),
        seconds,
        l1_offset,
        l1_entries,
        large_state_size or state_size,
        disk_size,
    )


class _Reader:
    """Takes bytes one behind the other, reading the file in pieces."""

    _PIECE = 64 << 10

    def __init__(self, file: Node, start: int) -> None:
        self.at = 0
        self._file = file
        self._start = start
        self._data = bytearray()

    async def take(self, count: int) -> bytes:
        while len(self._data) < self.at + count:
            offset = self._start + len(self._data)
            length = min(self._PIECE, self._file.length - offset)
            if length <= 0 or len(self._data) > MAX_TABLE_BYTES:
                raise ImageError("the snapshot table is cut off or too large")
            self._data += await self._file.preadv(offset, length)
        self.at += count
        return bytes(self._data[self.at - count : self.at])
