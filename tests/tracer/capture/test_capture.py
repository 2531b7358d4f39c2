"""`eofrace trace`: exactly what was done, by whom it was asked to watch, and nothing else."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tracer.capture.ring import ROWS
from tests.tracer.verify.test_verify import EOFRACE, eofrace, one_line
from tracer import trace
from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.commands.trace import RECORDING
from tracer.errors import Status
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.operations import Op, Operations
from tracer.report.trace_text import print_captured

pytestmark = pytest.mark.root

LOAD = str(Path(__file__).with_name("load.py"))


def traced(*words: object, timeout: float = 120) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]"]:
    """What `eofrace trace --json` says, of a command that writes nothing to stdout."""
    done = eofrace("trace", "--json", "-", *map(str, words), timeout=timeout)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done


def rows(ops: Operations) -> list[tuple[str, int, int, int]]:
    """Kind, offset, length and result, in the order of their begin."""
    return [
        (Op(op).label, offset, length, result)
        for op, offset, length, result in ops[["op", "offset", "length", "result"]].tolist()
    ]


def test_a_command_with_its_children_is_recorded_exactly(tmp_path: Path) -> None:
    script = (
        "dd if=/dev/zero of=one bs=64k count=3 oflag=direct status=none;"
        "(xfs_io -f -c 'pwrite 4k 4k' -c 'falloc -k 0 1m' -c 'truncate 8k' two >/dev/null);"
        "exec xfs_io -d -f -c 'pwrite -b 16k 16k 32k' three >/dev/null"
    )
    with contextlib.chdir(tmp_path):
        report, done = traced("-o", tmp_path / "out.parquet", "--", "sh", "-c", script)
    assert done.returncode == Status.OK, done.stderr
    assert report["operations"] == {"buffered_write": 1, "direct_write": 5, "fallocate": 1, "truncate": 1}
    assert (report["dropped"], report["unfinished"], report["failed"], report["exit_status"]) == (0, 0, 0, 0)
    assert {file["path"]: (file["operations"], file["bytes"]) for file in report["files"]} == {
        str(tmp_path / "one"): (3, 3 * 65536),
        str(tmp_path / "two"): (3, 4096),
        str(tmp_path / "three"): (2, 32768),
    }
    ops = trace.read(tmp_path / "out.parquet").ops
    inode = {name: (tmp_path / name).stat().st_ino for name in ("one", "two", "three")}
    assert rows(ops[ops["ino"] == inode["one"]]) == [("direct_write", at * 65536, 65536, 65536) for at in range(3)]
    assert rows(ops[ops["ino"] == inode["two"]]) == [
        ("buffered_write", 4096, 4096, 4096),
        ("fallocate", 0, 1 << 20, 0),
        ("truncate", 8192, 0, 0),
    ]
    assert rows(ops[ops["ino"] == inode["three"]]) == [
        ("direct_write", 16384, 16384, 16384),
        ("direct_write", 32768, 16384, 16384),
    ]
    assert set(ops["dev"].tolist()) == {tmp_path.stat().st_dev}


def test_what_fails_is_recorded_with_its_error(tmp_path: Path) -> None:
    script = f"ulimit -f 8; trap '' XFSZ; {sys.executable} {LOAD} writes {tmp_path}/f 5"
    report, _ = traced("-o", tmp_path / "out.parquet", "--", "bash", "-c", script)
    assert report["exit_status"] == 1
    assert report["failed"] == 1
    ops = trace.read(tmp_path / "out.parquet").ops
    assert rows(ops) == [
        ("buffered_write", 0, 4096, 4096),
        ("buffered_write", 4096, 4096, 4096),
        ("buffered_write", 8192, 4096, -errno.EFBIG),
    ]


def of_ring(tmp_path: Path, fs: str, *what: str) -> tuple[Captured, Operations]:
    """ring.py on a scratch file system, and what the trace has of its file."""
    with loop_scratch(fs, 512 << 20, default_directory()) as scratch:
        file, output = scratch.path / "f", tmp_path / "out.parquet"
        command = (sys.executable, str(Path(LOAD).with_name("ring.py")), str(file), *what)
        captured = capture(Options(command=command, output=output), lambda *_: None)
        inode = file.stat().st_ino
    assert captured.exit_status == 0
    ops = trace.read(output).ops
    return captured, ops[ops["ino"] == inode]


@pytest.mark.parametrize("fs", ["xfs", "ext4", "btrfs"])
def test_whatever_io_uring_does_to_a_file(fs: str, tmp_path: Path) -> None:
    """Buffered and direct, with registered files and buffers, by workers, refused ones, fallocates and truncations."""
    captured, ops = of_ring(tmp_path, fs)
    assert sum(captured.totals.dropped.values()) == 0
    assert ops["request"].tolist() == list(range(1, 14))
    assert rows(ops) == ROWS
    assert ops["flags"][3] == 0x10
    assert np.all(ops["seq_end"][:-1] < ops["seq_begin"][1:])  # one at a time


@pytest.mark.parametrize("ring", ["linked", "linked-deferred", "linked-polled"])
def test_a_request_that_io_uring_keeps_back_has_not_begun(ring: str, tmp_path: Path) -> None:
    captured, ops = of_ring(tmp_path, "xfs", ring)
    assert ops["request"].tolist() == [1, 2, 3]
    assert ops["op"].tolist() == [Op.FALLOCATE, Op.URING_WRITE, Op.URING_WRITE]
    assert np.all(ops["seq_end"][:-1] < ops["seq_begin"][1:])
    assert captured.status is Status.OK


def test_one_that_is_kept_back_and_goes_by_the_page_cache_is_counted(tmp_path: Path) -> None:
    """btrfs with checksums: it was expected at iomap, and did not come there."""
    captured, ops = of_ring(tmp_path, "btrfs", "linked")
    assert Op.FALLOCATE in ops["op"]
    assert len(ops) + captured.totals.dropped["begin not seen"] == 3
    assert sum(captured.totals.dropped.values()) == (2 if len(ops) == 1 else 0)


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
def test_a_write_to_the_end_that_is_done_later_goes_where_the_end_is_then(fs: str, tmp_path: Path) -> None:
    """First without waiting, which is refused for want of blocks; then by a worker, while others move the end.

    Some go to the same place: nobody has raised the size yet (i_size of direct writes is raised when they complete).
    """
    with loop_scratch(fs, 512 << 20, default_directory()) as scratch:
        file, output = scratch.path / "f", tmp_path / "out.parquet"
        command = (sys.executable, str(Path(LOAD).with_name("ring.py")), str(file), "moved")
        captured = capture(Options(command=command, output=output), lambda *_: None)
        inode, data = file.stat().st_ino, file.read_bytes()
    ops = trace.read(output).ops
    ops = ops[ops["ino"] == inode]
    assert sorted(ops["request"].tolist()) == list(range(1, 201))
    assert captured.totals.begun_before == sum(captured.totals.dropped.values()) == 0
    writers: dict[int, set[int]] = {}
    for op in ops:
        writers.setdefault(int(op["offset"]), set()).add(int(op["request"]))
    assert sorted(writers) == list(range(0, len(data), 4096))
    for offset, requests in writers.items():
        assert data[offset] in requests, (offset, requests)


def test_a_completion_that_nobody_hears_of_is_counted(tmp_path: Path) -> None:
    captured, ops = of_ring(tmp_path, "xfs", "skipped")
    assert captured.totals.dropped["end not seen"] + captured.totals.unfinished == 1
    assert captured.status is Status.INCONCLUSIVE
    uring = ops[(ops["request"] > 1) & (ops["seq_end"] > 0)]
    assert rows(uring) == [("buffered_write", 4096 * at, 4096, 4096) for at in range(2, 40)]


def test_a_write_that_iomap_gives_up_has_ended(tmp_path: Path) -> None:
    captured, ops = of_ring(tmp_path, "xfs", "nowait")
    [write] = ops[ops["op"] == Op.URING_WRITE]
    assert write["result"] == -errno.EAGAIN
    assert captured.totals.unfinished == 0
    assert captured.status is Status.OK


def test_impossible_ranges_leave_the_trace_readable(tmp_path: Path) -> None:
    script = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "libc.ftruncate(fd, ctypes.c_int64(-1));"
        "libc.fallocate(fd, 0, ctypes.c_int64(2**62), ctypes.c_int64(2**62 + 4096));"
        "libc.pwrite(fd, None, ctypes.c_int64(-1), ctypes.c_int64(5))"
    )
    report, _ = traced("-o", tmp_path / "out.parquet", "--", sys.executable, "-c", script, tmp_path / "f")
    assert report["failed"] == 3
    ops = trace.read(tmp_path / "out.parquet").ops
    assert [Op(op).label for op in ops["op"]] == ["truncate", "fallocate", "buffered_write"]


def test_processes_that_outlive_the_command_leave_a_doubt(tmp_path: Path) -> None:
    script = f"echo now > {tmp_path}/now; sleep 5 >/dev/null 2>&1 &"
    report, done = traced("--", "sh", "-c", script)
    assert done.returncode == Status.INCONCLUSIVE
    assert any("1 of the command's processes went on" in gap for gap in report["gaps"])


def test_a_zombie_is_a_process_that_has_ended(tmp_path: Path) -> None:
    script = "import os, time; pid = os.fork(); pid or os._exit(0); print(pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = parent.stdout.readline().strip()
        report, _ = traced("-p", pid, timeout=60)
        parent.kill()
    assert report["ended_by"] == "the processes have ended"


def test_a_trace_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.capture.run.MAX_KEPT", 1000)
    command = (sys.executable, LOAD, "writes", str(tmp_path / "f"), "200000")
    captured = capture(Options(command=command, output=tmp_path / "out.parquet"), lambda *_: None)
    assert captured.ended_by == "the trace is full"
    assert captured.status is Status.INCONCLUSIVE
    assert len(trace.read(tmp_path / "out.parquet").ops) == 1000
    done = eofrace("analyze", str(tmp_path / "out.parquet"))
    assert done.returncode == Status.INCONCLUSIVE
    assert "the rest of the recording" in done.stdout


def test_truncation_by_opening(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 5000)
    script = f"echo new > {tmp_path}/old; echo created > {tmp_path}/new; true < {tmp_path}/old"
    traced("-o", tmp_path / "out.parquet", "--", "sh", "-c", script)
    ops = trace.read(tmp_path / "out.parquet").ops
    assert rows(ops) == [("truncate", 0, 0, 0), ("buffered_write", 0, 4, 4), ("buffered_write", 0, 8, 8)]
    assert ops["size_end"].tolist() == [0, 4, 8]


class Waiting:
    """A process with a child, each of which writes once to its file for a line of input."""

    def __init__(self, python: Path | str, file: Path) -> None:
        words = [str(python), LOAD, "waits", str(file)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def turn(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() in ("ready\n", "done\n")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@contextlib.contextmanager
def waiting(file: Path, python: Path | str = sys.executable) -> Iterator[Waiting]:
    process = Waiting(python, file)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.end()


@contextlib.contextmanager
def tracing(output: Path, *words: object) -> Iterator["subprocess.Popen[str]"]:
    """A running `eofrace trace`, attached."""
    command = [*EOFRACE, "trace", "-o", str(output), *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            until_recording(process)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until_recording(process: "subprocess.Popen[str]") -> None:
    """It says so when its programs are attached and it follows what it was told to."""
    assert process.stderr is not None
    assert process.stderr.readline() == RECORDING + "\n"


def stop(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGINT) -> str:
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr, stderr
    return stdout


def test_what_comes_after_the_announcement_is_recorded(tmp_path: Path) -> None:
    output, file = tmp_path / "out.parquet", tmp_path / "file"
    file.write_bytes(b"before")
    with tracing(output, "--path", file) as process, file.open("r+b", buffering=0) as opened:
        opened.write(b"after")
        stop(process)
    assert rows(trace.read(output).ops) == [("buffered_write", 0, 5, 5)]


def test_quiet_is_silent(tmp_path: Path) -> None:
    done = eofrace("trace", "-q", "--", sys.executable, LOAD, "writes", str(tmp_path / "f"), "1")
    assert (done.returncode, done.stdout, done.stderr) == (Status.OK, "", "")
    done = eofrace("trace", "--", sys.executable, LOAD, "writes", str(tmp_path / "f"), "1")
    assert done.stderr.startswith(RECORDING + "\n")


def test_a_process_by_number_with_the_children_that_it_has(tmp_path: Path) -> None:
    output, file, other = tmp_path / "out.parquet", tmp_path / "file", tmp_path / "other"
    with waiting(file) as it, waiting(other) as bystander, tracing(output, "-p", it.process.pid) as process:
        it.turn("parent")
        bystander.turn("nobody looks")
        it.end()
        text, _ = process.communicate(timeout=60)  # ends by itself
    assert process.returncode == Status.OK, text
    ops = trace.read(output).ops
    assert rows(ops) == [("buffered_write", 0, 7, 7), ("buffered_write", 0, 6, 6)]
    assert it.process.pid in ops["pid"]
    assert len(set(ops["pid"].tolist())) == 2
    assert str(file) in text
    assert str(other) not in text


def test_processes_by_name_those_that_run_and_those_that_come(tmp_path: Path) -> None:
    python = tmp_path / "hostile\n-name"
    shutil.copy(os.path.realpath(sys.executable), python)
    output = tmp_path / "out.parquet"
    with waiting(tmp_path / "before", python) as before, tracing(output, "--comm", python.name) as process:
        before.turn("a")
        with waiting(tmp_path / "after", python) as after:
            after.turn("b")
        with waiting(tmp_path / "other") as other:
            other.turn("c")
        text = stop(process)
    assert process.returncode == Status.OK, text
    inodes = {name: (tmp_path / name).stat().st_ino for name in ("before", "after")}
    assert set(trace.read(output).ops["ino"].tolist()) == set(inodes.values())


def test_a_file_whoever_writes_to_it(tmp_path: Path) -> None:
    output, file = tmp_path / "out.parquet", tmp_path / "file"
    with waiting(file) as one, waiting(tmp_path / "other") as two, tracing(output, "--path", file) as process:
        one.turn("a")
        two.turn("b")
        file.write_bytes(b"from the test")
        stop(process, signal.SIGTERM)
    ops = trace.read(output).ops
    assert set(ops["ino"].tolist()) == {file.stat().st_ino}
    assert os.getpid() in ops["pid"]
    assert [Op(op).label for op in ops["op"]] == ["buffered_write"] * 2 + ["truncate", "buffered_write"]


def test_a_process_on_a_file_is_both(tmp_path: Path) -> None:
    output, file = tmp_path / "out.parquet", tmp_path / "file"
    with waiting(file) as one, tracing(output, "-p", one.process.pid, "--path", file) as process:
        one.turn("a")
        file.write_bytes(b"from the test")
        one.end()
        process.communicate(timeout=60)
    assert os.getpid() not in trace.read(output).ops["pid"]
    assert len(trace.read(output).ops) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "status"), [("none", Status.HAZARD), ("serialise", Status.OK)])
def test_a_driver_with_the_race_and_its_twin_without(strategy: str, status: Status, tmp_path: Path) -> None:
    report, done = traced("-o", tmp_path / "out.parquet", "--", sys.executable, LOAD, "guest", strategy)
    assert done.returncode == status, done.stderr
    counts = report["analysis"]["counts"]
    assert {rule for rule, count in counts.items() if count["exposed"]} == (
        {"post-eof-fallocate"} if strategy == "none" else set()
    )
    assert report["operations"]["aio_write"] >= 400
    assert report["operations"]["fallocate"] > 100
    again = eofrace("analyze", str(tmp_path / "out.parquet"), "--json", "-")
    assert again.returncode == status
    assert json.loads(again.stdout)["counts"] == report["analysis"]["counts"]


def test_a_directory_of_parts_is_one_trace(tmp_path: Path) -> None:
    words = ("--rotate", 1000, "-o", tmp_path / "kept", "--")
    report, done = traced(*words, sys.executable, LOAD, "writes", tmp_path / "f", 3456)
    assert done.returncode == Status.OK
    parts = sorted((tmp_path / "kept").iterdir())
    assert [len(trace.read(part).ops) for part in parts] == [1000, 1000, 1000, 456]
    whole = trace.read(tmp_path / "kept")
    assert sorted(whole.ops["offset"].tolist()) == [at * 4096 for at in range(3456)]
    assert report["analysis"]["operations"] == 3456
    again = eofrace("analyze", str(tmp_path / "kept"))
    assert again.returncode == Status.OK
    part = eofrace("analyze", str(parts[0]))
    assert part.returncode == Status.INCONCLUSIVE
    assert "pairs with operations of another part are not seen" in part.stdout
    taken = eofrace("trace", "-o", str(tmp_path / "kept"), "--", "true")
    assert taken.returncode == Status.USAGE
    assert "has a trace already" in one_line(taken.stderr)
    parts[1].unlink()
    lacking = eofrace("analyze", str(tmp_path / "kept"))
    assert lacking.returncode == Status.INCONCLUSIVE
    assert "parts of the recording" in lacking.stdout


def test_a_recorder_that_is_killed_leaves_what_it_has_and_no_verdict(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with (
        waiting(tmp_path / "f") as one,
        tracing(kept, "--rotate", 1000, "-p", one.process.pid) as process,
    ):
        for _ in range(700):
            one.turn("x")
        deadline = time.monotonic() + 30
        while not list(kept.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        one.turn("goes on")
    assert [entry.name for entry in kept.iterdir()] == ["part-000001.parquet"]
    assert len(trace.read(kept).ops) == 1000
    done = eofrace("analyze", str(kept))
    assert done.returncode == Status.INCONCLUSIVE
    assert "the end of the recording" in done.stdout


def test_more_files_than_are_counted_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import os, sys\nbusy = open(sys.argv[1] + '/busy', 'wb', 0)\n"
        "for i in range(3000):\n open(f'{sys.argv[1]}/{i}', 'wb').write(b'x')\n i % 10 or busy.write(b'y')\n"
    )
    monkeypatch.setattr("tracer.capture.result.MAX_FILES", 50)
    command = (sys.executable, "-c", script, str(tmp_path))
    captured = capture(Options(command=command), lambda *_: None)
    totals = captured.totals
    assert totals.operations == 3300
    assert len(totals.files) <= 100
    assert len(captured.paths) == len(totals.files)
    assert [captured.paths[file] for file, _ in captured.busiest()[:1]] == [str(tmp_path / "busy")]
    assert totals.others.operations == 3300 - sum(count.operations for count in totals.files.values())
    print_captured(captured, stderr=False)
    assert f"in {len(totals.files) + totals.evicted - 10:,} other files or fewer" in capsys.readouterr().out


def test_duration_ends_it_and_the_command(tmp_path: Path) -> None:
    report, done = traced("--duration", "1", "--", "sleep", "100")
    assert report["ended_by"] == "its time is over"
    assert report["exit_status"] == -signal.SIGTERM
    assert done.returncode == Status.INCONCLUSIVE  # nothing was seen
    assert "the trace is empty" in done.stderr


def test_nothing_is_left_behind_when_interrupted(tmp_path: Path) -> None:
    with tracing(tmp_path / "out.parquet", "--", "sleep", "1234.5") as process:
        stop(process)
    assert process.returncode == Status.INCONCLUSIVE
    found = subprocess.run(["pgrep", "-f", "sleep 1234.5"], capture_output=True, check=False)
    assert found.returncode == 1
    assert len(trace.read(tmp_path / "out.parquet").ops) == 0


def test_threads_with_4096_writes_in_flight_lose_none(tmp_path: Path) -> None:
    words = ("--", "fio", "--name=f", f"--directory={tmp_path}", "--rw=randwrite", "--bs=4k", "--size=64m")
    if shutil.which("fio") is None:
        pytest.skip("needs fio: apt install fio")
    load = ("--ioengine=libaio", "--direct=1", "--iodepth=1024", "--numjobs=4", "--output=/dev/null")
    report, _ = traced("-o", tmp_path / "out.parquet", *words, *load)
    ops = trace.read(tmp_path / "out.parquet").ops
    writes = ops[ops["op"] == Op.AIO_WRITE]
    assert report["dropped"] == 0
    for ino in np.unique(writes["ino"]):
        offsets = np.sort(writes["offset"][writes["ino"] == ino])
        assert offsets.tolist() == list(range(0, 64 << 20, 4096))
    assert len(writes) == 4 * 16384


def test_what_does_not_fit_into_the_ring_is_counted(tmp_path: Path) -> None:
    words = ("--ring-size", "4k", "-o", tmp_path / "out.parquet", "--")
    report, done = traced(*words, sys.executable, LOAD, "writes", tmp_path / "f", 20_000)
    assert report["dropped_by"]["ring full"] > 0
    assert report["operations"]["buffered_write"] + report["dropped"] == 20_000
    assert len(trace.read(tmp_path / "out.parquet").ops) == report["operations"]["buffered_write"]
    assert done.returncode == Status.INCONCLUSIVE
    assert "lost in the kernel" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "say what to trace"),
        (("-p", "4194304"), "there is no process 4194304"),
        (("-p", "0"), "Invalid value for '-p'"),
        (("--path", "/nowhere/f"), "cannot open the file to be traced"),
        (("--path", "/dev"), "no regular file"),
        (("--path", "/dev/null"), "no regular file"),
        (("--comm", ""), "an empty name"),
        (("--ring-size", "3m", "--", "true"), "no power of two"),
        (("--ring-size", "16", "--", "true"), "no power of two"),
        (("--rotate", "5000", "--", "true"), "--rotate is for a directory"),
        (("--", "/nowhere/command"), "cannot start /nowhere/command: No such file"),
        (("-o", "/nowhere/x.parquet", "--", "true"), "no such directory"),
        (("-o", "/proc/x", "--", "true"), "no such directory"),
        (("--json", "/nowhere/x", "--", "true"), "no such directory"),
    ],
)
def test_trouble_is_one_line(words: tuple[str, ...], says: str) -> None:
    done = eofrace("trace", *words)
    assert says in one_line(done.stderr)
    assert done.returncode == Status.USAGE


def test_in_a_container_processes_are_not_followed() -> None:
    words = ["unshare", "--pid", "--fork", "--mount-proc", *EOFRACE, "trace", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == Status.UNSUPPORTED
    assert "PID namespace" in one_line(done.stderr)


def test_a_file_system_without_deep_hooks_is_said_to_be_one() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        report, _ = traced("--", "sh", "-c", f"echo hi > {directory}/f; echo more >> {directory}/f")
    assert [(file["fs"], file["operations"]) for file in report["files"]] == [("tmpfs", 2)]
    assert any("tmpfs: recorded from the system call alone" in note for note in report["notes"])


def test_without_privileges_it_says_what_it_needs() -> None:
    words = ["setpriv", "--reuid", "65534", "--clear-groups", *EOFRACE, "trace", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == Status.UNSUPPORTED
    assert "needs root" in one_line(done.stderr)
