"""The trace file: one Parquet file that DuckDB, pandas or Polars read with no help of ours.

A row is an operation (`tracer.operations`), sorted by `seq_begin`; null stands for what was not seen or has not
ended. The file's key-value metadata are those of `tracer.trace_meta`.

Reading trusts nothing: a trace may come from another host, another version, or somebody who edited it. Whatever
is wrong ends as one TraceError that names the file; what this module returns can be analysed without a check.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.errors import TraceError
from tracer.operations import OPERATION, Columns, Op, Operations, in_columns
from tracer.output import atomic_output
from tracer.report.escape import printable
from tracer.stored import PART, Stored, stored, stored_file
from tracer.trace_columns import COLUMNS, ENDS, NAMES, NULLS
from tracer.trace_meta import SCHEMA, GroupRange, TraceMeta, encode, encode_checksum, encode_groups

__all__ = [
    "COLUMNS",
    "MAX_OPERATIONS",
    "PART",
    "SCHEMA",
    "Operations",
    "Trace",
    "TraceMeta",
    "as_dict",
    "read",
    "write",
]

MAX_OPERATIONS = 50_000_000
"""Operations in a trace that `read` still takes: 7 GB in memory. `tracer.stored` has no such limit."""

ROW_GROUP = 1 << 16
"""Operations in a row group, the unit in which a trace is written and read: some 20 MB in memory on the way."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in memory."""

    ops: Operations
    """(n,) of OPERATION, sorted by `seq_begin`."""
    meta: TraceMeta


_RISING = ("seq_begin", "seq_end", "t_begin", "t_end", "t_applied")
"""Columns whose values are near to those of the row before: differences take half the room, and a third of the time."""

_SCATTERED = ("offset",)
"""Columns of which hardly two values are the same: no dictionary of them, but all first bytes, then all second ones."""

_RANGED = ("seq_begin", "seq_end", "t_begin", "t_end", "op", "dev", "ino")
"""Columns of which the file says, for every row group, between which values they lie."""


def as_dict(operation: np.void) -> dict[str, Any]:
    """One operation as it stands in a row of the file and in JSON: columns in order, None where it is null."""
    row: dict[str, Any] = {}
    in_flight = operation["seq_end"] == 0
    for name, _ in COLUMNS:
        value = operation[name].item()
        if name == "op":
            value = Op(value).label
        elif name == "comm":
            value = value.decode("utf-8", "replace")
        elif in_flight if name in ENDS else value == NULLS.get(name):
            value = None
        row[name] = value
    return row


def write(target: str | Path | BinaryIO, ops: Operations, meta: TraceMeta) -> None:
    """Write ops (n,) of OPERATION, in any order, and what has to be known of them, to a path or a binary file.

    A path is replaced when the trace is whole, and not touched before (`tracer.output`). A `comm` that is not
    UTF-8 keeps its readable part. Raises UsageError for a path that cannot be written, OSError for a file that
    cannot, and ValueError for an array that is no array of operations: that is a bug of the caller.
    """
    if ops.dtype != OPERATION or ops.ndim != 1:
        raise ValueError(f"not a one-dimensional array of OPERATION: {ops.dtype}")
    write_columns(target, in_columns(ops), meta)


def write_columns(target: str | Path | BinaryIO, columns: Columns, meta: TraceMeta, *, durable: bool = True) -> None:
    """The same, of operations that are kept in columns: half of the time that rows take."""
    described = encode(meta)
    schema = pa.schema([pa.field(name, kind, nullable=name in NULLS) for name, kind in COLUMNS], metadata=described)
    order = np.argsort(columns["seq_begin"], kind="stable")
    same = {name for name, values in columns.items() if _is_one_value(values)}
    with contextlib.ExitStack() as stack:
        # Never a name for Arrow: it would take "s3://..." for a URI.
        sink = stack.enter_context(atomic_output(target, durable=durable)) if isinstance(target, str | Path) else target
        # Checksums: a flipped bit must read as damage, not as another operation.
        writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=[name for name, _ in COLUMNS if name not in (*_RISING, *_SCATTERED)],
            column_encoding=dict.fromkeys(_RISING, "DELTA_BINARY_PACKED")
            | dict.fromkeys(_SCATTERED, "BYTE_STREAM_SPLIT"),
            write_statistics=list(_RANGED),
        )
        stack.enter_context(writer)
        ranges = []
        for low in range(0, len(order), ROW_GROUP):
            rows = order[low : low + ROW_GROUP]
            some = {name: values[: len(rows)] if name in same else values[rows] for name, values in columns.items()}
            writer.write_table(_table(some, schema))
            ranges.append(group_range(some))
        groups = encode_groups(ranges)
        writer.add_key_value_metadata(groups | encode_checksum(described | groups))


