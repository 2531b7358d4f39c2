"""`xfs-pre-5.5`: XFS before 249bd9087a52 (v5.5; 5.4.y before 36f11775da75): i_size is sampled before the drain."""

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE
from blockstack.sim.calls import Call, Step, Steps
from blockstack.sim.footprint import FALLOCATE_EDGE, LOCK_EXCLUSIVE, SIZE_READ
from blockstack.sim.inode import Inode
from blockstack.sim.models.xfs_fixed import XfsFixed, applying, new_size


class XfsPre55(XfsFixed):
    """The race that the thread is about."""

    name = "xfs-pre-5.5"
    racy = True
    since = "Linux 4.4 to 5.4 (fixed by 249bd9087a52)"

    def fallocate(self, inode: Inode, call: Call) -> Steps:
        """xfs_file_fallocate of 5.4: new_size first, then what waits; it is set whatever i_size is by then."""
        touch = LOCK_EXCLUSIVE | FALLOCATE_EDGE
        if not call.flags & FALLOC_FL_KEEP_SIZE:
            touch |= SIZE_READ
        yield Step("xfs_file_fallocate: xfs_ilock(XFS_IOLOCK_EXCL), i_size_read", touch, inode.unlocked)
        call.begins(inode)
        inode.locked = True
        size = new_size(inode, call)
        # ZERO_RANGE, PUNCH_HOLE: xfs_free_file_space -> xfs_flush_unmap_range -> inode_dio_wait. Plain: nothing waits
        # before xfs_setattr_size does. Either way direct I/O has drained, and none can begin, when the size is set.
        yield Step("inode_dio_wait; space, xfs_vn_setattr_size(new size), xfs_iunlock", applying(call), inode.idle)
        self._allocate(inode, call)
        self._set_size(inode, call, size)
        inode.locked = False
        return 0
