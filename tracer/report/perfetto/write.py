"""Writes the trace, a stretch of a row group at a time: as much memory as that takes, and two numbers for each wait."""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from tracer.operations import MARKS, NONE_RESULT, NONE_SIZE, Op
from tracer.output import atomic_output
from tracer.report.hazard_text import sentence
from tracer.report.perfetto import packets
from tracer.report.perfetto.flows import Flows, find
from tracer.report.perfetto.lanes import Lanes
from tracer.report.source import Recording, Source
from tracer.report.standing import Assessed, assess_all, concluded
from tracer.report.wire import Shape
from tracer.stored import Stored
from tracer.trace_columns import NAMES


class _Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> int: ...


Columns = dict[str, npt.NDArray[Any]]

_BATCH = 1 << 16
"""Operations that are put into packets at once."""

_OPS = tuple(Op)
_NOTES = (
    "offset",
    "length",
    "flags",
    "seq_begin",
    "seq_end",
    "result",
    "size_begin",
    "size_end",
    "request",
    "t_applied",
    "tid",
)
_ALWAYS = ("offset", "length", "flags", "seq_begin")
_ON_FILE = ("offset", "length", "seq_begin", "tid")
_OF_A_FILE = tuple(op for op in Op if op not in MARKS or op is Op.MARK_FALLOCATE)
"""What happens to the file itself: the other marks have offsets of the guest's disk, or none."""


def write(source: Source, target: str | Path) -> None:
    """Write the trace, packed if `target` ends with .gz. Raises like `tracer.output.atomic_output`, and TraceError."""
    with atomic_output(target) as raw, _packed(raw, str(target)) as file:
        assessed = assess_all(source)
        verdict, reason = concluded(source, assessed)
        spans = [_span(recording.trace) for recording in source.recordings]
        start = min((span[0] for span in spans if span is not None), default=0)
        file.write(packets.head(start))
        file.write(packets.names([op.label for op in _OPS], _NOTES, ["operation"]))
        whole = packets.uuid("eofrace")
        file.write(packets.track(whole, f"eofrace: {verdict.value}"))
        notes = {"verdict": verdict.value, "reason": reason, "path": str(source.path)}
        file.write(packets.event(packets.INSTANT, start, whole, f"verdict: {verdict.value}", notes))
        writer = _Writer(file, whole)
        for number, (recording, one, span) in enumerate(zip(source.recordings, assessed, spans, strict=True)):
            writer.recording(number, recording, one, span or (start, start))


@contextmanager
def _packed(raw: BinaryIO, name: str) -> Iterator[_Sink]:
    if not name.endswith(".gz"):
        yield raw
        return
    # No name and time of its own: the same report is the same bytes.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as file:
        yield file


