"""`xfs-pre-4.4`: XFS before 3136e8bb305 ("xfs: always drain dio before extending aio write submission", v4.4).

xfs_file_aio_write_checks waited for direct I/O only where it upgraded the lock. A write that is not aligned to blocks
has the lock exclusive from the start: it zeroed from an i_size that writes in flight had yet to raise, over their data.
These kernels have the race of fallocate, too.
"""

from blockstack.sim.calls import Call, Step
from blockstack.sim.footprint import CONTENT, DIO_BEGIN, DIO_WAIT, LOCK_EXCLUSIVE, SIZE_READ
from blockstack.sim.inode import Inode
from blockstack.sim.models.xfs_fixed import FS_BLOCK
from blockstack.sim.models.xfs_pre_5_5 import XfsPre55


class XfsPre44(XfsPre55):
    """Both races."""

    name = "xfs-pre-4.4"
    since = "Linux before 4.4 (3136e8bb305)"

    def _exclusive(self, inode: Inode, call: Call) -> Step:
        if not (call.offset | call.length) % FS_BLOCK:
            # The lock was shared: upgraded, and then inode_dio_wait before everything is checked anew.
            return super()._exclusive(inode, call)
        name = "io_submit: xfs_zero_eof, without a drain"
        return Step(name, SIZE_READ | LOCK_EXCLUSIVE | CONTENT, self._zero_eof)

    def _zero_eof(self, inode: Inode, call: Call) -> Step:
        inode.zero(inode.size, call.offset)
        # xfs_file_dio_aio_write: "If we are doing unaligned IO, wait for all other IO to drain".
        name = "io_submit: inode_dio_wait"
        return Step(name, DIO_WAIT | DIO_BEGIN | LOCK_EXCLUSIVE, self._unaligned_drained, inode.idle)

    def _unaligned_drained(self, inode: Inode, call: Call) -> Step:
        inode.locked = False
        return self._in_flight(inode, call)
