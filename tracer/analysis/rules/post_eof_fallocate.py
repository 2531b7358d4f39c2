"""A size-extending fallocate in the kernel together with a write behind it.

XFS before 249bd9087a52 ("xfs: properly serialise fallocate against AIO+DIO", v5.5; 5.4.y: 36f11775da75)
computed the new size of `xfs_file_fallocate()` before it waited for direct I/O in flight: a write that
completed in between, behind the fallocated range, was cut off again. OpenZFS loses appending writes in
the same way (issue 11797). Correct kernels order the two themselves; then a pair is exposed, and nothing
is lost.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tracer.analysis.emulation import Effects, effects
from tracer.analysis.overlaps import I64, dense_groups, overlapping, range_ends, sequence_ends
from tracer.analysis.rules import Outcome, Rule, RulePairs, Severity
from tracer.operations import FALLOC_FL_KEEP_SIZE, NONE_SIZE, WRITES, Op, Operations


class PostEofFallocate(Rule):
    """first: the post-EOF fallocate F; second: the write W that ends beyond F's end."""

    id = "post-eof-fallocate"
    severity = Severity.DATA_LOSS
    title = "fallocate beyond the end of a file while a write behind it is in flight"
    explanation = (
        "A fallocate that extends a file sets the file's size to its own end. If a write that ends further"
        " behind completes after the fallocate has computed that size and before it sets it, the new size"
        " truncates the file, and the write, already acknowledged, is gone. XFS did this before Linux 5.5"
        " (249bd9087a52), OpenZFS does it today (issue 11797). QEMU keeps the two apart since 4.2"
        " (292d06b925b2): a zero-write beyond the end of the file waits for the writes in flight, and later"
        " writes wait for it."
    )
    needs = frozenset({Op.FALLOCATE, *WRITES})

    def chunks(self, ops: Operations) -> Iterator[RulePairs]:
        """Yield pairs (F, W) of one inode that were in the kernel together; see `Rule.chunks`."""
        what = effects(ops)
        fallocates = np.flatnonzero(_post_eof(ops, what))
        writes = np.flatnonzero(data_writes(ops))
        if not len(fallocates) or not len(writes):
            return
        ends = range_ends(ops["offset"], ops["length"])
        begin, end = ops["seq_begin"], sequence_ends(ops)
        rows = np.concatenate([fallocates, writes])
        groups = dense_groups(ops["dev"][rows], ops["ino"][rows])
        for i, j in overlapping(
            begin[fallocates],
            end[fallocates],
            begin[writes],
            end[writes],
            group_a=groups[: len(fallocates)],
            group_b=groups[len(fallocates) :],
        ):
            f, w = fallocates[i], writes[j]
            behind = ends[w] > ends[f]
            if behind.any():
                f, w = f[behind], w[behind]
                yield RulePairs(f, w, _outcomes(ops, what, f, w))


RULE = PostEofFallocate()


def data_writes(ops: Operations) -> npt.NDArray[np.bool_]:
    """Which operations (n,) are writes that put data into a file, or still may."""
    return np.asarray(np.isin(ops["op"], WRITES) & ((ops["result"] > 0) | (ops["seq_end"] == 0)))


def post_eof_fallocates(ops: Operations) -> npt.NDArray[np.bool_]:
    """Which operations (n,) are fallocates that extended their file, emulated ones counted once.

    A fallocate whose file's size was not seen counts: nobody can tell that it is harmless.
    """
    return _post_eof(ops, effects(ops))


def _post_eof(ops: Operations, what: Effects) -> npt.NDArray[np.bool_]:
    extends = range_ends(ops["offset"], ops["length"]) > ops["size_begin"]  # NONE_SIZE is below every end
    sets_size = (ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0
    took_place = (ops["result"] == 0) | (ops["seq_end"] == 0)
    kind = np.isin(ops["op"], (Op.FALLOCATE, Op.MARK_FALLOCATE)) & ~what.is_step
    return np.asarray(kind & took_place & sets_size & extends)


def _outcomes(ops: Operations, what: Effects, f: I64, w: I64) -> npt.NDArray[np.uint8]:
    """Outcome (k,) of each overlapping pair of a post-EOF fallocate and a write that ends behind it."""
    seq_end = sequence_ends(ops)
    acknowledged = (ops["result"][w] > 0) & (ops["seq_end"][w] != 0)
    written_end = range_ends(ops["offset"][w], ops["result"][w])
    write_ended_first = acknowledged & (seq_end[w] < seq_end[f])
    final = what.size_end[f]
    # An emulated fallocate truncates in a step of its own, and the kernel saw the size before it: a size
    # that was below the write's end already was cut by somebody else.
    cut = (final != NONE_SIZE) & (final < written_end) & (what.size_before[f] >= written_end)
    f_applied, w_applied = what.t_applied[f], ops["t_applied"][w]
    # Seen to cut while the size was set: then no later size matters, only that the write was there by then.
    w_effect = np.where(w_applied != 0, w_applied, ops["t_end"][w])
    seen_to_cut = acknowledged & (what.cut_to[f] < written_end) & (w_effect <= f_applied)
    lost = (write_ended_first & cut) | seen_to_cut
    write_came_first = (w_applied <= f_applied) & write_ended_first & (final >= written_end)
    fallocate_came_first = f_applied <= ops["t_begin"][w]
    safe = (f_applied != 0) & (w_applied != 0) & (write_came_first | fallocate_came_first) & ~lost
    return np.where(lost, Outcome.LOST, np.where(safe, Outcome.KERNEL_SERIALISED, Outcome.EXPOSED)).astype(np.uint8)
