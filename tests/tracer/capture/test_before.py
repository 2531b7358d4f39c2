"""What is in flight when recording begins: recorded when it ends, and said to have been."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tracer.capture.held_load import LENGTH
from tests.tracer.test_recorder import FIFREEZE, FITHAW
from tracer import trace
from tracer.analysis.hazards import analyse
from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.hooks import BEFORE_NUMBERS, system_calls
from tracer.lab.held import HeldDisk, Hold, held_scratch
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.operations import NONE_CPU, NONE_SIZE, Op, Operations

pytestmark = pytest.mark.root

LOAD = str(Path(__file__).with_name("held_load.py"))
SIZE = 320 << 20
LIMIT = 20.0
AT = 1 << 20
"""Offset of the held write."""


@pytest.fixture(scope="module", params=["xfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[HeldDisk]:
    with held_scratch(request.param, SIZE, default_directory()) as held:
        yield held


def wait_until_in(pid: int, *calls: str) -> None:
    """Return when as many threads of the process sleep in these system calls."""
    numbers = sorted(str(system_calls()[call]) for call in calls)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        found = [Path(entry.path, "syscall").read_text().split()[0] for entry in os.scandir(f"/proc/{pid}/task")]
        if sorted(number for number in found if number in numbers) == numbers:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} is in {found}, not in {calls}")


class Held:
    """A process with operations that wait for a held write, and what a recording that begins then has of them."""

    def __init__(self, disk: HeldDisk, *, extends: bool, by: str) -> None:
        self._disk = disk
        self._extends = extends
        self._by = by

    def record(self, tmp_path: Path, words: list[str], waiting: list[str], *, release: bool = True) -> Captured:
        self.output = tmp_path / "out.parquet"
        marker = self._disk.marker()
        with self._disk.scratch.new_file() as file:
            if not self._extends:
                os.pwrite(file.fd, bytes(2 * AT), 0)
                os.fsync(file.fd)
            command = [sys.executable, LOAD, str(file.path), marker.hex(), str(AT)]
            with (
                self._disk.hold(marker) as hold,
                subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process,
            ):
                assert process.stdin is not None
                for word in words:
                    process.stdin.write(word + "\n")
                    process.stdin.flush()
                    if word == words[0]:
                        assert hold.wait(LIMIT)
                wait_until_in(process.pid, *waiting)
                released: list[Hold] = [] if release else [hold]

                def act(_totals: object, _seconds: float) -> None:
                    if not released:
                        released.append(hold)
                        hold.release()
                        assert process.stdin is not None
                        process.stdin.close()
                        process.wait()

                selected = {"pids": (process.pid,)} if self._by == "process" else {"files": (file.path,)}
                captured = capture(Options(seconds=1, output=self.output, **selected), act)
                hold.release()
                if not release:
                    process.stdin.close()
            self.file = file
        return captured

    @property
    def ops(self) -> Operations:
        return trace.read(self.output).ops


def rows(ops: Operations) -> list[tuple[str, int, int, int]]:
    names = ["op", "offset", "length", "result"]
    return sorted((Op(op).label, *others) for op, *others in ops[names].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("by", ["process", "file"])
@pytest.mark.parametrize("kind", ["aio_write", "direct_write"])
@pytest.mark.parametrize("extends", [False, True])
def test_a_write(disk: HeldDisk, by: str, kind: str, extends: bool, tmp_path: Path) -> None:
    held = Held(disk, extends=extends, by=by)
    sleeping = ["pwrite64"] if kind == "direct_write" else ["io_submit"] * (extends and disk.scratch.fs == "ext4")
    captured = held.record(tmp_path, [kind], sleeping)
    ops = held.ops
    assert rows(ops) == [(kind, AT, LENGTH, LENGTH)], captured.totals.dropped
    assert ops["cpu_begin"][0] == NONE_CPU
    assert 0 < ops["seq_begin"][0] <= 2 * BEFORE_NUMBERS < ops["seq_end"][0]
    assert ops["t_begin"][0] <= ops["t_end"][0]
    assert ops["size_begin"][0] == NONE_SIZE
    assert captured.totals.begun_before == captured.to_json()["begun_before"] == 1
    assert (sum(captured.totals.dropped.values()), captured.totals.unfinished) == (0, 0)
    assert trace.as_dict(ops[0])["cpu_begin"] is None


@pytest.mark.parametrize("by", ["process", pytest.param("file", marks=pytest.mark.slow)])
def test_a_fallocate_behind_a_write(disk: HeldDisk, by: str, tmp_path: Path) -> None:
    """The pair is judged as one that was in the kernel together from the start."""
    held = Held(disk, extends=True, by=by)
    sleeping = ["fallocate"] + ["io_submit"] * (disk.scratch.fs == "ext4")
    captured = held.record(tmp_path, ["aio_write", "fallocate"], sleeping)
    ops = held.ops
    assert rows(ops) == [("aio_write", AT, LENGTH, LENGTH), ("fallocate", 0, LENGTH, 0)]
    assert (ops["cpu_begin"] == NONE_CPU).all()
    assert len(np.unique(ops["seq_begin"])) == 2
    assert sum(captured.totals.dropped.values()) == 0
    kept = trace.read(held.output)
    assert analyse(kept.ops, kept.meta).counts["post-eof-fallocate"].exposed == 1


@pytest.mark.slow
def test_what_goes_on_until_the_end(disk: HeldDisk, tmp_path: Path) -> None:
    held = Held(disk, extends=False, by="process")
    captured = held.record(tmp_path, ["direct_write"], ["pwrite64"], release=False)
    assert captured.totals.operations == 0
    assert "1 system calls" in captured.gaps["what had begun before"]


def test_nothing_had_begun(disk: HeldDisk, tmp_path: Path) -> None:
    """The control: the same operations, begun when they are recorded."""
    with disk.scratch.new_file() as file:
        script = (
            "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); os.posix_fallocate(f, 0, 4096); os.pwrite(f, b'x', 0)"
        )
        command = (sys.executable, "-c", script, str(file.path))
        captured = capture(Options(command=command, output=tmp_path / "out.parquet"), lambda *_: None)
    ops = trace.read(tmp_path / "out.parquet").ops
    assert len(ops) == 2
    assert (ops["cpu_begin"] != NONE_CPU).all()
    assert (ops["seq_begin"] > 2 * BEFORE_NUMBERS).all()
    assert captured.totals.begun_before == 0


def wait_until_workers_sleep(pid: int, count: int) -> None:
    """Return when as many io_uring workers of the process can do nothing (proc(5): D)."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        texts = [Path(entry.path, "stat").read_text() for entry in os.scandir(f"/proc/{pid}/task")]
        found = [text for text in texts if "(iou-wrk" in text and text.rpartition(")")[2].split()[0] == "D"]
        if len(found) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} has {texts}, not {count} workers that sleep")


