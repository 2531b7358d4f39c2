"""A write that starts beyond the end of the file in the kernel together with a sub-block write in the block at the end.

The kernel zeroes what lies between the old end and where the write starts. XFS did so without waiting for direct I/O in
flight, which may be in the same block and may be moving the end (40c63fbc55a9; for good 3136e8bb305, v4.4).
"""

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity, prose
from tracer.analysis.sides import data_writes, direct_data_writes, done_before, ends
from tracer.operations import DIRECT_WRITES, Op

BLOCK = 4096
"""Bytes of a file system's block: what mkfs of XFS, ext4 and btrfs makes on x86-64 unless told."""


class EofBlockZeroing(PairRule):
    """first: the extending write, for which the kernel zeroes; second: the sub-block write in the old last block."""

    id = "eof-block-zeroing"
    severity = Severity.DATA_LOSS
    title = "a write starts beyond the end of a file while a sub-block write in its last block is in flight"
    explanation = prose("""
        When a write starts beyond the end of a file, the kernel first zeroes what it will leave between, beginning in
        the block in which the file ended. A direct write of less than a block that is in flight in that block may
        already be on the disk, and its data is zeroed, or it moves the end of the file while the kernel works with the
        old one. XFS did this to qcow2 images with aio=native until it learnt to wait for direct I/O first
        (40c63fbc55a9, and for writes that are not aligned 3136e8bb305 in Linux 4.4; fstests generic/114).
    """)
    argument = prose("""
        Neither write touches the other one's bytes, so an application has no reason to expect anything of it: that the
        kernel waits is all that protects it. It takes a write that starts behind the size the kernel had for it, and a
        direct write of less than a block in the block where that size lies. Whoever appends without leaving a gap, or
        writes whole blocks, as copies, databases and most guests do, makes no pair, however much he has in flight. Of
        a kernel that waits a pair is seen only where the size is the same afterwards: else the write starts at the end
        by the time the size is read.
    """)
    lost = ""
    serialised = "The I/O of one of them was seen to be over before the other one began."
    watched = ""
    needs = frozenset(DIRECT_WRITES)
    reads = frozenset({"t_begin", "t_applied", "offset", "length", "result", "size_begin"})
    commits = (
        Commit("Linux", "3136e8bb305", "fixed in v4.4", "xfs: always drain dio before extending aio write submission"),
        Commit("Linux", "40c63fbc55a9", "fixed in v4.1", "xfs: direct IO EOF zeroing needs to drain AIO"),
        Commit("fstests", "generic/114", "2015", "four adjacent 1 KiB writes past the end, in flight together"),
    )
    example = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 4 * K, 512),
            operation(Op.AIO_WRITE, 2, 4, 64 * K, 4 * K, size_begin=5 * K),
        ),
        "the file ends in the block to which the first write goes, and the second one has the rest of it zeroed",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 4 * K, 4 * K),
            operation(Op.AIO_WRITE, 2, 4, 64 * K, 4 * K, size_begin=5 * K),
        ),
        "the first write fills the block: nothing of it is left to be zeroed",
    )

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Writes that leave a gap behind the end of the file (NONE_SIZE: nobody knows)."""
        return data_writes(ops) & (ops["size_begin"] >= 0) & (ops["offset"] > ops["size_begin"])

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Direct writes. A buffered one holds the inode's lock, and the page's."""
        return direct_data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs in which second lies in the block of first's old end and does not fill it, nor reaches first."""
        block = first["size_begin"] // BLOCK * BLOCK
        start, end = second["offset"], ends(second)
        inside = (start < block + BLOCK) & (end > block)
        fills = (start <= block) & (end >= block + BLOCK)
        apart = end <= first["offset"]
        ordered = done_before(first, second) | done_before(second, first)
        outcome = np.where(ordered, Outcome.KERNEL_SERIALISED, Outcome.EXPOSED)
        return np.where(inside & ~fills & apart, outcome, 0).astype(np.uint8)


RULE = EofBlockZeroing()
