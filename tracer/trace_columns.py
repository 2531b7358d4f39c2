"""The columns of a trace file, and what their values must not be.

Whoever reads a trace reads all columns that can be wrong (`CHECKED`), needed or not: what is wrong must not go unseen.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.errors import TraceError
from tracer.operations import NONE_CPU, NONE_RESULT, NONE_SIZE, Operations
from tracer.trace_meta import short

Array = npt.NDArray[Any]

LAST_NUMBER = 2**64 - 1
"""No sequence number reaches it: it stands for the end that never came."""

NULLS: dict[str, int] = {
    "seq_end": 0,
    "t_end": 0,
    "cpu_end": 0,
    "cpu_begin": NONE_CPU,
    "t_applied": 0,
    "request": 0,
    "size_begin": NONE_SIZE,
    "size_end": NONE_SIZE,
    "size_applied": NONE_SIZE,
    "result": NONE_RESULT,
}
"""Columns that may be null, with what stands for null in memory."""

ENDS = ("seq_end", "t_end", "cpu_end")
"""Columns that are null exactly for operations in flight."""

_TEXT = pa.dictionary(pa.int32(), pa.string())

COLUMNS: tuple[tuple[str, Any], ...] = (
    ("seq_begin", pa.uint64()),
    ("seq_end", pa.uint64()),
    ("t_begin", pa.int64()),
    ("t_end", pa.int64()),
    ("t_applied", pa.int64()),
    ("op", _TEXT),
    ("dev", pa.uint64()),
    ("ino", pa.uint64()),
    ("offset", pa.int64()),
    ("length", pa.int64()),
    ("flags", pa.uint32()),
    ("size_begin", pa.int64()),
    ("size_end", pa.int64()),
    ("size_applied", pa.int64()),
    ("result", pa.int64()),
    ("pid", pa.uint32()),
    ("tid", pa.uint32()),
    ("cpu_begin", pa.uint16()),
    ("cpu_end", pa.uint16()),
    ("comm", _TEXT),
    ("request", pa.uint64()),
)
"""Name and Arrow type of every column, in the file's order."""

NAMES = tuple(name for name, _ in COLUMNS)

KINDS = dict(COLUMNS)
"""Arrow type by name."""

LATER = ("size_applied",)
"""Columns that traces of the same schema did not have once: read as null where they are not there."""

_Check = tuple[str, tuple[str, ...], Callable[..., npt.NDArray[np.bool_]]]

_CHECKS: tuple[_Check, ...] = (
    ("a sequence number of 0", ("seq_begin",), lambda begin: begin == 0),
    (
        "a sequence number of 2^64 - 1",
        ("seq_begin", "seq_end"),
        lambda begin, end: np.maximum(begin, end) == LAST_NUMBER,
    ),
    ("a negative offset", ("offset",), lambda offset: offset < 0),
    ("a negative length", ("length",), lambda length: length < 0),
    (
        "a range that ends beyond 2^63 - 1",
        ("offset", "length"),
        lambda offset, length: offset > (2**63 - 1) - np.maximum(length, 0),
    ),
    *(("a negative size", (name,), lambda size: size < NONE_SIZE) for name in ("size_begin", "size_end")),
    ("a negative size", ("size_applied",), lambda size: size < NONE_SIZE),
    *(("a negative time", (name,), lambda time: time < 0) for name in ("t_begin", "t_end", "t_applied")),
    ("an end before its begin", ("seq_begin", "seq_end"), lambda begin, end: (end != 0) & (end <= begin)),
    (
        "a time of end before its time of begin",
        ("seq_end", "t_begin", "t_end"),
        lambda end, t_begin, t_end: (end != 0) & (t_end < t_begin),
    ),
)
"""What is wrong with an operation, the columns that show it, and for which operations it holds."""

CHECKED = tuple(dict.fromkeys(name for _, names, _ in _CHECKS for name in names))
"""Columns that every reader reads, because what is wrong in them must not go unseen."""


def check_columns(schema: Any) -> None:
    """Raise TraceError where a file's Arrow schema has not each column once, and of its type."""
    for name, kind in COLUMNS:
        found = schema.get_all_field_indices(name)
        # With a column of another name in its place, it is the name that is damaged.
        if not found and name in LATER and len(schema) < len(COLUMNS):
            continue
        if len(found) != 1:
            raise TraceError(f"no column {name}" if not found else f"{len(found)} columns {name}")
        actual = schema.field(name).type
        text = actual.value_type if pa.types.is_dictionary(actual) else actual
        # Tools that copy a trace may well write plain strings for dictionaries.
        is_text = pa.types.is_string(text) or pa.types.is_large_string(text)
        if not (is_text if pa.types.is_dictionary(kind) else actual == kind):
            wanted = "string" if pa.types.is_dictionary(kind) else kind
            raise TraceError(f"column {name} is {short(actual)}, not {wanted}")


def check_operations(columns: Mapping[str, Array] | Operations) -> None:
    """Check operations (n,), by the columns that are there; raises TraceError for the first kind of damage found."""
    there = columns.dtype.names or () if isinstance(columns, np.ndarray) else columns
    for what, names, is_wrong in _CHECKS:
        if not all(name in there for name in names):
            continue
        wrong = is_wrong(*(columns[name] for name in names))
        if wrong.any():
            number = f", first at seq_begin {int(columns['seq_begin'][int(np.argmax(wrong))])}"
            raise TraceError(f"{int(wrong.sum())} of {len(wrong)} operations have {what}{number}")
