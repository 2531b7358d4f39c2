"""Two places where a zero-write may be late, and where somebody else may make it late on purpose.

A schedule that is chosen needs a zero-write that stands still while the test brings a write into position. Both places
are real ones: QEMU's coroutine may yield at the first (is_zero_cow asks the backing node for its block status after the
clusters were allocated), and the thread pool may be busy at the second.
"""

import enum
from typing import Protocol


class Point(enum.Enum):
    """Where a zero-write stands."""

    ZERO_WRITE = enum.auto()  # its clusters are allocated; it is no tracked request yet
    FALLOCATE = enum.auto()  # the strategy has ordered it; fallocate(2), or its emulation, is the next step


class Gate(Protocol):
    """Asked at each point, in the task of the guest request (`journal.guest_request`)."""

    async def reached(self, point: Point) -> None:
        """Return when the zero-write may go on."""
        ...