def _is_one_value(values: npt.NDArray[Any]) -> bool:
    """Whether (n,) values are all the same, as most fields of one process' load are."""
    plain = _halves(values) if values.dtype.kind == "S" else values
    return bool((plain == plain[:1]).all())


def _halves(names: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Names (n,) of S16 as numbers (n, 2), which take a tenth of the time to compare."""
    return np.ascontiguousarray(names).view("<u8").reshape(-1, 2)


def group_range(columns: Columns) -> GroupRange:
    """What the operations (n,) of a row group, n > 0, lie between."""
    begin, end = columns["seq_begin"], columns["seq_end"]
    kinds = sorted(Op(number).label for number in np.unique(columns["op"]).tolist())
    last_end = int(end.max()) if end.all() else None
    return GroupRange(len(begin), int(begin.min()), int(begin.max()), last_end, kinds[0], kinds[-1])


def _table(columns: Columns, schema: Any) -> Any:
    """A stretch of a trace as an Arrow table."""
    in_flight = columns["seq_end"] == 0
    arrays = []
    for name, kind in COLUMNS:
        values = columns[name]
        if pa.types.is_dictionary(kind):
            arrays.append(_dictionary(name, values))
        else:
            null = in_flight if name in ENDS else values == NULLS[name] if name in NULLS else None
            # Without a mask Arrow takes the values as they lie there.
            arrays.append(pa.array(values, kind, mask=null if null is not None and null.any() else None))
    return pa.Table.from_arrays(arrays, schema=schema)


def _dictionary(name: str, values: npt.NDArray[Any]) -> Any:
    """A text column."""
    if name == "op":
        met = np.bincount(values) != 0
        which = (np.cumsum(met, dtype=np.int32) - 1)[values]
        words = [Op(value).label for value in np.flatnonzero(met).tolist()]
    else:
        first, which = _distinct_names(values)
        words = [value.decode("utf-8", "replace") for value in values[first].tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(which, pa.int32()), pa.array(words, pa.string()))


def _distinct_names(values: npt.NDArray[np.bytes_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each distinct name of (n,) of S16 occurs, and which of them each is. Numbers are sorted in place of names;
    should two names have one number, the names are.
    """
    if len(values) and _is_one_value(values):
        return np.zeros(1, np.int64), np.zeros(len(values), np.int64)
    halves = _halves(values)
    numbers = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1]
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    if not np.array_equal(halves[first][which], halves):
        _, first, which = np.unique(values, return_index=True, return_inverse=True)
    return first, which


def read(path: str | Path) -> Trace:
    """Read a trace, a file or a directory of parts, into memory, and check it, as the module's description says.

    A directory that lacks a part, or the last one, has that among the gaps of its metadata. Raises UsageError where the
    file cannot be opened, TraceError for everything that is wrong with it.
    """
    try:
        return _load(stored(path))
    except TraceError as error:
        name = printable(str(path))
        raise TraceError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None


def _read(file: BinaryIO) -> Trace:
    return _load(stored_file(file))


def _load(found: Stored) -> Trace:
    if found.operations > MAX_OPERATIONS:
        raise TraceError(f"{found.operations} operations, more than {MAX_OPERATIONS} are not held in memory")
    ops = np.zeros(found.operations, OPERATION)
    filled = 0
    for group in found.groups:
        columns = found.read(group, NAMES)
        for column in NAMES:
            ops[column][filled : filled + group.rows] = columns[column]
        filled += group.rows
    _check_numbers(ops)
    return Trace(ops[np.argsort(ops["seq_begin"], kind="stable")], found.meta)


def _check_numbers(ops: Operations) -> None:
    """Raise TraceError where a sequence number of ops (n,) is another one's, too."""
    numbers = np.sort(np.concatenate([ops["seq_begin"], ops["seq_end"][ops["seq_end"] != 0]]))
    twice = numbers[1:] == numbers[:-1]
    if twice.any():
        raise TraceError(f"sequence number {int(numbers[int(np.argmax(twice))])} occurs twice")