def _span(trace: Stored | None) -> tuple[int, int] | None:
    """First begin and last end of a trace (ns); None: it has no operation."""
    spans = []
    for group in () if trace is None else trace.groups:
        assert trace is not None
        columns = trace.read(group, ("t_begin", "t_end"))
        if group.rows:
            last = max(int(columns["t_begin"].max()), int(columns["t_end"].max()))
            spans.append((int(columns["t_begin"].min()), last))
    return (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None


class _Writer:
    def __init__(self, file: _Sink, whole: int) -> None:
        self._file = file
        self._whole = whole
        self._threads: dict[tuple[int, int], int] = {}
        self._processes: set[int] = set()
        self._files: dict[tuple[int, int], int] = {}
        self._recording = 0
        self._of_threads: Lanes[tuple[int, int, int]] = Lanes(self._open_of_thread)
        self._of_files: Lanes[tuple[int, int, int]] = Lanes(self._open_of_file)
        self._names: dict[tuple[int, int], str] = {}
        self._shapes: dict[tuple[tuple[str, ...], int], Shape] = {}
        self._ends = Shape(packets.ends())
        self._flow = 1

    def recording(self, number: int, recording: Recording, one: Assessed, span: tuple[int, int]) -> None:
        """A recording: what is said of it, its hazards, and its operations."""
        # Another run's files may have the numbers of those before; its threads are what they were.
        self._recording = packets.uuid("recording", number, recording.name)
        self._files = {}
        self._of_files = Lanes(self._open_of_file)
        self._file.write(packets.track(self._recording, f"{recording.name}: {recording.verdict.value}", self._whole))
        flows = None if recording.trace is None else find(recording.trace, self._flow)
        self._flow += 0 if flows is None else len(flows.at) // 2
        notes: dict[str, str | int] = {
            "verdict": recording.verdict.value,
            "standing": one.standing.value,
            "reason": one.reason,
        }
        notes |= {f"not complete {at}": doubt for at, doubt in enumerate(one.doubts, 1)}
        if recording.analysis is not None and flows is not None:
            analysis = recording.analysis
            notes |= {"operations": analysis.operations, "dropped": analysis.dropped, "unfinished": analysis.unfinished}
            notes |= {"waits": flows.waits, "flows": len(flows.at) // 2}
        name = f"{recording.name}: {recording.verdict.value}"
        self._file.write(packets.event(packets.BEGIN, span[0], self._recording, name, notes))
        self._file.write(packets.event(packets.END, span[1], self._recording))
        self._hazards(recording)
        if recording.trace is not None and flows is not None:
            self._operations(recording.trace, flows)

    def _hazards(self, recording: Recording) -> None:
        hazards = () if recording.analysis is None else recording.analysis.hazards
        if not hazards:
            return
        uuid = packets.uuid("hazards", self._recording)
        self._file.write(packets.track(uuid, "hazards", self._recording))
        for hazard in hazards:
            said = "".join(part if isinstance(part, str) else part[0] for part in sentence(hazard))
            for which, pair in (("first", hazard.earliest), ("worst", hazard.worst), ("last", hazard.latest)):
                time = max(pair.first["t_begin"], pair.second["t_begin"])
                notes: dict[str, str | int] = {"told": said, "example": which, "pairs": hazard.pairs}
                notes |= {"first": pair.first["seq_begin"], "second": pair.second["seq_begin"]}
                name = f"{pair.outcome.label}: {hazard.rule}"
                self._file.write(packets.event(packets.INSTANT, time, uuid, name, notes))

    def _operations(self, trace: Stored, flows: Flows) -> None:
        for group in trace.groups:
            columns = trace.read(group, NAMES)
            for low in range(0, group.rows, _BATCH):
                self._batch({name: values[low : low + _BATCH] for name, values in columns.items()}, flows)

    def _batch(self, ops: Columns, flows: Flows) -> None:
        """Operations (n,): first all begins, then all ends; on each track they are in order, and never touch."""
        kinds = np.zeros(256, np.uint64)
        kinds[[int(op) for op in _OPS]] = np.arange(1, len(_OPS) + 1)
        ended = ops["seq_end"] != 0
        until = np.where(ended, ops["t_end"].astype(float), np.inf).tolist()
        # As integers where there are some: float64 has no nanoseconds beyond 104 days.
        for at, end in zip(np.flatnonzero(ended).tolist(), ops["t_end"][ended].tolist(), strict=True):
            until[at] = end
        values = {**ops, "time": ops["t_begin"], "name": kinds[ops["op"]]}
        begins = ops["t_begin"].tolist()
        for comm, pid, tid in set(zip(ops["comm"].tolist(), ops["pid"].tolist(), ops["tid"].tolist(), strict=True)):
            self._names.setdefault((pid, tid), comm.decode("utf-8", "replace"))
        op, pid, tid = ops["op"].tolist(), ops["pid"].tolist(), ops["tid"].tolist()
        take = self._of_threads.take
        keys = zip(pid, tid, op, begins, until, strict=True)
        values["track"] = np.array([take((p, t, o), b, e) for p, t, o, b, e in keys], np.uint64)
        self._begin(values, flows, ended)
        self._end(values, ended)
        on_file = np.flatnonzero(np.isin(ops["op"], _OF_A_FILE))
        if not len(on_file):
            return
        some = {name: column[on_file] for name, column in values.items()}
        take = self._of_files.take
        rows = on_file.tolist()
        files = zip(some["dev"].tolist(), some["ino"].tolist(), some["op"].tolist(), rows, strict=True)
        some["track"] = np.array([take((d, i, o), begins[at], until[at]) for d, i, o, at in files], np.uint64)
        self._put(some, np.ones(len(on_file), bool), _ON_FILE, 0)
        self._end(some, ended[on_file])

    def _begin(self, ops: Columns, flows: Flows, ended: npt.NDArray[np.bool_]) -> None:
        """Slices of threads begin: with those notes that are known of an operation, and its flows."""
        first, count = flows.of(ops["seq_begin"])
        notes = {
            "seq_end": ended,
            "result": ended & (ops["result"] != NONE_RESULT),
            "size_begin": ops["size_begin"] != NONE_SIZE,
            "size_end": ended & (ops["size_end"] != NONE_SIZE),
            "request": ops["request"] != 0,
            "t_applied": ops["t_applied"] != 0,
        }
        code = count << len(notes)
        for bit, known in enumerate(notes.values()):
            code |= known.astype(np.int64) << bit
        for kind in np.unique(code).tolist():
            mine = code == kind
            flowing = kind >> len(notes)
            told = (*_ALWAYS, *(name for bit, name in enumerate(notes) if kind >> bit & 1))
            for at in range(flowing):
                ends = np.zeros(len(mine), np.uint64)
                ends[mine] = flows.flow[first[mine] + at]
                ops[f"flow{at}"] = ends
            self._put(ops, mine, told, flowing)

    def _put(self, ops: Columns, mine: npt.NDArray[np.bool_], notes: tuple[str, ...], flows: int) -> None:
        shape = self._shapes.get((notes, flows))
        if shape is None:
            known = [(_NOTES.index(name) + 1, name) for name in notes]
            shape = self._shapes[notes, flows] = Shape(packets.begins(known, flows))
        count = int(mine.sum())
        holes = ("time", "track", "name", *notes, *(f"flow{at}" for at in range(flows)))
        self._file.write(shape.filled(count, {name: ops[name][mine] for name in holes}).data)

    def _end(self, ops: Columns, ended: npt.NDArray[np.bool_]) -> None:
        values = {"time": ops["t_end"][ended], "track": ops["track"][ended]}
        self._file.write(self._ends.filled(int(ended.sum()), values).data)

    def _open_of_thread(self, key: tuple[int, int, int], number: int) -> int:
        """A track of a thread for operations of a kind. Returns its uuid."""
        pid, tid, op = key
        parent = self._threads.get((pid, tid))
        if parent is None:
            name = self._names.get((pid, tid), "")
            if pid not in self._processes:
                self._processes.add(pid)
                self._file.write(packets.process(packets.uuid("process", pid), pid, name))
            parent = self._threads[pid, tid] = packets.uuid("thread", pid, tid)
            self._file.write(packets.thread(parent, pid, tid, name))
        uuid = packets.uuid("thread", pid, tid, op, number)
        self._file.write(packets.track(uuid, Op(op).label, parent))
        return uuid

    def _open_of_file(self, key: tuple[int, int, int], number: int) -> int:
        """The same of a file."""
        dev, ino, op = key
        parent = self._files.get((dev, ino))
        if parent is None:
            parent = self._files[dev, ino] = packets.uuid("file", self._recording, dev, ino)
            name = f"inode {ino} of device {os.major(dev)}:{os.minor(dev)}"
            self._file.write(packets.track(parent, name, self._recording))
        uuid = packets.uuid("file", self._recording, dev, ino, op, number)
        self._file.write(packets.track(uuid, Op(op).label, parent))
        return uuid
