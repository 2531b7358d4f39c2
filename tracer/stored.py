"""A trace on disk, read a row group at a time, by column: as much memory as a row group takes, however long it is.

A trace is a Parquet file, or a directory of parts (`tracer.capture.parts`), of which each holds what ended while it was
open: a long operation is in a late part, whose first row group begins early. The file's metadata say how far back each
row group reaches (`trace_meta.GroupRange`); that is checked when the group is read.

Nothing is trusted, as `tracer.trace` says: whatever is wrong ends as one TraceError that names the file.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tracer.errors import TraceError, UsageError
from tracer.files import open_regular
from tracer.operations import OPERATION, Op, Operations
from tracer.report.escape import printable
from tracer.trace_columns import (
    CHECKED,
    ENDS,
    KINDS,
    LAST_NUMBER,
    LATER,
    NAMES,
    NULLS,
    Array,
    check_columns,
    check_operations,
)
from tracer.trace_meta import MAX_METADATA, GroupRange, TraceMeta, decode, decode_groups, short

PART = re.compile(r"part-(\d{6})\.parquet")
"""Names of the files of a trace that is a directory."""

MAX_GROUP = 1 << 22
"""Operations in a row group that is still read: some 500 MB in memory. Most tools write 100,000 to 1,000,000."""

MAX_ROW = 1024
"""Bytes of one operation when unpacked, on average; 170 is usual."""

GROUP_SHIFT = 32
"""An operation's number in its trace is the number of its row group << GROUP_SHIFT | its place in there."""

_OPEN_FILES = 16
"""Files that a process keeps open."""

_LABELS = {op.label: int(op) for op in Op}


@dataclass(frozen=True, slots=True)
class Group:
    """A row group, by what its file says of it; the numbers are sequence numbers."""

    number: int
    """Of the trace, from 0."""
    file: int
    """Index of `Stored.files`."""
    index: int
    """Of the file."""
    rows: int
    first_begin: int = 0
    last_begin: int = LAST_NUMBER
    last_end: int = LAST_NUMBER
    """LAST_NUMBER: something in it never ended, or that is not known."""
    kinds: tuple[str, str] | None = None
    """Smallest and largest `op`, as texts; None: not known."""

    def may_hold(self, op: Op) -> bool:
        """Whether there can be operations of that kind in it."""
        return self.kinds is None or self.kinds[0] <= op.label <= self.kinds[1]


