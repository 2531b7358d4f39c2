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
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.overlaps import sequence_ends, was_seen
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity, prose
from tracer.analysis.sides import acknowledged, data_writes, ends, in_effect_by, took_place, written_ends
from tracer.operations import FALLOC_FL_KEEP_SIZE, FALLOCATES, NONE_SIZE, WRITES, Op, Operations, among


class PostEofFallocate(PairRule):
    """first: the post-EOF fallocate F; second: the write W that ends beyond F's end."""

    id = "post-eof-fallocate"
    severity = Severity.DATA_LOSS
    title = "fallocate beyond the end of a file while a write behind it is in flight"
    explanation = prose("""
        A fallocate that extends a file sets the file's size to its own end. If a write that ends further behind
        completes after the fallocate has computed that size and before it sets it, the new size truncates the file, and
        the write, already acknowledged, is gone. XFS did this before Linux 5.5 (249bd9087a52), OpenZFS does it today
        (issue 11797). QEMU keeps the two apart since 4.2 (292d06b925b2): a zero-write beyond the end of the file waits
        for the writes in flight, and later writes wait for it.
    """)
    argument = prose("""
        In neither order could the two cost the write its data: that it depends on the kernel is the hazard. It takes a
        fallocate that extends the file, by the size that the kernel had when it began, and a write that ends behind the
        fallocate's end. Who preallocates a file before writing to it (file copies, log files of databases) has no write
        in flight at that time; who preallocates piece by piece, and waits for each fallocate before writing behind it,
        neither.
    """)
    lost = prose("""
        The write was acknowledged before the fallocate ended, and then the size lay below the write's end, with no
        truncate and no collapse range that anybody was in since the write began, in a trace that lacks nothing and
        nobody (--path); or XFS was seen to set the size from behind the write's end to before it.
    """)
    serialised = prose("""
        The write was seen to take effect first, and the size stayed behind its end; or the fallocate was seen to take
        effect before the write began.
    """)
    watched = "A table of the post-EOF fallocates in flight is all that it takes, and those are few."
    needs = frozenset({Op.FALLOCATE, *WRITES})
    reads = frozenset(
        {"t_begin", "t_end", "t_applied", "offset", "length", "size_begin", "result", "flags"}
        | {"size_before", "size_after", "t_effect", "cut_to", "shortened_until"}
    )
    commits = (
        Commit("Linux", "249bd9087a52", "fixed in v5.5", "xfs: properly serialise fallocate against AIO+DIO"),
        Commit("Linux", "36f11775da75", "fixed in v5.4.y", "the same, in the stable series"),
        Commit("OpenZFS", "#11797", "open; seen on 2.3.2", "an appending write is cut off by a fallocate below it"),
        Commit("QEMU", "292d06b925b2", "worked around in v4.2", "block/file-posix: Let post-EOF fallocate serialize"),
    )
    example = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 64 * K, 64 * K),
            operation(Op.FALLOCATE, 2, 4, 0, 64 * K, size_begin=0, size_end=64 * K),
        ),
        "the file was empty when the fallocate began, and ends where the fallocate ends: the write, acknowledged"
        " meanwhile, is cut off",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 64 * K, 64 * K),
            operation(Op.FALLOCATE, 4, 5, 0, 64 * K, size_begin=128 * K, size_end=128 * K),
        ),
        "the fallocate waited for the write, so that it does not extend the file any more",
    )

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Fallocates that extend their file."""
        return _post_eof(ops)

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Writes of data."""
        return data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs of a post-EOF fallocate and a write that ends behind it."""
        behind = ends(second) > ends(first)
        outcome = np.zeros(len(first), np.uint8)
        outcome[behind] = self._outcomes(first.take(behind), second.take(behind))
        return outcome

    def _outcomes(self, f: Columns, w: Columns) -> npt.NDArray[np.uint8]:
        """Outcome (k,) of each overlapping pair of a post-EOF fallocate and a write that ends behind it."""
        written_end = written_ends(w)
        write_ended_first = acknowledged(w) & (w["seq_end"] < sequence_ends(f))
        final = f["size_after"]
        # An emulated fallocate truncates in a step of its own, and the kernel saw the size before it: a size
        # that was below the write's end already was cut by somebody else.
        cut = (final != NONE_SIZE) & (final < written_end) & (f["size_before"] >= written_end)
        cut &= f["shortened_until"] < w["seq_begin"]
        f_applied, w_applied = f["t_effect"], w["t_applied"]
        # Seen to cut while the size was set: then no later size matters, only that the write was there by then.
        seen_to_cut = acknowledged(w) & (f["cut_to"] < written_end) & (in_effect_by(w) <= f_applied)
        lost = (write_ended_first & cut) | seen_to_cut
        write_came_first = (w_applied <= f_applied) & write_ended_first & (final >= written_end)
        fallocate_came_first = f_applied <= w["t_begin"]
        safe = was_seen(f_applied) & was_seen(w_applied) & (write_came_first | fallocate_came_first) & ~lost
        return np.where(lost, Outcome.LOST, np.where(safe, Outcome.KERNEL_SERIALISED, Outcome.EXPOSED)).astype(np.uint8)


RULE = PostEofFallocate()


def post_eof_fallocates(ops: Operations) -> npt.NDArray[np.bool_]:
    """Which operations (n,) are fallocates that extended their file, emulated ones counted once.

    A fallocate whose file's size was not seen counts: nobody can tell that it is harmless.
    """
    return np.asarray(_post_eof(ops) & ~effects(ops).is_step)


def _post_eof(ops: Operations | Columns) -> npt.NDArray[np.bool_]:
    extends = ends(ops) > ops["size_begin"]  # NONE_SIZE is below every end
    sets_size = (ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0
    return np.asarray(among(ops["op"], FALLOCATES) & took_place(ops) & sets_size & extends)
