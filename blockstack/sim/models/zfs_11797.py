"""`zfs-11797`: OpenZFS 2.0 and 2.1 (issue #11797, open): a plain fallocate sets a size from an old i_size.

module/os/linux/zfs/zpl_file.c, module/zfs/zfs_vnops.c. zfs_write takes no inode lock. There are two sizes: z_size,
under the range lock, and i_size, which stat(2) and zpl_fallocate_common read; docs/findings/zfs.md has the order of
events as kprobes saw it. ZERO_RANGE is not supported (2.2 has it), so that QEMU punches a hole and allocates.
"""

import errno

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from blockstack.sim.calls import Call, Step
from blockstack.sim.footprint import (
    CONTENT,
    FALLOCATE_EDGE,
    LOCK_EXCLUSIVE,
    PRIVATE_MAX,
    PUBLISH,
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

    def write(self, inode: Inode, call: Call) -> Step:
        """zfs_write, synchronous within io_submit(2), in another thread than the fallocate."""
        return Step("io_submit: zpl_iter_write", WRITE_EDGE, self._write)

    def _write(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        touch = content_written(call.offset, call.length) | PRIVATE_MAX
        return Step("zfs_write: data, z_size", touch, self._written)

    def _written(self, inode: Inode, call: Call) -> Step:
        """Under zfs_rangelock_enter: dmu_write_uio, and z_size where the write extends the file."""
        inode.put(call.offset, call.data)
        inode.private_size = max(inode.private_size, call.behind)
        return Step("zfs_write: zfs_znode_update_vfs", PUBLISH | WRITE_EDGE, self._update_vfs)

    def _update_vfs(self, inode: Inode, call: Call) -> int:
        """i_size is what z_size is by then."""
        call.applies(inode)
        inode.set_size(inode.private_size)
        return call.length

    def fallocate(self, inode: Inode, call: Call) -> Step:
        """zpl_fallocate_common."""
        if call.flags & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
            return Step("zpl_fallocate_common: EOPNOTSUPP", FALLOCATE_EDGE, self._refuse)
        return Step(
            "zpl_fallocate_common: spl_inode_lock, olen = i_size_read",
            LOCK_EXCLUSIVE | SIZE_READ | FALLOCATE_EDGE,
            self._sampled,
            inode.unlocked,
        )

    def _refuse(self, inode: Inode, call: Call) -> int:
        call.begins(inode)
        return -errno.EOPNOTSUPP

    def _sampled(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        inode.locked = True
        old_size = inode.size

        def free_space(inode: Inode, call: Call) -> int:
            if call.flags & FALLOC_FL_PUNCH_HOLE:
                self._punch(inode, call, old_size)
            elif not call.flags & FALLOC_FL_KEEP_SIZE and call.behind > old_size:
                # zfs_freesp(offset + len, 0): zfs_extend, or zfs_trunc where a write has raised z_size meanwhile; then
                # truncate_setsize.
                self._set_both(inode, call, call.behind)
            inode.locked = False
            return 0

        return Step("zfs_freesp, spl_inode_unlock", SIZE_SET | CONTENT | LOCK_EXCLUSIVE | FALLOCATE_EDGE, free_space)

    def _punch(self, inode: Inode, call: Call, old_size: int) -> None:
        """zfs_space(F_FREESP): cut to the i_size that was seen; a length of 0 frees all behind it (zfs_trunc)."""
        length = min(call.length, old_size - call.offset)
        if length > 0:
            inode.zero(call.offset, call.offset + length)
        elif length == 0 and call.offset < inode.private_size:
            self._set_both(inode, call, call.offset)

    def truncate(self, inode: Inode, call: Call) -> Step:
        """zpl_setattr -> zfs_setattr -> zfs_freesp, truncate_setsize, under the inode lock."""
        touch = SIZE_SET | CONTENT | LOCK_EXCLUSIVE | FALLOCATE_EDGE
        return Step("zpl_setattr: zfs_freesp, truncate_setsize", touch, self._truncate, inode.unlocked)

    def _truncate(self, inode: Inode, call: Call) -> int:
        call.begins(inode)
        self._set_both(inode, call, call.offset)
        return 0

    def _set_both(self, inode: Inode, call: Call, size: int) -> None:
        call.applies(inode)
        inode.private_size = size
        inode.set_size(size)
