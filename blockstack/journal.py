"""What the driver says of itself while it runs: requests, waits, and its own system calls, with their times.

A journal is optional (a node without one records nothing) and append-only. Its times are CLOCK_MONOTONIC in ns,
the clock of `bpf_ktime_get_ns()`, so that its entries sort together with what eBPF saw. Its sequence numbers come from
one counter (`itertools.count` advances under the GIL, so they are unique across threads): where the host cannot be
traced, these numbers are the order of events.
"""

import contextvars
import enum
import itertools
import os
import threading
import time
from dataclasses import dataclass

GUEST_SHIFT = 32
"""A tracked request's id is `guest request << GUEST_SHIFT | serial number`; both count from 1, 0 is none."""

NO_RESULT = -(2**63)
"""`result` of an entry that never ended."""

UNKNOWN_SIZE = -1
"""i_size that was not seen."""

guest_request: contextvars.ContextVar[int] = contextvars.ContextVar("guest_request", default=0)
"""Number of the guest request on whose behalf the current task works (QEMU: the coroutine's own request)."""


class Kind(enum.Enum):
    """What an entry describes."""

    GUEST_WRITE = enum.auto()  # from the guest's submission to the acknowledgement; flags: READ, or none
    REQUEST = enum.auto()  # a tracked request of the file node; flags: RequestFlag
    WAIT = enum.auto()  # a tracked request (`request`) waited for another (`result`)
    EMULATED_FALLOCATE = enum.auto()  # legacy-xfs: from sampling the size to having set it
    WRITE = enum.auto()  # system call: a data write, from submission to completion as the driver sees it
    FALLOCATE = enum.auto()  # system call: fallocate(2); flags: its mode
    TRUNCATE = enum.auto()  # system call: ftruncate(2)


class RequestFlag(enum.IntFlag):
    """`flags` of a REQUEST entry."""

    ZERO_WRITE = 1
    SERIALISING = 2  # when it ended
    METADATA = 4
    POST_EOF = 8  # a zero-write that reached beyond the node's length when it was issued
    READ = 16


@dataclass(slots=True)
class Entry:
    """One interval. Times in ns, 0 where unknown; offset, length and sizes in bytes, sizes UNKNOWN_SIZE."""

    kind: Kind
    offset: int
    length: int
    request: int
    flags: int
    seq_begin: int
    t_begin: int
    tid: int
    size_begin: int = UNKNOWN_SIZE
    size_end: int = UNKNOWN_SIZE
    seq_end: int = 0
    t_end: int = 0
    t_applied: int = 0
    result: int = NO_RESULT


def sampled_size(fd: int) -> int:
    """i_size of the file in bytes, now; UNKNOWN_SIZE where it cannot be had.

    fstat(2) fails with EIO on an XFS that has shut down (xfs_vn_getattr), and what is told to the journal must not
    take the place of what the request ends with.
    """
    try:
        return os.fstat(fd).st_size
    except OSError:
        return UNKNOWN_SIZE


class Journal:
    """Collects entries in memory, in order of their begin."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._sequence = itertools.count(1)
        self._serial = itertools.count(1)

    def next_request(self) -> int:
        """Id for a new tracked request of the current guest request."""
        return guest_request.get() << GUEST_SHIFT | next(self._serial)

    def begin(
        self, kind: Kind, offset: int, length: int, *, request: int, flags: int = 0, size: int = UNKNOWN_SIZE
    ) -> Entry:
        """Open an interval that starts now; `end` closes it."""
        entry = Entry(
            kind,
            offset,
            length,
            request,
            flags,
            next(self._sequence),
            time.monotonic_ns(),
            threading.get_native_id(),
            size,
        )
        self.entries.append(entry)
        return entry

    def end(self, entry: Entry, result: int, fd: int | None = None) -> None:
        """Close an interval now. `result` is as the system call's: bytes or 0, or -errno.

        i_size of `fd` is sampled after the end was stamped, never before: a write that ended in between would otherwise
        look as if this entry had cut it off.
        """
        entry.t_end = time.monotonic_ns()
        entry.seq_end = next(self._sequence)
        entry.result = result
        if fd is not None:
            entry.size_end = sampled_size(fd)
