"""Two direct writes to the same bytes in the kernel together.

Nothing orders them: XFS lets aligned ones run side by side on purpose (eda77982729b, v2.6.38). QEMU tracks its requests
to prevent it (dbffbdcfff69).
"""

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity, prose
from tracer.analysis.sides import direct_data_writes, done_before, ends
from tracer.operations import DIRECT_WRITES, Op


class OverlappingWrites(PairRule):
    """first: the write that began first; second: the other one."""

    id = "overlapping-writes"
    severity = Severity.SUSPICIOUS
    title = "two direct writes to the same bytes in flight together"
    explanation = prose("""
        Direct writes to the same bytes that are in flight together may end up on the disk in either order, and mixed,
        sector by sector: neither kernel nor disk promises anything (XFS calls the result undefined, and lets them race:
        eda77982729b). Two copies, such as the legs of a mirror, may each keep another one.
        Where one of them does not fill its blocks, their zeroing has cost data as well (ext4 before Linux 5.2,
        57a0da28ced8). A guest's file system never does it; a driver that does has lost track of what it has in flight.
        fio does, if it is told to forget which blocks it has written, and has an option against it
        (serialize_overlap).
    """)
    argument = prose("""
        The severity is suspicious, because the trace does not know what was written: the same bytes twice, or load
        that nobody reads, do no harm. That is still for somebody to say (--ignore, --baseline). Buffered writes are no
        pair: on XFS, ext4 and btrfs each of them holds the inode's lock. Writes side by side are none
        either, and reads are not in a trace.
    """)
    lost = ""
    serialised = "The I/O of the first was seen to be over before the second one began."
    watched = ""
    needs = frozenset(DIRECT_WRITES)
    reads = frozenset({"t_begin", "t_applied", "offset", "length", "result"})
    commits = (
        Commit("Linux", "eda77982729b", "v2.6.38", "xfs: serialise unaligned direct IOs (and why not aligned ones)"),
        Commit(
            "Linux",
            "57a0da28ced8",
            "fixed in v5.2",
            "ext4: fix data corruption caused by overlapping unaligned and aligned IO",
        ),
        Commit("QEMU", "dbffbdcfff69", "since 2011", "block: add request tracking"),
        Commit("fio", "#343", "since 2017", "Add serialize_overlap option"),
    )
    example = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 0, 64 * K),
            operation(Op.AIO_WRITE, 2, 4, 60 * K, 64 * K),
        ),
        "the last 4 KiB of the first are the first 4 KiB of the second",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 0, 64 * K),
            operation(Op.AIO_WRITE, 2, 4, 64 * K, 64 * K),
        ),
        "one begins where the other one ends",
    )
    symmetric = True

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Direct writes."""
        return direct_data_writes(ops)

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Direct writes."""
        return direct_data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs that have a byte in common."""
        common = (first["offset"] < ends(second)) & (second["offset"] < ends(first))
        outcome = np.where(done_before(first, second), Outcome.KERNEL_SERIALISED, Outcome.EXPOSED)
        return np.where(common, outcome, 0).astype(np.uint8)


RULE = OverlappingWrites()
