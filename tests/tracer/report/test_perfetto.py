"""The Perfetto trace, read back by Perfetto's own protos: every operation is there, once a thread and once a file."""

import gzip
import math
import subprocess
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BuiltinClock,
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from tests.tracer.report.made import COMM, HOSTILE, cell, control, exposed, run, stored
from tests.tracer.test_commands import EOFRACE
from tracer.analysis.examples import as_operations, operation
from tracer.analysis.hazards import Verdict
from tracer.operations import MARKS, Op, Operations
from tracer.report import wire
from tracer.report.perfetto import write
from tracer.report.perfetto.lanes import Lanes
from tracer.report.source import Recording, Source, load
from tracer.stored import stored as read_stored

BEGIN, END, INSTANT = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END, TrackEvent.TYPE_INSTANT
OF_A_FILE = [op for op in Op if op not in MARKS or op is Op.MARK_FALLOCATE]


class Read:
    """A trace as a reader that knows only Perfetto's protos sees it."""

    def __init__(self, raw: bytes) -> None:
        trace = Trace()
        trace.ParseFromString(raw)
        self.packets: list[TracePacket] = list(trace.packet)
        self.tracks: dict[int, TrackDescriptor] = {}
        self.names: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        self.events: list[tuple[int, TrackEvent]] = []
        for packet in self.packets:
            if packet.HasField("track_descriptor"):
                assert packet.track_descriptor.uuid not in self.tracks
                self.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            self.names |= {one.iid: one.name for one in packet.interned_data.event_names}
            self.notes |= {one.iid: one.name for one in packet.interned_data.debug_annotation_names}
            if packet.HasField("track_event"):
                assert packet.track_event.track_uuid in self.tracks, "a track is described before it is used"
                self.events.append((packet.timestamp, packet.track_event))

    def name(self, event: TrackEvent) -> str:
        return str(event.name or self.names.get(event.name_iid, ""))

    def values(self, event: TrackEvent) -> dict[str, Any]:
        found = {}
        for note in event.debug_annotations:
            kind = note.WhichOneof("value")
            found[note.name or self.notes[note.name_iid]] = getattr(note, kind)
        return found

    def above(self, uuid: int) -> Iterator[TrackDescriptor]:
        while uuid:
            yield self.tracks[uuid]
            uuid = self.tracks[uuid].parent_uuid

    def is_of_thread(self, event: TrackEvent) -> bool:
        return any(track.HasField("thread") for track in self.above(event.track_uuid))

    def slices(self) -> list[tuple[int, float, TrackEvent]]:
        """Begin, end and first event of each slice; fails where they do not nest."""
        of_track: dict[int, list[tuple[int, TrackEvent]]] = defaultdict(list)
        for time, event in self.events:
            of_track[event.track_uuid].append((time, event))
        found: list[tuple[int, float, TrackEvent]] = []
        for events in of_track.values():
            events.sort(key=lambda item: item[0])  # stable, as the trace processor sorts
            opened: list[tuple[int, TrackEvent]] = []
            for time, event in events:
                if event.type == BEGIN:
                    opened.append((time, event))
                elif event.type == END:
                    begun, first = opened.pop()
                    found.append((begun, time, first))
                    assert not opened, "operations of one track do not even nest"
            found += [(begun, math.inf, first) for begun, first in opened]
        return found


def read_back(source_path: Path, target: Path) -> Read:
    write(load(source_path), target)
    raw = target.read_bytes()
    return Read(gzip.decompress(raw) if target.suffix == ".gz" else raw)


def operations(read: Read) -> list[tuple[int, float, TrackEvent]]:
    return [one for one in read.slices() if read.name(one[2]) in {op.label for op in Op}]


