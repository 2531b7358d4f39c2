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
