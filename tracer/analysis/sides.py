"""What rules ask of the operations on the two sides of a pair, vectorised over n operations or k pairs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.overlaps import I64, ended, range_ends, was_seen
from tracer.operations import DIRECT_WRITES, WRITES, Operations, among

Mask = npt.NDArray[np.bool_]


def data_writes(ops: Operations | Columns) -> Mask:
    """Which operations (n,) are writes that put data into a file, or still may. Reads op, result."""
    return np.asarray(among(ops["op"], WRITES) & ((ops["result"] > 0) | ~ended(ops)))


def direct_data_writes(ops: Columns) -> Mask:
    """Those of `data_writes` that go around the page cache. Reads op, result."""
    return data_writes(ops) & among(ops["op"], DIRECT_WRITES)


def took_place(ops: Operations | Columns | Mapping[str, npt.NDArray[Any]]) -> Mask:
    """Which fallocates or truncates of ops (n,) succeeded, or still may. Reads result."""
    return np.asarray((ops["result"] == 0) | ~ended(ops))


def may_have_changed_data(fallocates: Operations | Columns) -> Mask:
    """Which fallocates of (n,) took place, still may, or failed after XFS was seen to begin: it frees a range before it
    zeroes it (xfs_file_fallocate()), and then may find no space. Reads result, t_effect.
    """
    return np.asarray(took_place(fallocates) | was_seen(fallocates["t_effect"]))


def acknowledged(writes: Columns) -> Mask:
    """Which of writes (n,) somebody was told of. Reads result."""
    return np.asarray((writes["result"] > 0) & ended(writes))


def ends(ops: Operations | Columns) -> I64:
    """First byte behind the range of each of ops (n,). Reads offset, length."""
    return range_ends(ops["offset"], ops["length"])


def written_ends(writes: Columns) -> I64:
    """First byte behind what each of writes (n,) has written, if it was acknowledged. Reads offset, result."""
    return range_ends(writes["offset"], writes["result"])


def in_effect_by(writes: Columns) -> I64:
    """ns by when all that each acknowledged write of (n,) does had been done. Reads t_applied, t_end."""
    return np.where(was_seen(writes["t_applied"]), writes["t_applied"], writes["t_end"])


def done_before(one: Columns, other: Columns) -> Mask:
    """Whether the data of write `one` was on its way no more when `other` began, of pairs (k,).

    `t_applied` of a direct write is when its I/O was over, or later (bpf/direct_write.c); it returns after that.
    Reads t_applied, t_begin.
    """
    return np.asarray(was_seen(one["t_applied"]) & (one["t_applied"] <= other["t_begin"]))