def random_trace(seed: int, count: int) -> Operations:
    """Operations of some threads on some files that overlap in every way, with requests and waits."""
    random = np.random.default_rng(seed)
    begins = np.sort(random.choice(50 * count, count, replace=False)) + 1
    numbers = iter(range(1, 4 * count))
    rows = []
    for begin in begins.tolist():
        op = Op(int(random.choice([int(op) for op in Op])))
        end = 0 if random.random() < 0.01 else begin * 1000 + int(random.integers(0, 40_000))
        row: dict[str, Any] = dict(operation(op, next(numbers), end and 1, 4096 * begin % 7, 4096))
        row |= {"t_begin": begin * 1000, "t_end": end, "ino": int(random.integers(1, 4)), "pid": 10}
        row |= {"tid": int(random.integers(10, 14)), "request": int(random.integers(0, count // 4))}
        row |= {"result": int(random.integers(1, count // 4)) if op is Op.MARK_WAIT else -5, "comm": b"qemu"}
        rows.append(row)
    for row in sorted((row for row in rows if row["seq_end"]), key=lambda row: row["t_end"]):
        row["seq_end"] = next(numbers) + 2 * count
    return as_operations(tuple(rows))


@pytest.mark.parametrize("seed", range(4))
def test_every_operation_is_there_with_its_times_and_figures(seed: int, tmp_path: Path) -> None:
    ops = random_trace(seed, 400)
    read = read_back(stored(tmp_path / "a.parquet", ops), tmp_path / "a.perfetto-trace")
    of_thread: list[tuple[Any, ...]] = []
    of_file: list[tuple[Any, ...]] = []
    for begin, end, event in operations(read):
        values = read.values(event)
        key = (values["seq_begin"], read.name(event), begin, end, values["offset"], values["length"])
        (of_thread if read.is_of_thread(event) else of_file).append(key)
    wanted = []
    for one in ops.tolist():
        row = dict(zip(ops.dtype.names or (), one, strict=True))
        end = row["t_end"] if row["seq_end"] else math.inf
        wanted.append((row["seq_begin"], Op(row["op"]).label, row["t_begin"], end, row["offset"], row["length"]))
    assert sorted(of_thread) == sorted(wanted)
    touching = {op.label for op in OF_A_FILE}
    assert sorted(of_file) == sorted(key for key in wanted if key[1] in touching)
    assert any(end == math.inf for *_, end, _, _ in wanted), "the control: some never ended"


def test_a_slice_is_on_the_track_of_its_thread_and_of_its_file(tmp_path: Path) -> None:
    ops = random_trace(1, 200)
    by_number = {int(one["seq_begin"]): one for one in ops}
    read = read_back(stored(tmp_path / "a.parquet", ops), tmp_path / "out")
    for _, _, event in operations(read):
        one = by_number[read.values(event)["seq_begin"]]
        lane, parent, *_ = read.above(event.track_uuid)
        assert lane.name == Op(int(one["op"])).label
        if read.is_of_thread(event):
            assert (parent.thread.pid, parent.thread.tid) == (one["pid"], one["tid"])
        else:
            assert parent.name == f"inode {one['ino']} of device 0:1"


def test_flows_lead_from_what_was_waited_for_to_what_waited(tmp_path: Path) -> None:
    zero, write_, third = 1 << 32 | 1, 2 << 32 | 2, 3 << 32 | 3
    ops = as_operations(
        (
            operation(Op.MARK_REQUEST, 1, 9, 0, 4096, request=zero, flags=1),
            operation(Op.FALLOCATE, 2, 5, 0, 4096, request=zero),
            operation(Op.MARK_REQUEST, 3, 12, 4096, 4096, request=write_),
            operation(Op.MARK_WAIT, 4, 10, 4096, 4096, request=write_, result=zero),
            operation(Op.AIO_WRITE, 11, 13, 4096, 4096, request=write_),
            operation(Op.MARK_REQUEST, 6, 16, 8192, 4096, request=third),  # did nothing in the kernel
            operation(Op.MARK_WAIT, 7, 15, 8192, 4096, request=third, result=zero),
            operation(Op.MARK_WAIT, 8, 14, 8192, 4096, request=third, result=99),  # of which nothing is known
        )
    )
    read = read_back(stored(tmp_path / "a.parquet", ops), tmp_path / "out")
    ends = defaultdict(list)
    for time, event in read.events:
        for flow in event.flow_ids:
            ends[flow].append((time, read.name(event), read.values(event)["seq_begin"]))
    assert sorted(sorted(end[1:] for end in both) for both in ends.values()) == [
        [("aio_write", 11), ("fallocate", 2)],
        [("fallocate", 2), ("mark_request", 6)],
    ]
    (notes,) = [values for _, event in read.events if "waits" in (values := read.values(event))]
    assert (notes["waits"], notes["flows"]) == (3, 2)


def test_the_clock_is_declared_monotonic(tmp_path: Path) -> None:
    read = read_back(stored(tmp_path / "a.parquet", exposed()), tmp_path / "out")
    first = read.packets[0]
    monotonic = BuiltinClock.BUILTIN_CLOCK_MONOTONIC
    assert first.clock_snapshot.primary_trace_clock == monotonic
    assert [clock.clock_id for clock in first.clock_snapshot.clocks] == [monotonic]
    assert first.trace_packet_defaults.timestamp_clock_id == monotonic
    assert first.sequence_flags == TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    assert {packet.trusted_packet_sequence_id for packet in read.packets} == {1}
    assert {packet.sequence_flags for packet in read.packets[1:]} == {TracePacket.SEQ_NEEDS_INCREMENTAL_STATE}


@pytest.mark.parametrize(("dropped", "verdict"), [(3, "inconclusive"), (0, "confirmed")])
def test_the_verdict_and_what_was_dropped_are_on_a_track(dropped: int, verdict: str, tmp_path: Path) -> None:
    read = read_back(stored(tmp_path / "a.parquet", exposed()[1:], dropped=dropped), tmp_path / "out")
    assert f"eofrace: {verdict}" in {track.name for track in read.tracks.values()}
    (notes,) = [values for _, event in read.events if "standing" in (values := read.values(event))]
    assert notes["dropped"] == dropped
    assert (notes.get("not complete 1") == "3 records were dropped") == bool(dropped)


def test_hazards_are_instants(tmp_path: Path) -> None:
    read = read_back(stored(tmp_path / "a.parquet", exposed()), tmp_path / "out")
    found = [(time, read.name(event), read.values(event)) for time, event in read.events if event.type == INSTANT]
    assert Counter(name for _, name, _ in found)["exposed: post-eof-fallocate"] == 3
    assert {time for time, name, _ in found if name.startswith("exposed")} == {2000}


def test_cells_of_a_run_stand_beside_each_other(tmp_path: Path) -> None:
    cells = [control(trace="a.parquet"), control("corrupt", trace="b.parquet", lost=1), cell("confirmed")]
    directory = run(tmp_path / "out", cells)
    for name in ("a", "b"):
        stored(directory / f"{name}.parquet", exposed())
    read = read_back(directory, tmp_path / "a.gz")
    assert len(operations(read)) == 8
    tracks = [track for track in read.tracks.values() if track.name == "inode 1 of device 0:1"]
    assert {read.tracks[track.parent_uuid].name for track in tracks} == {
        "none x kernel: unsafe",
        "none x kernel: corrupt",
    }
    assert "serialise x kernel: confirmed" in {track.name for track in read.tracks.values()}


def test_hostile_names_are_printable_text(tmp_path: Path) -> None:
    directory = run(tmp_path / "out", [control(reason=HOSTILE, name=HOSTILE, trace="a.parquet")], reason=HOSTILE)
    stored(directory / "a.parquet", exposed(COMM))
    read = read_back(directory, tmp_path / "x")
    texts = [track.name + track.thread.thread_name + track.process.process_name for track in read.tracks.values()]
    texts += [str(value) for _, event in read.events for value in (read.name(event), *read.values(event).values())]
    assert all(text.isprintable() for text in texts)
    assert any("<script>alert(1)" in text for text in texts)
    assert any("\\x1b[2J<b>`" in text for text in texts)


def test_the_extremes_of_every_number(tmp_path: Path) -> None:
    ops = exposed()
    ops["t_end"], ops["t_begin"] = 2**63 - 1, 2**63 - 2
    ops["length"], ops["offset"] = 1, 2**63 - 2
    ops["pid"] = ops["tid"] = 2**32 - 1
    ops["dev"] = ops["ino"] = ops["request"] = 2**64 - 1
    ops["flags"], ops["result"] = 2**32 - 1, -(2**63) + 1
    read = read_back(stored(tmp_path / "a.parquet", ops), tmp_path / "x")
    assert {(begin, end) for begin, end, _ in operations(read)} == {(2**63 - 2, 2**63 - 1)}
    values = [read.values(event) for _, _, event in operations(read)]
    assert {value["result"] for value in values if "result" in value} == {-(2**63) + 1}
    assert {value["offset"] for value in values} == {2**63 - 2}


def test_varints_are_what_a_reader_reads() -> None:
    for value in (0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1):
        padded = wire.Shape(wire.message(1, wire.hole(8, "time"))).filled(1, {"time": np.array([value], np.uint64)})
        short = wire.plain(wire.message(1, wire.number(8, value)))
        for raw in (padded.tobytes(), short):
            trace = Trace()
            trace.ParseFromString(raw)
            assert trace.packet[0].timestamp == value


def test_lanes_never_hold_two_at_once() -> None:
    opened: list[tuple[str, int]] = []

    def open_(key: str, number: int) -> int:
        opened.append((key, number))
        return len(opened)

    lanes = Lanes(open_)
    spans = [(1, 5), (2, 3), (3, 9), (5, 6), (6, 7), (4, 4), (10, math.inf), (11, 12)]
    taken = [lanes.take("a", begin, end) for begin, end in spans]
    assert taken == [1, 2, 3, 2, 1, 4, 1, 2]
    assert lanes.take("b", 1, 2) == 5


def test_a_pipe_gets_it(tmp_path: Path) -> None:
    trace = stored(tmp_path / "a.parquet", exposed())
    words = [*EOFRACE, "report", str(trace), "--format", "perfetto", "-o", "-"]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(Read(done.stdout).packets) > 10


def test_memory_does_not_grow_with_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.trace.ROW_GROUP", 1 << 13)
    peaks = []
    for count in (1 << 14, 3 << 14):
        ops = np.resize(exposed(), count)
        ops["seq_begin"] = np.arange(1, count + 1)
        ops["t_begin"] = ops["seq_begin"] * 1000
        ops["seq_end"], ops["t_end"] = ops["seq_begin"] + count, ops["t_begin"] + 5000
        path = stored(tmp_path / f"{count}.parquet", ops)
        recording = Recording("big", Verdict.CONFIRMED, "", False, None, read_stored(path), None)
        source = Source(path, {}, Verdict.CONFIRMED, "", (recording,))
        del ops
        tracemalloc.start()
        write(source, tmp_path / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size > 2 * peaks[1], "the control: the trace is larger than what was held"
    assert peaks[1] < 1.2 * peaks[0]
