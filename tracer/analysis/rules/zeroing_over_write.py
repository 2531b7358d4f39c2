"""A fallocate that takes data away (zero range, punch hole, collapse, insert) together with a write to its bytes.

File systems order the two by locks and by waiting for direct I/O: ext4's punch hole since 02d262dffcf4 (v3.7), XFS in
every mode since 249bd9087a52 (v5.5). Which of the two comes first is left to chance, and one order costs the write.
"""

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.overlaps import I64, MAX_BYTE, was_seen
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity, prose
from tracer.analysis.sides import acknowledged, data_writes, ends, in_effect_by, may_have_changed_data, took_place
from tracer.operations import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    FALLOCATES,
    WRITES,
    Op,
    among,
)

_MOVES = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE
_DISPLACES = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | _MOVES


class ZeroingOverWrite(PairRule):
    """first: the fallocate; second: the write to bytes that it zeroes, frees or moves."""

    id = "zeroing-over-write"
    severity = Severity.DATA_LOSS
    title = "zero range or punch hole while a write to the same bytes is in flight"
    explanation = prose("""
        A zero range or a punch hole (and a collapse or insert range, which moves all that lies behind) takes away what
        was at its bytes. If a write to the same bytes is in the kernel at the same time, chance decides which of the
        two comes last; where the fallocate does, the write was acknowledged and its data is gone. The usual way there
        is an allocator that frees a range and gives it to the next one before the hole was punched:
        cloud-hypervisor lost guest data like that (pull request 8624), a delayed punch hole hit a cluster that had
        become an L2 table meanwhile. A kernel that does not wait for direct I/O before it frees blocks makes it worse:
        the write then lands in blocks that belong to somebody else.
    """)
    argument = prose("""
        Nobody who wants to keep what he writes asks for its removal at the same time, and who wants it gone need not
        write it. To zero or to punch what was written and acknowledged before is what discards and log rotation do all
        the time, and is no pair: the fallocate has to begin before the write was acknowledged. Neither is a plain
        fallocate, which leaves data alone, nor one whose bytes the write does not touch. One that fails, for want
        of space, say, counts if XFS was seen to begin: it frees what it is to zero first.
    """)
    lost = prose("""
        The write was acknowledged, and XFS was seen to begin to free or zero the blocks, with all writers locked out,
        after the write had been done. What a collapse or insert range only moves is never called lost, nor what one did
        that failed.
    """)
    serialised = "The fallocate was seen to take effect before the write began, so that the write's data stands."
    watched = ""
    needs = frozenset({Op.FALLOCATE, *WRITES})
    reads = frozenset({"t_begin", "t_end", "t_applied", "offset", "length", "result", "flags", "t_effect"})
    commits = (
        Commit(
            "cloud-hypervisor", "#8624", "fixed in July 2026", "block: Prevent QCOW data loss from stale punch-hole"
        ),
        Commit("Linux", "02d262dffcf4", "fixed in v3.7", "ext4: punch_hole should wait for DIO writers"),
        Commit("Linux", "249bd9087a52", "fixed in v5.5", "xfs: properly serialise fallocate against AIO+DIO"),
        Commit("Linux", "CVE-2024-40943", "fixed in 2024", "ocfs2: fix races between hole punching and AIO+DIO"),
    )
    example = ExampleTrace(
        (
            operation(
                Op.FALLOCATE,
                1,
                4,
                0,
                64 * K,
                flags=FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                t_applied=3500,
            ),
            operation(Op.AIO_WRITE, 2, 3, 32 * K, 4 * K),
        ),
        "the hole was asked for first and punched last: what was written and acknowledged in between is gone",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 2, 32 * K, 4 * K),
            operation(Op.FALLOCATE, 3, 4, 0, 64 * K, flags=FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
        ),
        "the write had been acknowledged when the hole was asked for: that is how data is discarded",
    )

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Fallocates that do not leave data where it is."""
        return np.asarray(
            among(ops["op"], FALLOCATES) & ((ops["flags"] & _DISPLACES) != 0) & may_have_changed_data(ops)
        )

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Writes of data."""
        return data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs that have a byte in common."""
        common = (first["offset"] < ends(second)) & (second["offset"] < _displaced_ends(first))
        known = was_seen(first["t_effect"])
        came_last = known & acknowledged(second) & (in_effect_by(second) <= first["t_effect"])
        wiped = came_last & took_place(first) & _takes_away(first, second)
        stands = known & (first["t_effect"] <= second["t_begin"]) & ~came_last
        outcome = np.where(wiped, Outcome.LOST, np.where(stands, Outcome.KERNEL_SERIALISED, Outcome.EXPOSED))
        return np.where(common, outcome, 0).astype(np.uint8)


RULE = ZeroingOverWrite()


def _displaced_ends(fallocates: Columns) -> I64:
    """First byte behind those that each fallocate (k,) displaces."""
    return np.where((fallocates["flags"] & _MOVES) != 0, MAX_BYTE, ends(fallocates))


def _takes_away(fallocates: Columns, writes: Columns) -> npt.NDArray[np.bool_]:
    """Of which pairs (k,) with a byte in common the fallocate does not only move it."""
    inserts = (fallocates["flags"] & FALLOC_FL_INSERT_RANGE) != 0
    return np.asarray(~inserts & (writes["offset"] < ends(fallocates)))
