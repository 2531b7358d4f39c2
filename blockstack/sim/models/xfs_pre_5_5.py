"""`xfs-pre-5.5`: XFS before 249bd9087a52 (v5.5; 5.4.y before 36f11775da75): i_size is sampled before the drain."""

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.sim.calls import Call, Step
from blockstack.sim.footprint import FALLOCATE_EDGE, LOCK_EXCLUSIVE, SIZE_READ
from blockstack.sim.inode import Inode
from blockstack.sim.models.xfs_fixed import XfsFixed, applying, new_size


class XfsPre55(XfsFixed):
    """The race that the thread is about."""

    name = "xfs-pre-5.5"
    since = "Linux 4.4 to 5.4 (fixed by 249bd9087a52)"

    def fallocate(self, inode: Inode, call: Call) -> Step:
        """xfs_file_fallocate of 5.4: new_size first, then what waits; it is set whatever i_size is by then."""
        touch = LOCK_EXCLUSIVE | FALLOCATE_EDGE | (0 if call.flags & FALLOC_FL_KEEP_SIZE else SIZE_READ)
        name = "xfs_file_fallocate: xfs_ilock(XFS_IOLOCK_EXCL), i_size_read"
        return Step(name, touch, self._sampled, inode.unlocked)

    def _sampled(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        inode.locked = True
        size = new_size(inode, call)
        # ZERO_RANGE, PUNCH_HOLE: xfs_free_file_space -> xfs_flush_unmap_range -> inode_dio_wait. Plain: nothing waits
        # before xfs_setattr_size does. Either way direct I/O has drained, and none can begin, when the size is set.
        if size is None and not call.flags & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE):
            name = "xfs_alloc_file_space, xfs_iunlock"
            return Step(name, LOCK_EXCLUSIVE | FALLOCATE_EDGE, lambda inode, call: self._apply(inode, call, None))
        name = "inode_dio_wait; space, xfs_vn_setattr_size(new size), xfs_iunlock"
        return Step(name, applying(call), lambda inode, call: self._apply(inode, call, size), inode.idle)
