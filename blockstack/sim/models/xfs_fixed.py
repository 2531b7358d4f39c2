"""`xfs-fixed`: XFS since Linux 5.5 (249bd9087a52, "xfs: properly serialise fallocate against AIO+DIO").

fs/xfs/xfs_file.c and fs/iomap/direct-io.c. The other XFS models are this one with a step at another place.
"""

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.sim.calls import Call, Step, Steps
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
    racy = False
    since = "Linux 5.5 (249bd9087a52), 5.4.y (36f11775da75)"

    def write(self, inode: Inode, call: Call) -> Steps:
        """xfs_file_dio_write_aligned, xfs_file_dio_write_unaligned (before 5.12 xfs_file_dio_aio_write)."""
        sub_block = bool((call.offset | call.length) % FS_BLOCK)

        def submission() -> int:
            touch = SIZE_READ | DIO_BEGIN | WRITE_EDGE
            return touch | (LOCK_EXCLUSIVE if sub_block or call.offset > inode.size else LOCK_SHARED)

        # io_submit -> xfs_file_write_iter: xfs_ilock_iocb(SHARED), and EXCL for what is not aligned to blocks;
        # xfs_file_write_checks upgrades to EXCL where the write begins beyond i_size.
        yield Step("io_submit: xfs_ilock, xfs_file_write_checks", submission, inode.unlocked)
        call.begins(inode)
        if sub_block or call.offset > inode.size:
            inode.locked = True
            yield from self._exclusive_submission(inode, call, sub_block)
            inode.locked = False  # xfs_ilock_demote, and xfs_iunlock when iomap_dio_rw has returned -EIOCBQUEUED
        inode.dio += 1  # __iomap_dio_rw: inode_dio_begin
        # The device writes; iomap_dio_bio_end_io comes at some time later.
        yield Step("the data is on the disk", content_written(call.offset, call.length))
        inode.put(call.offset, call.data)
        # iomap_dio_complete: xfs_dio_write_end_io raises i_size, then inode_dio_end, then ki_complete (aio_complete).
        yield Step("iomap_dio_complete: xfs_dio_write_end_io, inode_dio_end", SIZE_MAX | DIO_END | WRITE_EDGE)
        call.applies(inode)
        inode.raise_size(call.behind)
        inode.dio -= 1
        return call.length

    def _exclusive_submission(self, inode: Inode, call: Call, sub_block: bool) -> Steps:
        """With the lock exclusive: drain, then zero from i_size to the write (3136e8bb305, 4.4: always drain)."""
        yield Step(
            "io_submit: inode_dio_wait, iomap_zero_range",
            DIO_WAIT | DIO_BEGIN | SIZE_READ | LOCK_EXCLUSIVE | CONTENT,
            inode.idle,
        )
        inode.zero(inode.size, call.offset)
        return 0

    def fallocate(self, inode: Inode, call: Call) -> Steps:
        """xfs_file_fallocate: xfs_ilock(XFS_IOLOCK_EXCL), xfs_break_layouts, inode_dio_wait, and only then i_size."""
        yield Step("xfs_file_fallocate: xfs_ilock(XFS_IOLOCK_EXCL)", LOCK_EXCLUSIVE | FALLOCATE_EDGE, inode.unlocked)
        call.begins(inode)
        inode.locked = True
        # Nothing is in flight and nobody can begin: the rest is one moment for all others.
        yield Step("inode_dio_wait; new size, space, xfs_setattr_size, xfs_iunlock", applying(call), inode.idle)
        self._allocate(inode, call)
        self._set_size(inode, call, new_size(inode, call))
        inode.locked = False
        return 0

    def truncate(self, inode: Inode, call: Call) -> Steps:
        """xfs_vn_setattr: xfs_ilock(XFS_IOLOCK_EXCL); xfs_setattr_size: inode_dio_wait, truncate_setsize."""
        yield Step("xfs_vn_setattr: xfs_ilock(XFS_IOLOCK_EXCL)", LOCK_EXCLUSIVE | FALLOCATE_EDGE, inode.unlocked)
        call.begins(inode)
        inode.locked = True
        yield Step("xfs_setattr_size: inode_dio_wait, truncate_setsize", applying(call), inode.idle)
        self._set_size(inode, call, call.offset)
        inode.locked = False
        return 0

    def _allocate(self, inode: Inode, call: Call) -> None:
        """xfs_free_file_space (punch: to i_size; zero range: all of it), xfs_alloc_file_space."""
        if call.flags & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE):
            inode.zero(call.offset, call.behind)

    def _set_size(self, inode: Inode, call: Call, size: int | None) -> None:
        """xfs_vn_setattr_size(new_size) at the end of xfs_file_fallocate."""
        if size is not None:
            call.applies(inode)
            inode.set_size(size)


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