@dataclass(frozen=True)
class Stored:
    """A trace that can be read. It can be sent to another process that sees the same files."""

    path: Path
    files: tuple[Path, ...]
    meta: TraceMeta
    groups: tuple[Group, ...]
    _opened: "dict[Path, OpenFile]" = field(default_factory=dict, compare=False, repr=False)
    """Files that this process has open; of those, the one used last is the last."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.path, self.files, self.meta, self.groups)

    def absolute(self) -> "Stored":
        """The same for processes that have another working directory."""
        return dataclasses.replace(self, files=tuple(file.absolute() for file in self.files), _opened={})

    @property
    def operations(self) -> int:
        """How many it holds."""
        return sum(group.rows for group in self.groups)

    def read(self, group: Group, names: Iterable[str], *, check: bool = True) -> dict[str, Array]:
        """Columns of a row group, as they are in OPERATION, in the file's order. Raises TraceError.

        Unless the caller will read the group once more, all columns that can be wrong are read and checked.
        """
        path = self.files[group.file]
        parquet = self._file(path).parquet
        wanted = tuple(names)
        with _naming(path):
            columns = read_group(parquet, group.index, tuple(dict.fromkeys((*wanted, *(CHECKED if check else ())))))
            if check:
                check_operations(columns)
            _check_claims(group, columns)
        return {name: columns[name] for name in wanted}

    def _file(self, path: Path) -> "OpenFile":
        found = self._opened.pop(path, None) or _open(path)
        self._opened[path] = found
        while len(self._opened) > _OPEN_FILES:
            self._opened.pop(next(iter(self._opened))).parquet.close(force=True)
        return found

    def rows(self, numbers: Sequence[int]) -> Operations:
        """Operations by their numbers, in that order. Raises TraceError."""
        found = np.zeros(len(numbers), OPERATION)
        wanted = np.array(numbers, np.int64)
        of_group = wanted >> GROUP_SHIFT
        for number in sorted(set(of_group.tolist())):
            columns = self.read(self.groups[number], NAMES)
            mine = of_group == number
            for name in NAMES:
                found[name][mine] = columns[name][wanted[mine] & ((1 << GROUP_SHIFT) - 1)]
        return found


def stored(path: str | Path) -> Stored:
    """Open a trace, a file or a directory of parts, and look at what each file says of itself: no operation is read.

    A directory that lacks a part, or the last one, has that among the gaps of its metadata. Raises UsageError where
    something cannot be opened, TraceError where it is no trace: all bad parts of a directory are counted.
    """
    path = Path(path)
    with naming_unopened(path):
        is_directory = path.is_dir()
    files = parts(path) if is_directory else (path,)
    groups: list[Group] = []
    metas: list[TraceMeta] = []
    bad: list[UsageError] = []
    for number, file in enumerate(files):
        try:
            one = _open(file)
            if is_directory:
                _check_part(file, one.meta)
        except UsageError as error:
            bad.append(error)
            continue
        one.parquet.close(force=True)
        metas.append(one.meta)
        groups += [
            dataclasses.replace(group, number=at, file=number) for at, group in enumerate(one.groups, len(groups))
        ]
    if bad:
        more = f" ({len(bad)} of {len(files)} parts cannot be used)" if len(files) > 1 else ""
        raise type(bad[0])(f"{bad[0]}{more}")
    return Stored(path, files, whole(metas) if is_directory else metas[0], tuple(groups))


def stored_file(file: BinaryIO) -> Stored:
    """A trace that is one file, which is open."""
    one = open_file(file)
    return Stored(Path(), (Path(),), one.meta, one.groups, {Path(): one})


def parts(path: Path) -> tuple[Path, ...]:
    """Files of a trace that is a directory, in order. Raises UsageError."""
    name = printable(str(path))
    try:
        files = tuple(sorted(entry for entry in path.iterdir() if PART.fullmatch(entry.name)))
    except OSError as error:
        raise UsageError(f"{name}: cannot open the trace: {error.strerror}") from error
    if not files:
        raise UsageError(f"{name}: a directory without a part of a trace (part-000001.parquet, ...)")
    return files


def _check_part(file: Path, meta: TraceMeta) -> None:
    match = PART.fullmatch(file.name)
    if match is None or meta.part != int(match[1]):
        raise TraceError(f"{printable(str(file))}: says that it is part {meta.part}")


def whole(metas: Sequence[TraceMeta]) -> TraceMeta:
    """What is known of a trace whose parts say these, in order."""
    final = metas[-1]
    gaps = {hook: why for meta in metas for hook, why in meta.gaps.items()}
    if not final.last:
        gaps["the end of the recording"] = "its last part is missing: the recorder was killed, or runs still"
    if final.part != len(metas):
        gaps["parts of the recording"] = f"{(final.part or 0) - len(metas)} of them are missing"
    return dataclasses.replace(
        final,
        gaps=gaps,
        dropped=sum(meta.dropped for meta in metas),
        unfinished=sum(meta.unfinished for meta in metas),
        part=None,
        last=None,
    )


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One Parquet file."""

    parquet: Any
    meta: TraceMeta
    groups: tuple[Group, ...]


def _open(path: Path) -> OpenFile:
    with naming_unopened(path):
        file = open_regular(path)
    with _naming(path):
        return open_file(file)


@contextmanager
def naming_unopened(path: Path) -> Iterator[None]:
    """Have what keeps a path from being opened end as UsageError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{printable(str(path))}: cannot open the trace: {reason}") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have whatever is wrong with a file end as TraceError that names it."""
    name = printable(str(path))
    try:
        yield
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    # Arrow reports what it cannot decode with half a dozen types, some of them built in.
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise TraceError(f"{name}: not a readable Parquet file: {short(error)}") from error
    except (MemoryError, RecursionError, OverflowError) as error:
        raise TraceError(f"{name}: too large or too deep to be a trace") from error


