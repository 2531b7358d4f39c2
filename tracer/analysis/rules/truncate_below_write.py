"""A truncate in the kernel together with a write that ends behind the new size: the general form of the race.

Where the kernel does not wait for the write, its blocks are freed under it (ext4 before 1f555cfa29e8, v3.7).
"""

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.overlaps import sequence_ends, was_seen
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity, prose
from tracer.analysis.sides import acknowledged, data_writes, ends, in_effect_by, took_place, written_ends
from tracer.operations import WRITES, Op


class TruncateBelowWrite(PairRule):
    """first: the truncate; second: the write that ends behind the new size."""

    id = "truncate-below-write"
    severity = Severity.DATA_LOSS
    title = "truncate below a write that is in flight"
    explanation = prose("""
        A truncate cuts off all that lies behind the new size. If a write that ends behind it is in the kernel at the
        same time, chance decides whether it is cut off, too, or makes the file longer again with a hole in between.
        Whoever asked for the truncate could not know of the write's data: it was acknowledged later. That is the
        general form of the XFS race: a new size, computed from what the file looked like before the write, is set after
        it. A kernel that does not wait for direct I/O before it frees blocks makes it worse: the write then lands in
        blocks that belong to somebody else (ext4 before Linux 3.7, 1f555cfa29e8).
    """)
    argument = prose("""
        To cut off what was written and acknowledged before is what truncating is for, and no pair: the truncate has to
        begin before the write was acknowledged. Then either order is wrong for somebody: for the writer, whose data is
        gone, or for the one who truncated, whose file is longer than he asked for. A truncate to a size at or behind
        the write's end takes nothing from it, and is no pair either; nor are the truncates of an emulated fallocate.
    """)
    lost = prose("""
        The write was acknowledged before the truncate ended, and then the file had the new size, below the write's end;
        or XFS was seen to set the size from behind the write's end to before it, after the write had been done.
    """)
    serialised = "The truncate was seen to take effect before the write began, so that the write's data stands."
    watched = ""
    needs = frozenset({Op.TRUNCATE, *WRITES})
    reads = frozenset(
        {"t_begin", "t_end", "t_applied", "offset", "length", "result", "size_after", "t_effect", "cut_to"}
    )
    commits = (
        Commit("Linux", "1f555cfa29e8", "fixed in v3.7", "ext4: serialize truncate with owerwrite DIO workers"),
        Commit("Linux", "249bd9087a52", "fixed in v5.5", "xfs: properly serialise fallocate against AIO+DIO"),
    )
    example = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 64 * K, 64 * K),
            operation(Op.TRUNCATE, 2, 4, 64 * K, size_begin=0, size_end=64 * K),
        ),
        "the write was acknowledged while the file was being truncated, and is cut off",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 2, 64 * K, 64 * K),
            operation(Op.TRUNCATE, 3, 4, 64 * K, size_begin=128 * K, size_end=64 * K),
        ),
        "the write had been acknowledged when the truncate began: that is what truncating is for",
    )

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Truncates, O_TRUNC among them."""
        return np.asarray((ops["op"] == Op.TRUNCATE) & took_place(ops))

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Writes of data."""
        return data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs in which the write ends behind the size (the truncate's offset) that is set."""
        new_size, written = first["offset"], written_ends(second)
        behind = ends(second) > new_size
        ended_first = second["seq_end"] < sequence_ends(first)
        # Exactly the new size: one that is smaller still is another truncate's work.
        found_cut = ended_first & (first["size_after"] == new_size) & (written > new_size)
        seen_to_cut = (first["cut_to"] < written) & (in_effect_by(second) <= first["t_effect"])
        lost = acknowledged(second) & (found_cut | seen_to_cut)
        stands = was_seen(first["t_effect"]) & (first["t_effect"] <= second["t_begin"])
        outcome = np.where(lost, Outcome.LOST, np.where(stands, Outcome.KERNEL_SERIALISED, Outcome.EXPOSED))
        return np.where(behind, outcome, 0).astype(np.uint8)


RULE = TruncateBelowWrite()
