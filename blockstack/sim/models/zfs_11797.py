"""`zfs-11797`: OpenZFS 2.0 and 2.1 (issue #11797, open): a plain fallocate sets a size from an old i_size.

module/os/linux/zfs/zpl_file.c, module/zfs/zfs_vnops.c. zfs_write takes no inode lock. There are two sizes: z_size,
under the range lock, and i_size, which stat(2) and zpl_fallocate_common read; docs/findings/zfs.md has the order of
events as kprobes saw it. ZERO_RANGE is not supported (2.2 has it), so that QEMU punches a hole and allocates.
"""

import errno
import os

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from blockstack.sim.calls import Call, Step, Steps
from blockstack.sim.footprint import (
    CONTENT,
    FALLOCATE_EDGE,
    LOCK_EXCLUSIVE,
    SIZE_READ,
    SIZE_SET,
    WRITE_EDGE,
    content_written,
)
from blockstack.sim.inode import Inode
from blockstack.sim.models.base import FileSystem


class Zfs11797(FileSystem):
    """Reads of this model are bounded by i_size, as a program's that looks at st_size first."""

    name = "zfs-11797"
    file_system = "zfs"
    since = "OpenZFS 2.0 and 2.1 (#11797); plain fallocate to this day"

    def write(self, inode: Inode, call: Call) -> Steps:
        """zfs_write, synchronous within io_submit(2), in another thread than the fallocate."""
        yield Step("io_submit: zpl_iter_write", WRITE_EDGE | SIZE_READ)
        call.begins(inode)
        # Under zfs_rangelock_enter: dmu_write_uio, and z_size where the write extends the file.
        yield Step("zfs_write: data, z_size", content_written(call.offset, call.length) | SIZE_SET)
        inode.put(call.offset, call.data)
        inode.private_size = max(inode.private_size, call.behind)
        # Then zfs_znode_update_vfs: i_size is what z_size is by then.
        yield Step("zfs_write: zfs_znode_update_vfs", SIZE_SET | WRITE_EDGE)
        call.applies(inode)
        inode.set_size(inode.private_size)
        return call.length

    def fallocate(self, inode: Inode, call: Call) -> Steps:
        """zpl_fallocate_common."""
        mode = call.flags
        if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            yield Step("zpl_fallocate_common: EOPNOTSUPP", FALLOCATE_EDGE)
            call.begins(inode)
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        # spl_inode_lock(ip); olen = i_size_read(ip)
        yield Step(
            "zpl_fallocate_common: spl_inode_lock, i_size_read",
            LOCK_EXCLUSIVE | SIZE_READ | FALLOCATE_EDGE,
            inode.unlocked,
        )
        call.begins(inode)
        inode.locked = True
        old_size = inode.size
        yield Step("zfs_freesp", SIZE_SET | CONTENT | LOCK_EXCLUSIVE | FALLOCATE_EDGE)
        if mode & FALLOC_FL_PUNCH_HOLE:
            self._punch(inode, call, old_size)
        elif not mode & FALLOC_FL_KEEP_SIZE and call.behind > old_size:
            # zfs_freesp(offset + len, 0): zfs_extend, or zfs_trunc where a write has raised z_size meanwhile; then
            # truncate_setsize.
            call.applies(inode)
            inode.private_size = call.behind
            inode.set_size(call.behind)
        inode.locked = False
        return 0

    def _punch(self, inode: Inode, call: Call, old_size: int) -> None:
        """zfs_space(F_FREESP): cut to the i_size that was seen; a length of 0 frees all behind it (zfs_trunc)."""
        if call.offset > old_size:
            return
        length = min(call.length, old_size - call.offset)
        if length:
            inode.zero(call.offset, call.offset + length)
        elif call.offset < inode.private_size:
            call.applies(inode)
            inode.private_size = call.offset
            inode.set_size(call.offset)

    def truncate(self, inode: Inode, call: Call) -> Steps:
        """zpl_setattr -> zfs_setattr -> zfs_freesp."""
        yield Step("zpl_setattr: inode_lock", LOCK_EXCLUSIVE | FALLOCATE_EDGE, inode.unlocked)
        call.begins(inode)
        inode.locked = True
        yield Step("zfs_freesp, truncate_setsize", SIZE_SET | CONTENT | LOCK_EXCLUSIVE | FALLOCATE_EDGE)
        call.applies(inode)
        inode.private_size = call.offset
        inode.set_size(call.offset)
        inode.locked = False
        return 0
