"""`eofrace watch`: the pairs that `trace` finds, as they happen, and what it could not see counted."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.tracer.capture.test_capture import LOAD, stop
from tests.tracer.verify.test_verify import EOFRACE, eofrace, one_line
from tracer import trace
from tracer.analysis.rules import Rule, RulePairs
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.commands.watch import WATCHING
from tracer.errors import Status
from tracer.hooks import Table
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.operations import Op, Operations
from tracer.watch import pairs, run
from tracer.watch.result import Event, Watched

pytestmark = pytest.mark.root


def watched(*words: object, timeout: float = 120) -> tuple[list[dict[str, Any]], "subprocess.CompletedProcess[str]"]:
    """What `eofrace watch --json-lines` says, of a command that writes nothing to stdout."""
    done = eofrace("watch", "--json-lines", *map(str, words), timeout=timeout)
    return [json.loads(line) for line in done.stdout.splitlines()], done


def in_process(*command: object, **named: Any) -> tuple[Watched, list[Event]]:
    events: list[Event] = []
    options = run.Options(command=tuple(map(str, command)), **named)
    return run.watch(options, events.append, lambda state: None), events


@contextlib.contextmanager
def watching(*words: object) -> Iterator["subprocess.Popen[str]"]:
    """A running `eofrace watch`, attached."""
    command = [*EOFRACE, "watch", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == WATCHING + "\n"
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


Found = dict[tuple[int, ...], int]
"""Outcome of each pair, by what both recorders tell of its operations."""


def by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *load: object) -> tuple[Found, Found, Watched]:
    """Pairs that watch and trace find in the same run."""

    def key(first: Any, second: Any) -> tuple[int, ...]:
        return tuple(int(row[name]) for row in (second, first) for name in ("tid", "op", "offset", "length"))

    told: list[tuple[tuple[int, ...], int]] = []
    of_new = pairs._of_new

    def spy(rule: Rule, ops: Operations, is_new: Any) -> Iterator[RulePairs]:
        for chunk in of_new(rule, ops, is_new):
            for f, w, outcome in zip(chunk.first, chunk.second, chunk.outcome.tolist(), strict=True):
                told.append((key(ops[f], ops[w]), outcome))
            yield chunk

    monkeypatch.setattr(pairs, "_of_new", spy)
    kept = tmp_path / "t.parquet"
    result, events = in_process(*EOFRACE, "trace", "-q", "-o", kept, "--", sys.executable, LOAD, *load)
    of_watch = dict(told)
    assert result.state.counts.exposed == len(told) == len(of_watch) == sum(event.hazard.pairs for event in events)
    assert result.status is Status.HAZARD
    ops = trace.read(kept).ops
    judged = RULE.pairs(ops, shortenings_are_known=False)
    of_trace = {
        key(ops[f], ops[w]): int(outcome)
        for f, w, outcome in zip(judged.first, judged.second, judged.outcome, strict=True)
    }
    return of_watch, of_trace, result


@pytest.mark.slow
def test_the_same_pairs_as_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both at once: blockstack without a workaround on XFS."""
    of_watch, of_trace, result = by_both(tmp_path, monkeypatch, "guest", "none")
    assert not any(result.state.lost.values())
    assert len(of_trace) > 20
    # Each looks at the file's size itself: what one takes for post-EOF, a microsecond later need not be.
    assert len(of_trace.keys() ^ of_watch.keys()) <= len(of_trace) // 10
    differ = [pair for pair in of_trace.keys() & of_watch.keys() if of_trace[pair] != of_watch[pair]]
    assert len(differ) <= len(of_trace) // 10


