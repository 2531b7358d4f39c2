"""Page-aligned buffers for O_DIRECT, reused by size."""

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

from blockstack.node import Buffer, total

KEEP_BYTES = 16 << 20
"""What a pool keeps for reuse, in bytes."""

_KEEP = 64  # buffers of one size


@dataclass(slots=True, eq=False)
class AlignedBuffer:
    """A page-aligned buffer. `address` is where the kernel finds it; `view` is `size` bytes long."""

    map: mmap.mmap
    view: memoryview
    address: int
    size: int


class BufferPool:
    """Hands out aligned buffers of at least the asked size (powers of two, in bytes)."""

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self._free: dict[int, list[AlignedBuffer]] = {}
        self._spare = keep_bytes  # of them, what is not used

    def get(self, length: int) -> AlignedBuffer:
        """A buffer of at least `length` bytes; its content is undefined."""
        size = max(mmap.PAGESIZE, 1 << (length - 1).bit_length())
        free = self._free.setdefault(size, [])
        if free:
            self._spare += size
            return free.pop()
        area = mmap.mmap(-1, size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        return AlignedBuffer(area, memoryview(area), address, size)

    def put(self, buffer: AlignedBuffer) -> None:
        """Give a buffer back; nothing may be in flight on it."""
        free = self._free[buffer.size]
        if len(free) < _KEEP and buffer.size <= self._spare:
            self._spare -= buffer.size
            free.append(buffer)

    def gather(self, buffers: Sequence[Buffer]) -> tuple[AlignedBuffer, int]:
        """Copy `buffers` into one aligned buffer. Returns it and the number of bytes in it."""
        length = total(buffers)
        target = self.get(length)
        at = 0
        for buffer in buffers:
            target.view[at : at + len(buffer)] = buffer
            at += len(buffer)
        return target, length
