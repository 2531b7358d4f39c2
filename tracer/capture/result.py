"""What a recording comes to: counts, files, hazards, as text and JSON tell it."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.analysis.hazards import Analysis
from tracer.errors import Status
from tracer.operations import NONE_CPU, WRITES, Columns, Op

SCHEMA = "eofrace.capture/1"

MAX_FILES = 10_000
"""Files that are counted one by one, however long it takes: those with the most operations. Twice as many at times."""

_CARRIES_DATA = np.isin(np.arange(256), WRITES)
"""By `Op`."""


@dataclass(slots=True)
class FileCount:
    """One file's operations."""

    operations: int = 0
    bytes: int = 0  # written


@dataclass(slots=True)
class Totals:
    """Running counts, so that no operation has to be kept for them."""

    kinds: dict[str, int] = field(default_factory=dict)
    """`Op.label` -> operations, those in flight at the end among them."""
    failed: int = 0
    """Operations that ended with an error."""
    files: dict[tuple[int, int], FileCount] = field(default_factory=dict)
    """(st_dev, inode) -> counts, of the busiest files."""
    others: FileCount = field(default_factory=FileCount)
    """Of all other files together."""
    evicted: int = 0
    """How many files went there: one that is met again, as often as that happens."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> operations lost in the kernel."""
    unfinished: int = 0
    begun_before: int = 0
    """Operations that were in flight when recording began."""

    @property
    def operations(self) -> int:
        """All that were recorded."""
        return sum(self.kinds.values())

    def add(self, ops: Columns, dropped: Mapping[str, int]) -> None:
        """Count ops (n,), each of which comes once."""
        for reason, count in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.begun_before += int(np.count_nonzero(ops["cpu_begin"] == NONE_CPU))
        ended = ops["seq_end"] != 0
        self.unfinished += len(ended) - int(np.count_nonzero(ended))
        self.failed += int(np.count_nonzero(ended & (ops["result"] < 0)))
        for op, count in enumerate(np.bincount(ops["op"]).tolist()):
            if count:
                label = Op(op).label
                self.kinds[label] = self.kinds.get(label, 0) + count
        written = np.where(_CARRIES_DATA[ops["op"]] & ended, np.maximum(ops["result"], 0), 0)
        devices, on = _distinct(ops["dev"])
        for number, dev in enumerate(devices.tolist()):
            of_dev = slice(None) if len(devices) == 1 else on == number
            inodes, which = _distinct(ops["ino"][of_dev])
            counts = np.bincount(which)
            sums = np.bincount(which, weights=written[of_dev])
            for ino, count, size in zip(inodes.tolist(), counts.tolist(), sums.tolist(), strict=True):
                file = self.files.setdefault((dev, ino), FileCount())
                file.operations += count
                file.bytes += int(size)
        if len(self.files) > 2 * MAX_FILES:
            self._evict()

    def _evict(self) -> None:
        """Leave the busiest files."""
        kept = dict(heapq.nlargest(MAX_FILES, self.files.items(), key=lambda item: item[1].operations))
        for file, count in self.files.items():
            if file not in kept:
                self.others.operations += count.operations
                self.others.bytes += count.bytes
        self.evicted += len(self.files) - len(kept)
        self.files = kept


def _distinct(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The distinct values of an array (n,), and which of them each is; at little cost where all are the same."""
    if len(values) and (values == values[0]).all():
        return values[:1], np.zeros(len(values), np.int64)
    distinct, which = np.unique(values, return_inverse=True)
    return distinct, which


@dataclass(frozen=True, slots=True)
class Captured:
    """A recording that is over."""

    seconds: float
    attached_after: float
    """Seconds from the start of this process to the first operation that could be seen."""
    totals: Totals
    paths: Mapping[tuple[int, int], str | None]
    """(st_dev, inode) -> path, None where nobody could tell it."""
    earlier: Mapping[tuple[int, int], Sequence[str]]
    """(st_dev, inode) -> paths of files that had the number before, where there were some."""
    kinds: Mapping[int, str | None]
    """st_dev -> file system, None where it is not mounted here."""
    analysis: Analysis | None
    """None: too many operations to be judged here."""
    trace: Path | None
    """File or directory that was written."""
    mechanisms: Mapping[str, str]
    gaps: Mapping[str, str]
    """What was not seen -> why, and what that costs."""
    notes: tuple[str, ...]
    ended_by: str
    """Why recording ended, in words."""
    exit_status: int | None
    """Of the command, minus the signal that ended it; None where none was run."""

    @property
    def status(self) -> Status:
        """As design.md has it for analyze and trace."""
        return Status.INCONCLUSIVE if self.analysis is None else self.analysis.verdict.status

    def busiest(self) -> list[tuple[tuple[int, int], FileCount]]:
        """Files by number of operations, most first."""
        return sorted(self.totals.files.items(), key=lambda item: (-item[1].operations, item[0]))

    def to_json(self) -> dict[str, Any]:
        """The schema `eofrace.capture/1`."""
        return {
            "schema": SCHEMA,
            "seconds": round(self.seconds, 3),
            "attached_after": round(self.attached_after, 3),
            "ended_by": self.ended_by,
            "exit_status": self.exit_status,
            "operations": dict(sorted(self.totals.kinds.items())),
            "failed": self.totals.failed,
            "dropped": sum(self.totals.dropped.values()),
            "dropped_by": self.totals.dropped,
            "unfinished": self.totals.unfinished,
            "begun_before": self.totals.begun_before,
            "files": [
                {
                    "path": self.paths.get(file),
                    "earlier_paths": list(self.earlier.get(file, ())),
                    "fs": self.kinds.get(file[0]),
                    "dev": file[0],
                    "ino": file[1],
                    "operations": count.operations,
                    "bytes": count.bytes,
                }
                for file, count in self.busiest()
            ],
            "other_files": {
                "evicted": self.totals.evicted,
                "operations": self.totals.others.operations,
                "bytes": self.totals.others.bytes,
            },
            "mechanisms": dict(self.mechanisms),
            "gaps": [f"{what}: {why}" for what, why in self.gaps.items()],
            "notes": list(self.notes),
            "trace": None if self.trace is None else str(self.trace),
            "analysis": None if self.analysis is None else self.analysis.to_json(),
        }