def test_buffered_writes_by_io_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told when io_submit is over, with what they have met until then."""
    with loop_scratch("xfs", 512 << 20, default_directory()) as scratch:
        of_watch, of_trace, result = by_both(tmp_path, monkeypatch, "aio", scratch.path / "f", 300)
    assert {pair[1] for pair in of_trace} == {Op.BUFFERED_WRITE}
    assert len(of_trace) > 20
    # watch was there first, and finds the file shorter: it may take a fallocate for post-EOF that trace does not.
    assert len(of_trace.keys() - of_watch.keys()) <= len(of_trace) // 10
    ops = trace.read(tmp_path / "t.parquet").ops
    fallocates = ops[ops["op"] == Op.FALLOCATE]
    alone = 0
    for _, _, offset, *_ in of_watch:
        (write,) = ops[(ops["op"] == Op.BUFFERED_WRITE) & (ops["offset"] == offset)]
        began, ended = fallocates["seq_begin"] < write["seq_end"], write["seq_begin"] < fallocates["seq_end"]
        alone += not (began & ended).any()
    assert alone <= len(of_watch) // 10, "by trace's numbers they have met none"
    assert not any(result.state.lost.values())
    assert result.state.operations[Op.BUFFERED_WRITE] >= 300


@pytest.mark.slow
def test_what_is_missed_in_a_crowd_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some wait for the inode's lock while more fallocates come and go than the table has room for."""
    of_watch, of_trace, result = by_both(tmp_path, monkeypatch, "crowd")
    writes = {pair[:4] for pair in of_trace.keys() - of_watch.keys()}
    assert len(writes) <= result.state.lost["not watched"] + len(of_trace) // 50
    assert len(of_watch.keys() - of_trace.keys()) <= len(of_trace) // 50
    assert len(of_watch) > len(of_trace) // 2


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "status"), [("none", Status.HAZARD), ("serialise", Status.OK)])
def test_a_driver_with_the_race_and_its_twin_without(strategy: str, status: Status, tmp_path: Path) -> None:
    words = ("--json", tmp_path / "summary", "--", sys.executable, LOAD, "guest", strategy)
    events, done = watched(*words)
    report = json.loads((tmp_path / "summary").read_text())
    assert done.returncode == status, done.stderr
    assert (len(events) > 0) is (strategy == "none")
    assert sum(event["pairs"] for event in events) == report["counts"]["post-eof-fallocate"]["exposed"]
    assert report["lost"] == 0
    assert report["post_eof_fallocates"] > 50
    assert report["operations"]["aio_write"] >= 400


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
def test_hazards_of_synchronous_writes(fs: str) -> None:
    with loop_scratch(fs, 512 << 20, default_directory()) as scratch:
        result, events = in_process(sys.executable, LOAD, "race", scratch.path / "f", 1000)
    assert result.status is Status.HAZARD
    assert result.state.counts.exposed > 3
    assert {(event.path or "").partition(" ")[0] for event in events} == {"/f"}  # in a mount namespace of its own
    assert {event.hazard.second["length"] for event in events} == {1 << 20}
    assert not any(result.state.lost.values())
    assert result.state.operations[Op.DIRECT_WRITE] == result.state.operations[Op.FALLOCATE] == 1000


def test_io_uring_is_watched(tmp_path: Path) -> None:
    with loop_scratch("xfs", 512 << 20, default_directory()) as scratch:
        ring = Path(LOAD).with_name("ring.py")
        result, events = in_process(sys.executable, ring, scratch.path / "f")
    assert result.status is Status.OK, result.doubts
    assert (result.state.post_eof_fallocates, len(events)) == (1, 0)
    operations = result.state.operations
    assert (operations[Op.URING_WRITE], operations[Op.FALLOCATE], operations[Op.TRUNCATE]) == (5, 2, 1)


def test_what_the_table_has_no_room_for_is_counted() -> None:
    result, events = in_process(sys.executable, LOAD, "frozen", table=Table(sets=1, slots=1))
    assert result.state.post_eof_fallocates == 2
    assert result.state.lost["not watched"] == 1  # the first gave way to the second
    assert (result.status, events) == (Status.INCONCLUSIVE, [])
    assert "1 not watched" in result.doubts
    roomy, _ = in_process(sys.executable, LOAD, "frozen")
    assert roomy.state.lost["not watched"] == 0


def test_hostile_names_stay_on_their_line(tmp_path: Path) -> None:
    name = os.fsdecode(b'a\nb\x1b[2J\xff"\\ \xe2\x80\xae.img')
    python = tmp_path / "x\n\x1b[31m"
    shutil.copy(os.path.realpath(sys.executable), python)
    words = ("--", python, LOAD, "race", tmp_path / name, 200)
    events, done = watched(*words)
    assert done.returncode == Status.HAZARD, done.stderr
    assert {event["path"] for event in events} == {str(tmp_path / name)}
    assert {event["first"]["comm"] for event in events} == {python.name}
    done = eofrace("watch", *map(str, words))
    told = [line for line in done.stderr.splitlines() if "post-eof-fallocate): inode" in line]
    assert told
    assert all("\\nb\\x1b[2J\\xff" in line and line.isprintable() for line in told)