@pytest.mark.parametrize(
    ("fs", "begun", "by"),
    [("xfs", True, "process"), ("xfs", False, "process"), ("xfs", True, "file"), ("ext4", True, "process")],
)
def test_writes_that_wait_in_io_uring_workers(fs: str, begun: bool, by: str, tmp_path: Path) -> None:
    """They have not come to iomap when recording begins; the control submits them afterwards."""
    with loop_scratch(fs, SIZE, default_directory()) as place, place.new_file() as file:
        command = [sys.executable, LOAD.replace("held_load", "ring"), str(file.path), "workers"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"

            def submit() -> None:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                wait_until_workers_sleep(process.pid, 2)

            turns = 0

            def act(_totals: object, _seconds: float) -> None:
                nonlocal turns
                turns += 1
                if turns == 1:
                    if not begun:
                        submit()
                    fcntl.ioctl(file.fd, FITHAW, 0)
                    process.wait()

            fcntl.ioctl(file.fd, FIFREEZE, 0)
            try:
                if begun:
                    submit()
                selected = {"pids": (process.pid,)} if by == "process" else {"files": (file.path,)}
                captured = capture(Options(seconds=1, output=tmp_path / "out.parquet", **selected), act)
            finally:
                if not turns:
                    fcntl.ioctl(file.fd, FITHAW, 0)
            assert json.loads(process.stdout.read()) == {"1": 4096, "2": 8192}
    ops = trace.read(tmp_path / "out.parquet").ops
    assert rows(ops) == [("uring_write", 0, 4096, 4096), ("uring_write", 1 << 20, 8192, 8192)]
    assert ((ops["cpu_begin"] == NONE_CPU) == begun).all()
    assert ((ops["seq_begin"] <= 2 * BEFORE_NUMBERS) == begun).all()
    assert captured.totals.begun_before == 2 * begun
    assert sum(captured.totals.dropped.values()) == 0
