"""The simulated file: content, size, lock and direct I/O in flight, and what of it a power loss would leave."""

from typing import NamedTuple

BLOCK = 512
"""Bytes of a block, in which content is kept: the smallest direct write."""

ZEROES = bytes(BLOCK)


class Update(NamedTuple):
    """Something that is not stable yet: blocks with their new content (None: freed), or a size."""

    blocks: dict[int, bytes | None]
    size: int | None


class Inode:
    """One regular file. Blocks that are not in `blocks` read as zeroes."""

    __slots__ = (
        "blocks",
        "dio",
        "locked",
        "private_size",
        "replaced",
        "size",
        "stable_blocks",
        "stable_size",
        "updates",
    )

    def __init__(self, blocks: dict[int, bytes], size: int) -> None:
        self.blocks = dict(blocks)
        self.size = size
        """i_size, in bytes."""
        self.private_size = size
        """The file system's own size, where it has one beside i_size (ZFS: z_size)."""
        self.locked = False
        """Whether somebody holds the I/O lock exclusive (XFS_IOLOCK_EXCL). Nobody holds it shared between steps."""
        self.dio = 0
        """Direct I/O in flight (i_dio_count)."""
        self.replaced: list[tuple[int, bytes | None]] = []
        """Blocks that were changed, in order, with what they held: to go back."""
        self.stable_blocks, self.stable_size = blocks, size
        self.updates: list[Update] | None = None
        """What has changed since the last flush, where somebody wants to cut the power."""

    def record_updates(self) -> None:
        """From now on keep what a power loss may take."""
        self.stable_blocks, self.stable_size, self.updates = dict(self.blocks), self.size, []

    def unlocked(self) -> bool:
        """Nobody holds the I/O lock exclusive."""
        return not self.locked

    def idle(self) -> bool:
        """No direct I/O is in flight: inode_dio_wait() returns."""
        return not self.dio

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Content from a write; whole blocks."""
        first = offset // BLOCK
        for index in range(len(data) // BLOCK):
            self._replace(first + index, bytes(data[index * BLOCK : (index + 1) * BLOCK]))
        if self.updates is not None:
            self._note(first, len(data) // BLOCK)

    def zero(self, start: int, end: int) -> None:
        """Make [start, end) read as zeroes, to the byte."""
        first, last = start // BLOCK, -(-end // BLOCK)
        for index in range(first, last):
            data = self.blocks.get(index)
            if data is None:
                continue
            low, high = max(start - index * BLOCK, 0), min(end - index * BLOCK, BLOCK)
            if (low, high) == (0, BLOCK):
                self._replace(index, None)
            else:
                self._replace(index, data[:low] + bytes(high - low) + data[high:])
        if self.updates is not None:
            self._note(first, last - first)

    def get(self, offset: int, length: int) -> bytes:
        """Content of [offset, offset + length), up to i_size."""
        length = max(0, min(length, self.size - offset))
        first, last = offset // BLOCK, -(-(offset + length) // BLOCK)
        data = b"".join([self.blocks.get(index, ZEROES) for index in range(first, last)])
        return data[offset - first * BLOCK :][:length]

    def raise_size(self, size: int) -> None:
        """i_size is at least `size` from now on."""
        if size > self.size:
            self.size = size
            self._note_size()

    def set_size(self, size: int) -> None:
        """i_size is `size` from now on; what lies behind it is gone."""
        if size < self.size:
            self.zero(size, max(self.size, (max(self.blocks, default=0) + 1) * BLOCK))
        self.size = size
        self._note_size()

    def sync(self) -> None:
        """Everything so far is stable."""
        if self.updates:
            self.record_updates()

    def go_back(self, changes: int) -> None:
        """Undo all but the first so many changes of blocks."""
        while len(self.replaced) > changes:
            index, data = self.replaced.pop()
            if data is None:
                del self.blocks[index]
            else:
                self.blocks[index] = data

    def _replace(self, index: int, data: bytes | None) -> None:
        self.replaced.append((index, self.blocks.get(index)))
        if data is None:
            del self.blocks[index]
        else:
            self.blocks[index] = data

    def _note(self, first: int, count: int) -> None:
        assert self.updates is not None
        self.updates.append(Update({index: self.blocks.get(index) for index in range(first, first + count)}, None))

    def _note_size(self) -> None:
        if self.updates is not None:
            self.updates.append(Update({}, self.size))
