"""What a trace may lack: what is not in it happened all the same, perhaps."""

from collections.abc import Collection, Iterable

from tracer.operations import Op
from tracer.trace_meta import TraceMeta

OTHER_PROCESSES = "other processes"
"""The gap of a trace by process: what others do to the same files is not in it."""

ADVISORY_HOOKS = frozenset(
    {
        OTHER_PROCESSES,
        "xfs_file_fallocate",  # fallocate(2) is seen at the system call; io_uring's is a kind of its own
        "xfs_end_io_direct_write",
        "xfs_alloc_file_space",
        "xfs_zero_file_space",
        "xfs_free_file_space",
        "xfs_setattr",
        "xfs_zero_eof",
        "xfs_itruncate_extents_start",
    }
)
"""Gaps that hide no operation that was to be recorded. Without `t_applied` no pair can be called kernel-serialised, and
without `size_applied` a cut that a later write hides goes unseen, as in traces before it; that is all."""


def essential_gaps(gaps: Iterable[str], needed: Collection[Op]) -> list[str]:
    """Hooks that are missing and that tell of operations of the needed kinds; a name that is no kind of operation
    counts.
    """
    harmless = {op.label for op in set(Op) - set(needed)} | ADVISORY_HOOKS
    return sorted(set(gaps) - harmless)


def is_complete(meta: TraceMeta, needed: Collection[Op]) -> bool:
    """Whether an operation of these kinds that is not in a trace did not happen to its files while it was recorded."""
    misses_somebody = OTHER_PROCESSES in meta.gaps or essential_gaps(meta.gaps, needed)
    return not (meta.dropped or misses_somebody or meta.part is not None)


def all_shortenings_are_seen(meta: TraceMeta) -> bool:
    """Whether a file of a trace was made shorter by nothing that is not in it."""
    return is_complete(meta, (Op.FALLOCATE, Op.TRUNCATE))
