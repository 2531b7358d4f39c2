"""A size-extending fallocate in the kernel together with a write behind it.

XFS before 249bd9087a52 ("xfs: properly serialise fallocate against AIO+DIO", v5.5; 5.4.y: 36f11775da75)
computed the new size of `xfs_file_fallocate()` before it waited for direct I/O in flight: a write that
completed in between, behind the fallocated range, was cut off again. OpenZFS loses appending writes in
the same way (issue 11797). Correct kernels order the two themselves; then a pair is exposed, and nothing
is lost.
"""

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.emulation import effects
from tracer.analysis.overlaps import range_ends, sequence_ends
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity
from tracer.operations import FALLOC_FL_KEEP_SIZE, NONE_SIZE, WRITES, Op, Operations


class PostEofFallocate(PairRule):
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

    reads = frozenset(
        {"t_begin", "t_end", "t_applied", "offset", "length", "size_begin", "result", "flags"}
        | {"size_before", "size_after", "t_effect", "cut_to"}
    )
    commits = (
        Commit("linux", "249bd9087a52", "v5.5", "xfs: properly serialise fallocate against AIO+DIO"),
        Commit("linux", "36f11775da75", "v5.4.y", "xfs: properly serialise fallocate against AIO+DIO"),
        Commit("openzfs", "#11797", "2.3.2", "an appending write is cut off by a fallocate below it"),
        Commit("qemu", "292d06b925b2", "v4.2", "block/file-posix: Let post-EOF fallocate serialize"),
    )

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Fallocates that extend their file."""
        return _post_eof(ops)

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Writes of data."""
        return data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs of a post-EOF fallocate and a write that ends behind it."""
        behind = range_ends(second["offset"], second["length"]) > range_ends(first["offset"], first["length"])
        outcome = np.zeros(len(first), np.uint8)
        outcome[behind] = _outcomes(first.take(behind), second.take(behind))
        return outcome


RULE = PostEofFallocate()


def data_writes(ops: Operations | Columns) -> npt.NDArray[np.bool_]:
    """Which operations (n,) are writes that put data into a file, or still may."""
    return np.asarray(np.isin(ops["op"], WRITES) & ((ops["result"] > 0) | (ops["seq_end"] == 0)))


def post_eof_fallocates(ops: Operations) -> npt.NDArray[np.bool_]:
    """Which operations (n,) are fallocates that extended their file, emulated ones counted once.

    A fallocate whose file's size was not seen counts: nobody can tell that it is harmless.
    """
    return np.asarray(_post_eof(ops) & ~effects(ops).is_step)


def _post_eof(ops: Operations | Columns) -> npt.NDArray[np.bool_]:
    extends = range_ends(ops["offset"], ops["length"]) > ops["size_begin"]  # NONE_SIZE is below every end
    sets_size = (ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0
    took_place = (ops["result"] == 0) | (ops["seq_end"] == 0)
    kind = np.isin(ops["op"], (Op.FALLOCATE, Op.MARK_FALLOCATE))
    return np.asarray(kind & took_place & sets_size & extends)


def _outcomes(f: Columns, w: Columns) -> npt.NDArray[np.uint8]:
    """Outcome (k,) of each overlapping pair of a post-EOF fallocate and a write that ends behind it."""
    acknowledged = (w["result"] > 0) & (w["seq_end"] != 0)
    written_end = range_ends(w["offset"], w["result"])
    write_ended_first = acknowledged & (w["seq_end"] < sequence_ends(f))
    final = f["size_after"]
    # An emulated fallocate truncates in a step of its own, and the kernel saw the size before it: a size
    # that was below the write's end already was cut by somebody else.
    cut = (final != NONE_SIZE) & (final < written_end) & (f["size_before"] >= written_end)
    f_applied, w_applied = f["t_effect"], w["t_applied"]
    # Seen to cut while the size was set: then no later size matters, only that the write was there by then.
    w_effect = np.where(w_applied != 0, w_applied, w["t_end"])
    seen_to_cut = acknowledged & (f["cut_to"] < written_end) & (w_effect <= f_applied)
    lost = (write_ended_first & cut) | seen_to_cut
    write_came_first = (w_applied <= f_applied) & write_ended_first & (final >= written_end)
    fallocate_came_first = f_applied <= w["t_begin"]
    safe = (f_applied != 0) & (w_applied != 0) & (write_came_first | fallocate_came_first) & ~lost
    return np.where(lost, Outcome.LOST, np.where(safe, Outcome.KERNEL_SERIALISED, Outcome.EXPOSED)).astype(np.uint8)
