"""The trace file: one Parquet file that DuckDB, pandas or Polars read with no help of ours.

A row is an operation (`tracer.operations`), sorted by `seq_begin`; null stands for what was not seen or has not
ended. The file's key-value metadata holds one JSON value per field of `TraceMeta`, under `eofrace.<field>`, and
the schema's version under `eofrace.schema`.

Reading trusts nothing: a trace may come from another host, another version, or somebody who edited it. Whatever
is wrong ends as one TraceError that names the file; what this module returns can be analysed without a check.
"""

import contextlib
import dataclasses
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.errors import TraceError, UsageError
from tracer.operations import NONE_CPU, NONE_RESULT, NONE_SIZE, OPERATION, Op, Operations
from tracer.output import atomic_output
from tracer.report.escape import printable
from tracer.trace_meta import MAX_METADATA, SCHEMA, TraceMeta, decode, encode, short

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
"""Operations in a trace that is still read: 7 GB in memory."""

ROW_GROUP = 1 << 16
"""Operations in a row group, the unit in which a trace is written and read: some 20 MB in memory on the way."""

MAX_ROW = 1024
"""Bytes of one operation when unpacked, on average; 170 is usual."""


PART = re.compile(r"part-(\d{6})\.parquet")
"""Names of the files of a trace that is a directory."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in memory."""

    ops: Operations
    """(n,) of OPERATION, sorted by `seq_begin`."""
    meta: TraceMeta


_NULLS: dict[str, int] = {
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

_ENDS = ("seq_end", "t_end", "cpu_end")
"""Columns that are null exactly for operations in flight."""

_SIZES = ("size_begin", "size_end", "size_applied")

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

_RISING = ("seq_begin", "seq_end", "t_begin", "t_end", "t_applied")
"""Columns whose values are near to those of the row before: differences take half the room, and a third of the time."""

_LATER = ("size_applied",)
"""Columns that traces of the same schema did not have once: read as null where they are not there."""

_LABELS = {op.label: int(op) for op in Op}


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
        elif in_flight if name in _ENDS else value == _NULLS.get(name):
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
    schema = pa.schema(
        [pa.field(name, kind, nullable=name in _NULLS) for name, kind in COLUMNS],
        metadata=encode(meta),
    )
    order = np.argsort(ops["seq_begin"], kind="stable")
    with contextlib.ExitStack() as stack:
        # Never a name for Arrow: it would take "s3://..." for a URI.
        sink = stack.enter_context(atomic_output(target)) if isinstance(target, str | Path) else target
        # Checksums: a flipped bit must read as damage, not as another operation.
        writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=[name for name, _ in COLUMNS if name not in _RISING],
            column_encoding=dict.fromkeys(_RISING, "DELTA_BINARY_PACKED"),
        )
        stack.enter_context(writer)
        for low in range(0, len(ops), ROW_GROUP):
            writer.write_table(_table(ops[order[low : low + ROW_GROUP]], schema))


def _table(ops: Operations, schema: Any) -> Any:
    """A stretch of a trace, ops (n,), as an Arrow table."""
    in_flight = ops["seq_end"] == 0
    columns = []
    for name, kind in COLUMNS:
        values = np.ascontiguousarray(ops[name])
        if pa.types.is_dictionary(kind):
            columns.append(_dictionary(name, values))
        else:
            null = in_flight if name in _ENDS else values == _NULLS[name] if name in _NULLS else None
            columns.append(pa.array(values, kind, mask=null))
    return pa.Table.from_arrays(columns, schema=schema)


def _dictionary(name: str, values: npt.NDArray[Any]) -> Any:
    distinct, index = np.unique(values, return_inverse=True)
    if name == "op":
        words = [Op(value).label for value in distinct.tolist()]
    else:
        words = [value.decode("utf-8", "replace") for value in distinct.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(index, pa.int32()), pa.array(words, pa.string()))


