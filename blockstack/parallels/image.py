"""The parallels node (QEMU 7.2: block/parallels.c).

How it zeroes: a write to a cluster that has no place yet takes the next one of the file. If the file is too short for
that, it is made longer first, by a zero-write (`falloc`, QEMU's default) or a truncate, with room to spare
(`prealloc_size`), *under the lock that every allocation takes*. So whoever would write behind that zero-write has no
place yet, and whoever has one lies before it: no data write can be behind an ongoing zero-write.
"""

import asyncio
import enum
import errno
from collections.abc import Sequence

import numpy as np

from blockstack.errors import ImageError
from blockstack.file_posix import FilePosix
from blockstack.node import Buffer, Node
from blockstack.parallels.header import IN_USE, LENGTH, SECTOR, Bat, Header
from blockstack.requests import TrackedRequest
from blockstack.settled import uninterrupted

PREALLOC_SIZE = 128 << 20
"""Bytes by which the file grows beyond what is asked for (QEMU: prealloc-size)."""

HEADER_ALIGNMENT = 4096
"""Bytes that the header and the BAT are padded to, where the data area leaves room (QEMU: bdrv_opt_mem_align)."""

DIRTY_BLOCK = 16384
"""Bytes of the BAT that are written back together (QEMU: bat_dirty_block, four pages)."""


class PreallocMode(enum.Enum):
    """How the file grows (QEMU: prealloc-mode)."""

    FALLOC = "falloc"
    TRUNCATE = "truncate"