def test_a_name_that_comes_later_and_nobody_else(tmp_path: Path) -> None:
    python = tmp_path / "late-comer"
    shutil.copy(os.path.realpath(sys.executable), python)
    with watching("--json-lines", "--comm", python.name) as process:
        subprocess.run([sys.executable, LOAD, "race", str(tmp_path / "other"), "200"], check=True)
        subprocess.run([str(python), LOAD, "race", str(tmp_path / "its"), "200"], check=True)
        text = stop(process)
    assert process.returncode == Status.HAZARD
    assert {event["path"] for event in lines(text)} == {str(tmp_path / "its")}


def test_a_file_whoever_writes_to_it(tmp_path: Path) -> None:
    (tmp_path / "its").touch()
    with watching("--json-lines", "--path", tmp_path / "its") as process:
        for name in ("other", "its"):
            subprocess.run([sys.executable, LOAD, "race", str(tmp_path / name), "200"], check=True)
        text = stop(process, signal.SIGTERM)
    assert process.returncode == Status.HAZARD
    assert {event["path"] for event in lines(text)} == {str(tmp_path / "its")}


def test_metrics_are_whole_whenever_they_are_read(tmp_path: Path) -> None:
    directory = tmp_path / "textfile"
    directory.mkdir()
    file = directory / "eofrace.prom"
    words = ("--metrics", file, "--metrics-interval", "1", "--json-lines")
    seen = set()
    python = tmp_path / "measured"
    shutil.copy(os.path.realpath(sys.executable), python)
    with watching(*words, "--comm", python.name) as process:
        load = subprocess.Popen([str(python), LOAD, "race", str(tmp_path / "f"), "2000"])
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline or load.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                text = file.read_text()
                assert text.endswith("\n")
                families = {family.name: family for family in text_string_to_metric_families(text)}
                assert len(families) == 8
                [running] = families["eofrace_watch_running"].samples
                assert running.value == 1
                seen.add(text)
        stop(process)
    assert len(seen) >= 3
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }
    assert samples["eofrace_watch_running", ()] == 0
    assert samples["eofrace_watch_operations_total", ("fallocate",)] >= 2000
    assert samples["eofrace_watch_last_hazard_seconds", ()] > time.time() - 60
    exposed = [value for (name, labels), value in samples.items() if name == "eofrace_watch_pairs_total"]
    assert sum(exposed) > 0
    assert samples["eofrace_watch_unseen_total", ("not watched",)] == 0
    assert [entry.name for entry in directory.iterdir()] == [file.name]
    assert process.returncode == Status.HAZARD


def test_duration_ends_it(tmp_path: Path) -> None:
    done = eofrace("watch", "--duration", "1", "--json", str(tmp_path / "j"), "--", "sleep", "100")
    report = json.loads((tmp_path / "j").read_text())
    assert report["ended_by"] == "its time is over"
    assert report["exit_status"] == -signal.SIGTERM
    assert done.returncode == Status.INCONCLUSIVE  # nothing was seen
    assert "no operation was seen" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary_and_nothing_is_left(number: signal.Signals) -> None:
    with watching("--", "sleep", "4321.5") as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert stdout == ""
    assert "verdict: inconclusive (no operation was seen)" in stderr
    assert process.returncode == Status.INCONCLUSIVE
    assert subprocess.run(["pgrep", "-f", "sleep 4321.5"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "say what to watch"),
        (("-p", "4194304"), "there is no process 4194304"),
        (("--path", "/nowhere/f"), "cannot open the file"),
        (("--comm", ""), "an empty name"),
        (("--metrics", "/nowhere/x.prom", "--", "true"), "no such directory"),
        (("--metrics", "/tmp", "--", "true"), "is a directory"),
        (("--metrics-interval", "0", "--", "true"), "--metrics-interval"),
        (("--metrics-interval", "nan", "--", "true"), "--metrics-interval"),
        (("--json-lines", "--json", "-", "--", "true"), "standard output already"),
        (("--duration", "inf", "--", "true"), "--duration"),
        (("--", "/nowhere/command"), "cannot start /nowhere/command: No such file"),
    ],
)
def test_trouble_is_one_line(words: tuple[str, ...], says: str) -> None:
    done = eofrace("watch", *words)
    assert says in one_line(done.stderr)
    assert done.returncode == Status.USAGE


def test_help_has_examples_and_the_exit_status() -> None:
    done = eofrace("watch", "--help")
    assert done.returncode == 0
    assert "eofrace watch --comm" in done.stdout
    assert "3 inconclusive" in done.stdout