def read(path: str | Path) -> Trace:
    """Read a trace, a file or a directory of parts, and check it, as the module's description says.

    A directory that lacks a part, or the last one, has that among the gaps of its metadata. Raises UsageError where the
    file cannot be opened, TraceError for everything that is wrong with it.
    """
    path = Path(path)
    return _read_parts(path) if path.is_dir() else _read_file(path)


def _read_parts(path: Path) -> Trace:
    name = printable(str(path))
    try:
        files = sorted(entry for entry in path.iterdir() if PART.fullmatch(entry.name))
    except OSError as error:
        raise UsageError(f"{name}: cannot open the trace: {error.strerror}") from error
    if not files:
        raise UsageError(f"{name}: a directory without a part of a trace (part-000001.parquet, ...)")
    parts: list[Trace] = []
    count = 0
    for file in files:
        part = _read_file(file)
        if part.meta.part != int(PART.fullmatch(file.name)[1]):  # type: ignore[index] # all of them match
            raise TraceError(f"{printable(str(file))}: says that it is part {part.meta.part}")
        parts.append(part)
        count += len(part.ops)
        if count > MAX_OPERATIONS:
            raise TraceError(
                f"{name}: more than {MAX_OPERATIONS} operations are not read: record less, or several times"
            )
    final = parts[-1].meta
    gaps = {hook: why for part in parts for hook, why in part.meta.gaps.items()}
    if not final.last:
        gaps["the end of the recording"] = "its last part is missing: the recorder was killed, or runs still"
    if final.part != len(parts):
        gaps["parts of the recording"] = f"{(final.part or 0) - len(parts)} of them are missing"
    ops = np.concatenate([part.ops for part in parts])
    try:
        _check_numbers(ops)  # the rest was checked in each part
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    meta = dataclasses.replace(
        final,
        gaps=gaps,
        dropped=sum(part.meta.dropped for part in parts),
        unfinished=sum(part.meta.unfinished for part in parts),
        part=None,
        last=None,
    )
    return Trace(ops[np.argsort(ops["seq_begin"], kind="stable")], meta)


def _read_file(path: Path) -> Trace:
    name = printable(str(path))
    try:
        # A FIFO would wait for its writer for ever, and a device would never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{name}: not a regular file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{name}: cannot open the trace: {reason}") from error
    with file:
        try:
            return _read(file)
        except TraceError as error:
            raise TraceError(f"{name}: {error}") from None
        # Arrow reports what it cannot decode with half a dozen types, some of them built in.
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise TraceError(f"{name}: not a readable Parquet file: {short(error)}") from error
        except (MemoryError, RecursionError, OverflowError) as error:
            raise TraceError(f"{name}: too large or too deep to be a trace") from error


def _read(file: BinaryIO) -> Trace:
    if file.seek(0, 2) == 0:
        raise TraceError("the file is empty")
    file.seek(0)
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        meta = decode(parquet.metadata.metadata or {})
        count = parquet.metadata.num_rows
        if not 0 <= count <= MAX_OPERATIONS:
            raise TraceError(f"claims {count} operations, more than {MAX_OPERATIONS} are not read: split it")
        _check_columns(parquet.schema_arrow)
        ops = np.zeros(count, OPERATION)
        filled = 0
        for group in range(parquet.num_row_groups):
            filled += _read_group(parquet, group, ops[filled:])
    if filled != count:
        raise TraceError(f"claims {count} operations, has {filled}")
    _check_operations(ops)
    if np.any(ops["seq_begin"][1:] < ops["seq_begin"][:-1]):  # somebody copied the file in another order
        ops = ops[np.argsort(ops["seq_begin"])]
    return Trace(ops, meta)


def _check_columns(schema: Any) -> None:
    for name, kind in COLUMNS:
        found = schema.get_all_field_indices(name)
        # With a column of another name in its place, it is the name that is damaged.
        if not found and name in _LATER and len(schema) < len(COLUMNS):
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