def open_file(file: BinaryIO) -> OpenFile:
    """A trace file, less what is in its columns. Raises TraceError, and whatever Arrow raises."""
    if file.seek(0, 2) == 0:
        raise TraceError("the file is empty")
    file.seek(0)
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    described = parquet.metadata.metadata or {}
    meta = decode(described)
    check_columns(parquet.schema_arrow)
    rows = [_rows(parquet.metadata.row_group(index)) for index in range(parquet.num_row_groups)]
    ranges = decode_groups(described, rows)
    groups = tuple(_group(index, count, None if ranges is None else ranges[index]) for index, count in enumerate(rows))
    claimed, held = parquet.metadata.num_rows, sum(rows)
    if claimed != held:
        raise TraceError(f"claims {claimed} operations, has {held}")
    return OpenFile(parquet, meta, groups)


def _rows(claimed: Any) -> int:
    """Of a row group, by its file's metadata."""
    rows: int = claimed.num_rows
    if not 0 <= rows <= MAX_GROUP:
        raise TraceError(f"a row group of {rows} operations, more than {MAX_GROUP} are not read: write smaller ones")
    if claimed.total_byte_size > MAX_ROW * rows + MAX_METADATA:
        raise TraceError(f"a row group of {rows} operations unpacks to {claimed.total_byte_size} bytes")
    return rows


def _group(index: int, rows: int, known: GroupRange | None) -> Group:
    group = Group(0, 0, index, rows)
    if known is None:
        return group
    last_end = LAST_NUMBER if known.last_end is None else known.last_end
    kinds = (known.first_kind, known.last_kind)
    return dataclasses.replace(
        group, first_begin=known.first_begin, last_begin=known.last_begin, last_end=last_end, kinds=kinds
    )


def read_group(parquet: Any, index: int, names: tuple[str, ...]) -> dict[str, Array]:
    """Columns of a row group, nulls replaced; what the schema forbids is refused, what values mean is not looked at."""
    count: int = parquet.metadata.row_group(index).num_rows
    # Threads of Arrow's own would not help: what is parallel is parallel by processes.
    table = parquet.read_row_group(index, columns=list(names), use_threads=False)  # those that it has
    table.validate(full=True)
    if table.num_rows != count:
        raise TraceError(f"a row group claims {count} operations, has {table.num_rows}")
    columns: dict[str, Array] = {}
    in_flight = None
    for name in names:
        if name in LATER and name not in table.column_names:
            columns[name] = np.full(count, NULLS[name], OPERATION[name])
            continue
        column = table.column(name)
        if name not in NULLS and column.null_count:
            raise TraceError(f"column {name} has nulls")
        if name in ENDS:
            null = column.is_null().to_numpy()
            if in_flight is None:
                in_flight = null
            elif np.any(null != in_flight):
                raise TraceError(f"an operation ended and has no {name}, or has one and never ended")
        if pa.types.is_dictionary(KINDS[name]):
            columns[name] = _codes(name, column)
        else:
            filled = column.fill_null(NULLS[name]) if column.null_count else column
            columns[name] = filled.to_numpy()
    if in_flight is not None and "seq_end" in columns and np.any((columns["seq_end"] == 0) != in_flight):
        raise TraceError("an operation has a sequence number of 0")
    return columns


def _codes(name: str, column: Any) -> Array:
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


def _check_claims(group: Group, columns: Mapping[str, Array]) -> None:
    """Raise TraceError where a row group reaches further than its file says: it would be read too late."""
    if any(len(column) != group.rows for column in columns.values()):
        raise TraceError("it has changed since it was opened")
    begin, end = columns.get("seq_begin"), columns.get("seq_end")
    wrong = begin is not None and bool(np.any((begin < group.first_begin) | (begin > group.last_begin)))
    if end is not None and group.last_end != LAST_NUMBER:
        wrong |= bool(np.any((end == 0) | (end > group.last_end)))
    if wrong:
        raise TraceError(f"eofrace.groups in its metadata is wrong about row group {group.index}: remove that key")
