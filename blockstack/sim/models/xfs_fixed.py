"""`xfs-fixed`: XFS since Linux 5.5 (249bd9087a52, "xfs: properly serialise fallocate against AIO+DIO").

fs/xfs/xfs_file.c and fs/iomap/direct-io.c. The other XFS models are this one with a step at another place.
"""

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.sim.calls import Call, Next, Step
from blockstack.sim.footprint import (
    CONTENT,
    DIO_BEGIN,
    DIO_END,
    DIO_WAIT,
    FALLOCATE_EDGE,
    LOCK_EXCLUSIVE,
    LOCK_SHARED,
    SIZE_MAX,
    SIZE_READ,
    SIZE_SET,
    WRITE_EDGE,
    content_written,
)
from blockstack.sim.inode import Inode
from blockstack.sim.models.base import FileSystem

FS_BLOCK = 4096
"""Bytes of a file-system block: mkfs.xfs' default."""


class XfsFixed(FileSystem):
    """Whoever sets a size has the lock exclusive and has seen direct I/O drain *before* it looks at i_size."""

    name = "xfs-fixed"
    file_system = "xfs"
    since = "Linux 5.5 (249bd9087a52), 5.4.y (36f11775da75)"

    def write(self, inode: Inode, call: Call) -> Step:
        """xfs_file_dio_write_aligned, xfs_file_dio_write_unaligned (before 5.12 xfs_file_dio_aio_write).

        io_submit -> xfs_file_write_iter: xfs_ilock_iocb(SHARED), and EXCL for what is not aligned to blocks;
        xfs_file_write_checks upgrades to EXCL where the write begins beyond i_size.
        """

        def touch() -> int:
            exclusive = _needs_exclusive(inode, call)
            return SIZE_READ | DIO_BEGIN | WRITE_EDGE | (LOCK_EXCLUSIVE if exclusive else LOCK_SHARED)

        return Step("io_submit: xfs_ilock, xfs_file_write_checks", touch, self._submit, inode.unlocked)

    def _submit(self, inode: Inode, call: Call) -> Next:
        call.begins(inode)
        if not _needs_exclusive(inode, call):
            return self._in_flight(inode, call)
        inode.locked = True
        return self._exclusive(inode, call)

    def _exclusive(self, inode: Inode, call: Call) -> Step:
        """With the lock exclusive: drain always (3136e8bb305, 4.4), then zero from i_size to the write."""
        return Step(
            "io_submit: inode_dio_wait, iomap_zero_range",
            DIO_WAIT | DIO_BEGIN | SIZE_READ | LOCK_EXCLUSIVE | CONTENT,
            self._drained,
            inode.idle,
        )

    def _drained(self, inode: Inode, call: Call) -> Step:
        inode.zero(inode.size, call.offset)
        inode.locked = False  # xfs_ilock_demote, and xfs_iunlock when iomap_dio_rw has returned -EIOCBQUEUED
        return self._in_flight(inode, call)

    def _in_flight(self, inode: Inode, call: Call) -> Step:
        """__iomap_dio_rw: inode_dio_begin, submit_bio; iomap_dio_bio_end_io comes at some time later."""
        inode.dio += 1
        return Step("the data is on the disk", content_written(call.offset, call.length), self._written)

    def _written(self, inode: Inode, call: Call) -> Step:
        inode.put(call.offset, call.data)
        return Step(
            "iomap_dio_complete: xfs_dio_write_end_io, inode_dio_end", SIZE_MAX | DIO_END | WRITE_EDGE, self._complete
        )

    def _complete(self, inode: Inode, call: Call) -> int:
        """xfs_dio_write_end_io raises i_size, then inode_dio_end, then ki_complete (aio_complete)."""
        call.applies(inode)
        inode.raise_size(call.behind)
        inode.dio -= 1
        return call.length

    def fallocate(self, inode: Inode, call: Call) -> Step:
        """xfs_file_fallocate: xfs_ilock(XFS_IOLOCK_EXCL), xfs_break_layouts, inode_dio_wait, and only then i_size."""
        return Step(
            "xfs_file_fallocate: xfs_ilock(XFS_IOLOCK_EXCL)",
            LOCK_EXCLUSIVE | FALLOCATE_EDGE,
            self._locked,
            inode.unlocked,
        )

    def _locked(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        inode.locked = True
        # Nothing is in flight then and nobody can begin: the rest is one moment for all others.
        name = "inode_dio_wait; new size, space, xfs_setattr_size, xfs_iunlock"
        return Step(name, applying(call), self._allocate, inode.idle)

    def _allocate(self, inode: Inode, call: Call) -> int:
        return self._apply(inode, call, new_size(inode, call))

    def truncate(self, inode: Inode, call: Call) -> Step:
        """xfs_vn_setattr: xfs_ilock(XFS_IOLOCK_EXCL); xfs_setattr_size: inode_dio_wait, truncate_setsize."""
        name = "xfs_vn_setattr: xfs_ilock(XFS_IOLOCK_EXCL)"
        return Step(name, LOCK_EXCLUSIVE | FALLOCATE_EDGE, self._truncate_locked, inode.unlocked)

    def _truncate_locked(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        inode.locked = True
        name = "xfs_setattr_size: inode_dio_wait, truncate_setsize"
        return Step(name, applying(call), lambda inode, call: self._apply(inode, call, call.offset), inode.idle)

    def _apply(self, inode: Inode, call: Call, size: int | None) -> int:
        """xfs_free_file_space or xfs_alloc_file_space; xfs_vn_setattr_size, if there is a new size; xfs_iunlock."""
        if call.flags & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE):
            inode.zero(call.offset, call.behind)
        if size is not None:
            call.applies(inode)
            inode.set_size(size)
        inode.locked = False
        return 0


def _needs_exclusive(inode: Inode, call: Call) -> bool:
    return bool((call.offset | call.length) % FS_BLOCK) or call.offset > inode.size


def new_size(inode: Inode, call: Call) -> int | None:
    """The size that a fallocate will set, from the i_size of now; None: it sets none."""
    keeps = call.flags & FALLOC_FL_KEEP_SIZE or call.behind <= inode.size
    return None if keeps else call.behind


def applying(call: Call) -> int:
    """What the last step of a fallocate or truncate touches."""
    touch = DIO_WAIT | LOCK_EXCLUSIVE | FALLOCATE_EDGE | SIZE_READ
    if not call.flags & FALLOC_FL_KEEP_SIZE:
        touch |= SIZE_SET | CONTENT  # a size that falls frees whatever lies behind it
    return touch | content_written(call.offset, call.length)
