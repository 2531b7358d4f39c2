"""In which order the kernel applied the size updates of one fallocate and one write: what a probe shows as evidence.

Read from what XFS says while it works (bpf/applied.c). Elsewhere a fallocate's update is not seen, and the order is
unknown.
"""

import enum
from dataclasses import dataclass

from tracer.analysis.emulation import effects
from tracer.analysis.overlaps import MAX_BYTE
from tracer.operations import NONE_SIZE, Operations


class First(enum.StrEnum):
    """Whose size update the kernel applied first."""

    FALLOCATE = "fallocate"
    WRITE = "write"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SizeUpdate:
    """What was seen of one operation's size update."""

    t_applied: int | None
    """ns, CLOCK_MONOTONIC; None: not seen."""
    size_applied: int | None
    """i_size in bytes just before it. None: not seen, or a fallocate that left the size alone."""


@dataclass(frozen=True, slots=True)
class SizeOrder:
    """The size updates of a fallocate and a write of one file."""

    fallocate: SizeUpdate
    write: SizeUpdate
    first: First
    cut_to: int | None
    """The size in bytes to which the fallocate has cut a larger file for certain; None: that was not seen."""


def size_order(ops: Operations, fallocate: int, write: int) -> SizeOrder:
    """The order of two operations of ops (n,), given by their indices.

    An emulated fallocate (its mark) is its truncate, where the trace has that one.
    """
    what = effects(ops)
    size = what.size_before[fallocate] if what.truncated[fallocate] else ops["size_applied"][fallocate]
    f = _update(what.t_applied[fallocate], size)
    w = _update(ops["t_applied"][write], ops["size_applied"][write])
    first = First.UNKNOWN
    if f.t_applied is not None and w.t_applied is not None:
        first = First.WRITE if w.t_applied <= f.t_applied else First.FALLOCATE
    cut_to = int(what.cut_to[fallocate])
    return SizeOrder(f, w, first, cut_to if cut_to < MAX_BYTE else None)


def _update(t_applied: int, size_applied: int) -> SizeUpdate:
    return SizeUpdate(
        t_applied=int(t_applied) if t_applied else None,
        size_applied=int(size_applied) if size_applied != NONE_SIZE else None,
    )
