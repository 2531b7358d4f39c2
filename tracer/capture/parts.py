"""Where recorded operations go: into memory, or into a directory of trace files of bounded size.

A part is a whole trace (`tracer.trace`) of what ended while it was open: whatever becomes of the recorder, the parts
before are readable. The last one holds what was in flight at the end, and says that it is the last.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracer import trace
from tracer.errors import UsageError
from tracer.operations import OPERATION, Columns, Operations, in_rows
from tracer.output import make_directory
from tracer.report.escape import printable
from tracer.trace import COLUMNS, PART, TraceMeta

PART_OPERATIONS = 200_000
"""Operations in a part unless the user says otherwise: 29 MB in memory, some 3 MB on disk."""


class Memory:
    """Keeps up to `limit` operations; `full` says that there were more."""

    def __init__(self, limit: int) -> None:
        self.full = False
        self.count = 0
        self._limit = limit
        self._chunks: list[Operations] = []

    def add(self, ops: Columns, dropped: int) -> None:
        """Keep what ended since the last time."""
        kept = {name: values[: self._limit - self.count] for name, values in ops.items()}
        count = len(kept["op"])
        self.full = self.full or count < len(ops["op"])
        self.count += count
        if count:
            self._chunks.append(in_rows(kept))

    def all(self) -> Operations:
        """Everything, (n,) of OPERATION."""
        return np.concatenate(self._chunks) if self._chunks else np.empty(0, OPERATION)


class Directory:
    """Writes a part for every `size` operations into a directory that has none yet. Raises UsageError."""

    def __init__(self, path: Path, size: int, meta: Callable[[], TraceMeta]) -> None:
        self.path = make_directory(path)
        if any(PART.fullmatch(entry.name) for entry in self.path.iterdir()):
            raise UsageError(f"{printable(str(path))}: has a trace already: name another directory")
        self._parts = 0  # written
        self._size = size
        self._meta = meta
        # A field behind the other, of each the first `_count` values wait to be written.
        self._columns = {name: np.empty(size, OPERATION[name]) for name, _ in COLUMNS}
        self._count = 0
        self._dropped = 0

    def add(self, ops: Columns, dropped: int) -> None:
        """Keep what ended since the last time, and write it when it is enough. Raises OSError, UnsupportedError."""
        self._dropped += dropped
        low, count = 0, len(ops["op"])
        while low < count:
            fitting = min(count - low, self._size - self._count)
            for name, values in self._columns.items():
                values[self._count : self._count + fitting] = ops[name][low : low + fitting]
            self._count += fitting
            low += fitting
            if self._count == self._size:
                self._write(last=False)

    def close(self) -> None:
        """Write the last part, and see to it that all are on the disk: not before, for the sake of who is watched."""
        self._write(last=True)
        for number in range(1, self._parts + 1):
            descriptor = os.open(self._part(number), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:06d}.parquet"

    def _write(self, *, last: bool) -> None:
        columns = {name: values[: self._count] for name, values in self._columns.items()}
        self._count = 0
        self._parts += 1
        unfinished = int(np.count_nonzero(columns["seq_end"] == 0))
        meta = dataclasses.replace(
            self._meta(), dropped=self._dropped, unfinished=unfinished, part=self._parts, last=last
        )
        trace.write_columns(self._part(self._parts), columns, meta, durable=False)
        self._dropped = 0
        pa.default_memory_pool().release_unused()
