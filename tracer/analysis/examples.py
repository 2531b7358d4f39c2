"""Minimal traces, written down a row an operation: what a rule shows of itself, and what its page and its tests use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer.operations import NONE_RESULT, NONE_SIZE, OPERATION, WRITES, Op, Operations

K = 1024

Row = Mapping[str, Any]
"""Fields of one operation that are not as `as_operations` fills them in."""

NS = 1000
"""Nanoseconds between two sequence numbers of an example."""


@dataclass(frozen=True, slots=True)
class ExampleTrace:
    """A few operations on one file, and why they are, or are not, a hazard."""

    rows: tuple[Row, ...]
    why: str
    """One sentence."""

    def operations(self) -> Operations:
        """The rows as a trace (n,), in their order."""
        return as_operations(self.rows)


def operation(op: Op, begin: int, end: int, offset: int, length: int = 0, **more: Any) -> Row:
    """One operation, from sequence number `begin` to `end` (0: never), on bytes `offset` to `offset` + `length`."""
    return {"op": op, "seq_begin": begin, "seq_end": end, "offset": offset, "length": length, **more}


def as_operations(rows: tuple[Row, ...]) -> Operations:
    """A trace (n,) in which all that is not said is usual: sizes not seen, success, times by sequence number."""
    ops = np.zeros(len(rows), OPERATION)
    for record, row in zip(ops, rows, strict=True):
        flying = not row["seq_end"]
        success = row["length"] if row["op"] in WRITES else 0
        usual = {
            "t_begin": NS * row["seq_begin"],
            "t_end": NS * row["seq_end"],
            "dev": 1,
            "ino": 1,
            "size_begin": NONE_SIZE,
            "size_end": NONE_SIZE,
            "size_applied": NONE_SIZE,
            "result": NONE_RESULT if flying else success,
            "pid": 100,
            "tid": 100,
            "comm": b"example",
        }
        for name, value in (usual | dict(row)).items():
            record[name] = value
    return ops
