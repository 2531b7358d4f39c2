"""The operation: one interval in the life of a file, the unit of every trace, rule and report.

In memory a trace is one numpy structured array of `OPERATION`, in any order. A kernel operation is a system
call's effect on one inode as eBPF saw it; a driver operation is the same as the driver's own clock saw it
(evidence `driver`); a mark is what the driver under test meant or did around its system calls.

Every begin and every end of a trace has a number of its own (`seq_begin`, `seq_end`, from 1, unique): "before" is
decided by these numbers, never by clocks of different CPUs.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


class Op(enum.IntEnum):
    """Kind of an operation. The lower-case name is what a trace file holds."""

    AIO_WRITE = 1  # direct write through io_submit(2)
    URING_WRITE = 2  # direct write through io_uring
    DIRECT_WRITE = 3  # synchronous direct write
    BUFFERED_WRITE = 4
    FALLOCATE = 5
    TRUNCATE = 6
    MARK_GUEST_WRITE = 16  # a write of the guest, from submission to acknowledgement
    MARK_REQUEST = 17  # a tracked request of the file node, from its begin to its end
    MARK_WAIT = 18  # a tracked request (`request`) waited for another one (`result`)
    MARK_FALLOCATE = 19  # an emulated fallocate (legacy-xfs): from sampling the size to having set it

    @property
    def label(self) -> str:
        """The name a trace file holds."""
        return self.name.lower()


WRITES = (Op.AIO_WRITE, Op.URING_WRITE, Op.DIRECT_WRITE, Op.BUFFERED_WRITE)
"""Operations that carry data."""

DIRECT_WRITES = (Op.AIO_WRITE, Op.URING_WRITE, Op.DIRECT_WRITE)
"""Those that go around the page cache."""

FALLOCATES = (Op.FALLOCATE, Op.MARK_FALLOCATE)
"""Operations whose `flags` are a mode of fallocate(2)."""

MARKS = (Op.MARK_GUEST_WRITE, Op.MARK_REQUEST, Op.MARK_WAIT, Op.MARK_FALLOCATE)
"""What the driver said of itself; everything else is a system call's effect."""


def among(op: npt.NDArray[np.uint8], kinds: Iterable[Op]) -> npt.NDArray[np.bool_]:
    """Which of the column `op` (n,) are of some kinds. A tenth of the time of np.isin."""
    wanted = np.zeros(256, np.bool_)
    wanted[list(kinds)] = True
    return wanted[op]


NONE_RESULT = -(2**63)
"""`result` of an operation that never ended."""

NONE_SIZE = -1
"""`size_begin`, `size_end`, `size_applied` where i_size was not seen."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_COLLAPSE_RANGE = 0x08
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20

NONE_CPU = 0xFFFF
"""`cpu_begin` of an operation whose begin was not seen: it was in flight when recording began. `t_begin` is when that
was, `seq_begin` is below those of all others."""

OPERATION = np.dtype(
    [
        ("seq_begin", "<u8"),
        ("seq_end", "<u8"),  # 0: still in flight when recording stopped
        ("t_begin", "<i8"),  # ns, CLOCK_MONOTONIC
        ("t_end", "<i8"),  # ns; 0: in flight
        ("t_applied", "<i8"),  # ns, when the size update or allocation took effect; 0: not seen
        ("dev", "<u8"),  # st_dev as stat(2) returns it
        ("ino", "<u8"),
        ("offset", "<i8"),  # bytes
        ("length", "<i8"),  # bytes
        ("size_begin", "<i8"),  # i_size in bytes; NONE_SIZE: not seen
        ("size_end", "<i8"),
        ("size_applied", "<i8"),  # i_size in bytes just before the size update took effect; NONE_SIZE: not seen
        ("result", "<i8"),  # bytes or 0, or -errno; NONE_RESULT: in flight. MARK_WAIT: the request waited for
        ("request", "<u8"),  # guest request << 32 | serial number of the tracked request; 0: none
        ("flags", "<u4"),  # fallocate mode, or RWF/iocb flags of a write; marks: see blockstack.journal
        ("pid", "<u4"),  # process (tgid)
        ("tid", "<u4"),  # thread
        ("cpu_begin", "<u2"),
        ("cpu_end", "<u2"),
        ("comm", "S16"),
        ("op", "u1"),  # Op
    ]
)
"""One operation, fixed size."""

Operations = npt.NDArray[np.void]
"""Structured array of `OPERATION`."""

Columns = Mapping[str, npt.NDArray[Any]]
"""The same operations, a field behind the other: fields of `OPERATION` -> values (n,)."""


def in_columns(ops: Operations) -> Columns:
    """Operations (n,) as columns, where they lie."""
    return {name: ops[name] for name in OPERATION.names or ()}


def in_rows(columns: Columns) -> Operations:
    """Columns as operations (n,), copied."""
    ops = np.empty(len(columns["op"]), OPERATION)
    for name, values in columns.items():
        ops[name] = values
    return ops