class Parallels(Node):
    """An open image over a file node."""

    def __init__(
        self,
        header: Header,
        bat: Bat,
        file: FilePosix,
        *,
        read_only: bool,
        prealloc_size: int = PREALLOC_SIZE,
        prealloc_mode: PreallocMode = PreallocMode.FALLOC,
    ) -> None:
        super().__init__(header.sectors * SECTOR, request_alignment=SECTOR, read_only=read_only)
        self.header = header
        self.file = file
        self.bat = bat
        self.data_end = max(header.data_start, int(bat.max(initial=0)) * header.unit + header.cluster_size * any(bat))
        self._lock = asyncio.Lock()
        self._prealloc_size = max(header.cluster_size, prealloc_size - prealloc_size % SECTOR)
        self._prealloc_mode = prealloc_mode
        self._dirty: set[int] = set()  # numbers of blocks
        padded = header.bat_end + -header.bat_end % HEADER_ALIGNMENT
        self._header_length = padded if padded <= header.data_start else header.bat_end

    @classmethod
    async def open(
        cls,
        header: Header,
        file: FilePosix,
        *,
        read_only: bool,
        prealloc_size: int = PREALLOC_SIZE,
        prealloc_mode: PreallocMode = PreallocMode.FALLOC,
    ) -> "Parallels":
        """Load the BAT, and mark the image as in use if it is to be written. Raises ImageError, OSError."""
        if not read_only and header.in_use == IN_USE:
            raise ImageError("the image was not closed: run `qemu-img check -r all` on it")
        if not read_only and header.extension_offset:
            # QEMU writes all the same, and with that makes a dirty bitmap in the extension a lie.
            raise ImageError("a format extension is not supported: open the image read-only")
        table = await file.preadv(LENGTH, header.bat_end - LENGTH)
        bat = header.parse_bat(table, file.length)
        image = cls(header, bat, file, read_only=read_only, prealloc_size=prealloc_size, prealloc_mode=prealloc_mode)
        if not read_only:
            await image._mark(IN_USE)
        return image

    # Reading

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        parts = []
        at, end = offset, offset + length
        while at < end:
            host, count = self._run(at, end - at)
            parts.append(bytes(count) if host is None else await self._read_host(host, count))
            at += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_host(self, offset: int, length: int) -> bytes:
        readable = max(0, min(length, self.file.length - offset))
        data = await self.file.preadv(offset, readable) if readable else b""
        return data.ljust(length, b"\0")

    def _run(self, offset: int, length: int) -> tuple[int | None, int]:
        """Where the first part of a range lies, None for nowhere, and its length in bytes (QEMU: block_status)."""
        size = self.header.cluster_size
        first, last = offset // size, -(-(offset + length) // size)
        entry, step = int(self.bat[first]), size // self.header.unit
        count = 1
        while first + count < last and self.bat[first + count] == (entry and entry + count * step):
            count += 1
        host = entry * self.header.unit + offset % size if entry else None
        return host, min(length, (first + count) * size - offset)

    # Writing

    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        # To its end, also for a caller that is cancelled: clusters are allocated on the way.
        await uninterrupted(self._pwritev_parts(offset, buffers))

    async def _pwritev_parts(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Part by part (QEMU: parallels_co_writev)."""
        data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        done = 0
        while done < len(data):
            host, count = await self.host_offset(offset + done, len(data) - done)
            await self.file.pwritev(host, [data[done : done + count]])
            done += count

    async def host_offset(self, offset: int, length: int) -> tuple[int, int]:
        """Where the first part of a write goes, and its length in bytes; allocates (QEMU: allocate_clusters)."""
        async with self._lock:
            host, count = self._run(offset, length)
            if host is not None:
                return host, count
            size = self.header.cluster_size
            first, last = offset // size, -(-(offset + count) // size)
            space = (last - first) * size
            if self.data_end + space > self.file.length:
                await self._extend(self.data_end, space + self._prealloc_size)
            return self._take(first, last - first) + offset % size, count

    async def _extend(self, offset: int, length: int) -> None:
        """Make the file reach to the end of a range that has to read as zeroes."""
        if self._prealloc_mode is PreallocMode.TRUNCATE:
            await self.file.truncate(offset + length)
        else:
            await self.file.pwrite_zeroes(offset, length)

    def _take(self, first: int, clusters: int) -> int:
        """Give guest clusters the next places of the file. Returns the first one's."""
        host, size, unit = self.data_end, self.header.cluster_size, self.header.unit
        if (host + clusters * size) // unit >= 2**32:
            raise OSError(errno.EFBIG, "the file is as long as a BAT entry can say")
        for index in range(clusters):
            self.bat[first + index] = (host + index * size) // unit
            self._dirty.add((LENGTH + 4 * (first + index)) // DIRTY_BLOCK)
        self.data_end += clusters * size
        return host

    # Making it stable

    async def _flush(self) -> None:
        await uninterrupted(self._write_back())
        await self.file.flush()

    async def _write_back(self) -> None:
        """Write the changed blocks of the BAT (QEMU: parallels_co_flush_to_os)."""
        async with self._lock:
            content = self._packed()
            for block in sorted(self._dirty):
                part = content[block * DIRTY_BLOCK : (block + 1) * DIRTY_BLOCK]
                await self.file.pwritev(block * DIRTY_BLOCK, [part], metadata=True)
            self._dirty.clear()

    def _packed(self) -> bytes:
        content = self.header.pack() + self.bat.astype("<u4").tobytes()
        return content.ljust(self._header_length, b"\0")

    async def _mark(self, in_use: int) -> None:
        """Write the header, and have it on the disk (QEMU: parallels_update_header)."""
        self.header.in_use = in_use
        part = self._packed()[:HEADER_ALIGNMENT]
        await self.file.pwritev(0, [part], metadata=True)
        await self.file.flush()

    async def _close(self) -> None:
        """Write back, say so in the header, give back what was allocated ahead (QEMU: parallels_close)."""
        try:
            if not self.read_only:
                await self._flush()
                await self._mark(0)
                if self.data_end < self.file.length:
                    await self.file.truncate(self.data_end, shrink=True)
        finally:
            await self.file.close()

    def extents(self) -> list[tuple[int, int]]:
        """Every allocated cluster: number on the disk, offset in the file in bytes."""
        return [(int(index), int(self.bat[index]) * self.header.unit) for index in np.flatnonzero(self.bat)]