def _read_group(parquet: Any, group: int, ops: Operations) -> int:
    """Read one row group into the head of ops; returns how many operations it has."""
    claimed = parquet.metadata.row_group(group)
    count: int = claimed.num_rows
    if count > len(ops):
        raise TraceError("its row groups hold more operations than the file claims")
    if claimed.total_byte_size > MAX_ROW * count + MAX_METADATA:
        raise TraceError(f"a row group of {count} operations unpacks to {claimed.total_byte_size} bytes")
    table = parquet.read_row_group(group, columns=[name for name, _ in COLUMNS])  # those that it has
    table.validate(full=True)
    if table.num_rows != count:
        raise TraceError(f"a row group claims {count} operations, has {table.num_rows}")
    in_flight = None
    for name, kind in COLUMNS:
        if name in _LATER and name not in table.column_names:
            ops[name][:count] = _NULLS[name]
            continue
        column = table.column(name)
        if name not in _NULLS and column.null_count:
            raise TraceError(f"column {name} has nulls")
        if name in _ENDS:
            null = column.is_null().to_numpy()
            if in_flight is None:
                in_flight = null
            elif np.any(null != in_flight):
                raise TraceError(f"an operation ended and has no {name}, or has one and never ended")
        if pa.types.is_dictionary(kind):
            ops[name][:count] = _codes(name, column)
        else:
            filled = column.fill_null(_NULLS[name]) if name in _NULLS else column
            ops[name][:count] = filled.to_numpy()
    if np.any((ops["seq_end"][:count] == 0) != in_flight):
        raise TraceError("an operation has a sequence number of 0")
    return count


def _codes(name: str, column: Any) -> npt.NDArray[Any]:
    """What a text column (n,) is in memory: `Op` numbers, or `comm` as bytes."""
    encoded = column.combine_chunks().dictionary_encode() if not pa.types.is_dictionary(column.type) else column
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no chunk at all
        return np.zeros(0, OPERATION[name])
    words = encoded.dictionary.to_pylist()
    if name == "op":
        unknown = [word for word in words if word not in _LABELS]
        if unknown:
            raise TraceError(f"unknown operation {short(unknown[0])}")
        values = np.array([_LABELS[word] for word in words], OPERATION["op"])
    else:
        values = np.array([(word or "").encode() for word in words], OPERATION["comm"])
    if not len(words):
        return np.zeros(len(encoded), OPERATION[name])
    return np.asarray(values[encoded.indices.to_numpy(zero_copy_only=False)])


def _check_operations(ops: Operations) -> None:
    """Check every operation (n,); raises TraceError for the first kind of damage found."""
    ended = ops["seq_end"] != 0
    checks = (
        ("a sequence number of 0", ops["seq_begin"] == 0),
        ("a negative offset", ops["offset"] < 0),
        ("a negative length", ops["length"] < 0),
        ("a range that ends beyond 2^63 - 1", ops["offset"] > (2**63 - 1) - np.maximum(ops["length"], 0)),
        ("a negative size", np.minimum.reduce([ops[name] for name in _SIZES]) < NONE_SIZE),
        ("a negative time", (ops["t_begin"] < 0) | (ops["t_end"] < 0) | (ops["t_applied"] < 0)),
        ("an end before its begin", ended & (ops["seq_end"] <= ops["seq_begin"])),
        ("a time of end before its time of begin", ended & (ops["t_end"] < ops["t_begin"])),
    )
    for what, wrong in checks:
        if wrong.any():
            number = int(ops["seq_begin"][int(np.argmax(wrong))])
            raise TraceError(f"{int(wrong.sum())} of {len(ops)} operations have {what}, first at seq_begin {number}")
    _check_numbers(ops)


def _check_numbers(ops: Operations) -> None:
    """Raise TraceError where a sequence number of ops (n,) is another one's, too."""
    numbers = np.sort(np.concatenate([ops["seq_begin"], ops["seq_end"][ops["seq_end"] != 0]]))
    twice = numbers[1:] == numbers[:-1]
    if twice.any():
        raise TraceError(f"sequence number {int(numbers[int(np.argmax(twice))])} occurs twice")
