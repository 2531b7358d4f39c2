"""Every rule on a program that commits its hazard on a real file system, traced, and on its careful twin."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tracer.analysis import commits
from tracer import trace
from tracer.analysis.rules import Outcome, all_rules, named
from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.errors import Status
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.trace import Trace

pytestmark = pytest.mark.root


class Recorded:
    """What commits.py did on one file system."""

    def __init__(self, fs: str, captured: Captured, recorded: Trace, inodes: dict[str, int]) -> None:
        self.fs = fs
        self.captured = captured
        self._recorded = recorded
        self._inodes = inodes

    def found(self, name: str) -> dict[str, set[str]]:
        """Outcomes of all pairs on the file of that name, by rule."""
        ops = self._recorded.ops[self._recorded.ops["ino"] == self._inodes[name]]
        assert len(ops) >= 2
        assert np.all(ops["result"] >= 0)
        pairs = {rule.id: rule.pairs(ops).outcome.tolist() for rule in all_rules()}
        return {rule: {Outcome(outcome).label for outcome in found} for rule, found in pairs.items() if found}


def truncate_when_long(path: Path, stop: threading.Event) -> None:
    """Somebody who is not traced."""
    while not stop.is_set():
        if path.exists() and path.stat().st_size == commits.LONG:
            with path.open("r+b") as file:
                file.truncate(commits.SHORT)
            return
        time.sleep(0.01)


@pytest.fixture(scope="module", params=["xfs", "ext4", "btrfs"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    output = tmp_path_factory.mktemp("hazards") / "out.parquet"
    with loop_scratch(request.param, 512 << 20, default_directory()) as scratch:
        command = (sys.executable, commits.__file__, str(scratch.path))
        stop = threading.Event()
        other = threading.Thread(target=truncate_when_long, args=[scratch.path / "size-going-backwards", stop])
        other.start()
        try:
            captured = capture(Options(command=command, output=output), lambda *_: None)
        finally:
            stop.set()
            other.join()
        inodes = {path.name: path.stat().st_ino for path in scratch.path.iterdir() if path.is_file()}
    assert captured.exit_status == 0
    return Recorded(request.param, captured, trace.read(output), inodes)


def test_who_is_not_traced_is_no_proof(recorded: Recorded) -> None:
    """A file that somebody else has truncated meanwhile is shorter than the process has made it: that is all."""
    assert recorded.captured.analysis is not None
    (hazard,) = (one for one in recorded.captured.analysis.hazards if one.rule == "size-going-backwards")
    assert (hazard.counts.lost, hazard.outcome) == (0, Outcome.EXPOSED)


def test_nothing_escaped(recorded: Recorded) -> None:
    assert sum(recorded.captured.totals.dropped.values()) == 0
    assert recorded.captured.totals.unfinished == 0


@pytest.mark.parametrize("rule", commits.HAZARDS)
def test_the_hazard_is_found_and_its_twin_is_quiet(rule: str, recorded: Recorded) -> None:
    assert set(recorded.found(rule)) == {rule}
    assert recorded.found(rule + commits.APART) == {}


def test_the_verdict_on_all_of_it(recorded: Recorded) -> None:
    assert recorded.captured.status is Status.HAZARD
    assert recorded.captured.analysis is not None
    found = {hazard.rule for hazard in recorded.captured.analysis.hazards}
    assert found == set(commits.HAZARDS) == {rule.id for rule in all_rules()}


def test_what_is_called_lost_is_lost(tmp_path: Path) -> None:
    """XFS waits for the write, and then punches: what the trace proves is what the file has afterwards."""
    output = tmp_path / "out.parquet"
    with loop_scratch("xfs", 512 << 20, default_directory()) as scratch:
        command = (sys.executable, commits.__file__, str(scratch.path), "punched")
        captured = capture(Options(command=command, output=output), lambda *_: None)
        content = (scratch.path / "punched").read_bytes()
    assert captured.exit_status == 0
    ops = trace.read(output).ops
    pairs = named("zeroing-over-write").pairs(ops)
    lost = ops[pairs.second[pairs.outcome == Outcome.LOST]]
    assert len(lost) > 0
    for write in lost:
        low, high = int(write["offset"]), int(write["offset"] + write["result"])
        assert not any(content[low:high])
    assert captured.analysis is not None
    # One code path, or two: io_uring may leave a write to a worker.
    hazards = captured.analysis.hazards
    assert {hazard.rule for hazard in hazards} == {"zeroing-over-write"}
    assert sum(hazard.counts.lost for hazard in hazards) == len(lost)


WORK = """
import ctypes, os, sys, threading, time
path, job = sys.argv[1:]
file = os.open(path, os.O_RDWR | os.O_CREAT)
libc = ctypes.CDLL(None, use_errno=True)
fallocate = lambda mode, at, n: libc.fallocate64(file, mode, ctypes.c_long(at), ctypes.c_long(n))
stop = time.monotonic() + 1
def others():
    data = b"MARK" * 16384
    while time.monotonic() < stop:
        if job == "truncated":
            os.pwrite(file, data, 1 << 20)
        elif job == "moved":
            os.write(end, data[:1024])
            marks[0] += 1
        else:
            os.pwrite(file, data, 0)
def shortens():
    while time.monotonic() < stop:
        os.ftruncate(file, 0)
marks, end = [0], os.open(path, os.O_WRONLY | os.O_APPEND)
if job == "moved":
    os.ftruncate(file, 200 << 20)
elif job == "half done":
    room = os.statvfs(path)
    room = room.f_bsize * room.f_bfree
threads = [threading.Thread(target=others)] + [threading.Thread(target=shortens)] * (job == "truncated")
[thread.start() for thread in threads]
failed = 0
while time.monotonic() < stop:
    if job == "truncated":
        fallocate(0, 0, 65536)
    elif job == "moved":
        assert fallocate(8, 0, 4096) == 0
    else:
        failed += fallocate(0x11, 0, 2 * room) != 0 and ctypes.get_errno() == 28
[thread.join() for thread in threads]
if job == "moved":
    assert open(path, "rb").read().count(b"MARK" * 256) == marks[0] > 0
elif job == "half done":
    assert failed and os.pwrite(file, b"MARK", 0) == 4
    assert fallocate(0x11, 0, 2 * room) != 0 and not any(os.pread(file, 4, 0))
"""


@pytest.mark.parametrize(
    ("job", "rules"),
    [
        ("truncated", {"post-eof-fallocate", "truncate-below-write", "buffered-and-direct"}),
        ("moved", {"zeroing-over-write"}),
        ("half done", {"zeroing-over-write"}),
    ],
)
def test_what_was_not_seen_to_be_lost_is_exposed(job: str, rules: set[str], tmp_path: Path) -> None:
    """A truncate cuts off what a fallocate is not to be blamed for, what a collapse range moves is all there, and a
    zero range that fails for want of space has freed its bytes by then.
    """
    output = tmp_path / "out.parquet"
    with loop_scratch("xfs", 320 << 20, default_directory()) as scratch:
        command = (sys.executable, "-c", WORK, str(scratch.path / "f"), job)
        captured = capture(Options(command=command, output=output), lambda *_: None)
    assert captured.exit_status == 0
    assert captured.status is Status.HAZARD
    assert captured.analysis is not None
    counts = captured.analysis.counts
    assert {rule for rule, count in counts.items() if count.exposed} <= rules
    suspect = "post-eof-fallocate" if job == "truncated" else "zeroing-over-write"
    assert counts[suspect].exposed > 0
    assert counts[suspect].lost == 0
