"""The held disk: writes stay in flight until they are released, and never longer than somebody holds them."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.left_behind import loop_files, what_stays
from tracer.errors import UnsupportedError, UsageError
from tracer.lab import children, held, waiting
from tracer.lab.held import HeldDisk, HeldDiskError, held_scratch
from tracer.lab.scratch import default_directory
from tracer.probe.workers import AioWrite, opened_direct

pytestmark = pytest.mark.root

SIZE = 320 << 20
LIMIT = 30.0
"""Seconds after which a test has hung."""


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    with held_scratch("xfs", SIZE, default_directory()) as made:
        yield made


def payload(marker: bytes, length: int = 65536) -> bytes:
    return marker + os.urandom(length - len(marker))


def test_a_marked_write_stays_in_flight_until_it_is_released(disk: HeldDisk) -> None:
    marker = disk.marker()
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
        data = payload(marker)
        write = AioWrite(direct, data, 131072)
        write.start()
        assert hold.wait(LIMIT)
        assert hold.writes[0].length == len(data)
        assert write.error is None
        assert file.size == 0
        hold.release()
        write.join(LIMIT)
        assert write.error == 0
        assert os.pread(file.fd, len(data), 131072) == data


def test_what_carries_no_marker_passes(disk: HeldDisk) -> None:
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(disk.marker()) as hold:
        write = AioWrite(direct, os.urandom(65536), 0)
        write.start()
        write.join(LIMIT)
        assert write.error == 0
        assert not hold.writes


def test_other_writes_wait_behind_a_held_one_and_are_not_lost(disk: HeldDisk) -> None:
    marker, data = disk.marker(), os.urandom(65536)
    with (
        disk.scratch.new_file() as other,
        opened_direct(other.path) as behind,
        disk.scratch.new_file() as file,
        opened_direct(file.path) as direct,
        disk.hold(marker) as hold,
    ):
        writes = [AioWrite(direct, payload(marker), 0), AioWrite(behind, data, 0)]
        writes[0].start()
        assert hold.wait(LIMIT)
        writes[1].start()
        until(lambda: waiting.look(writes[1].tid) is not None)
        hold.release()
        for write in writes:
            write.join(LIMIT)
            assert write.error == 0
        assert os.pread(other.fd, len(data), 0) == data


def test_one_that_is_failed_is_an_error_to_its_writer(disk: HeldDisk) -> None:
    marker = disk.marker()
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
        write = AioWrite(direct, payload(marker), 0)
        write.start()
        assert hold.wait(LIMIT)
        hold.fail()
        write.join(LIMIT)
        assert write.error == errno.EIO


def test_length_and_limit_choose_among_those_with_the_prefix(disk: HeldDisk) -> None:
    with (
        disk.scratch.new_file() as file,
        opened_direct(file.path) as direct,
        disk.hold(bytes(4096), length=8192, limit=1) as hold,
    ):
        for length, offset in ((4096, 0), (8192, 65536), (8192, 131072)):
            write = AioWrite(direct, bytes(length), offset)
            write.start()
            if offset == 65536:
                assert hold.wait(LIMIT)
                hold.release()
            write.join(LIMIT)
            assert write.error == 0
        assert [write.length for write in hold.writes] == [8192]


def test_leaving_the_block_by_an_exception_releases(disk: HeldDisk) -> None:
    marker = disk.marker()
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct:
        write = AioWrite(direct, payload(marker), 0)
        with contextlib.suppress(ZeroDivisionError), disk.hold(marker) as hold:
            write.start()
            assert hold.wait(LIMIT)
            raise ZeroDivisionError
        write.join(LIMIT)
        assert write.error == 0


def test_a_dead_daemon_means_an_error_and_no_hang() -> None:
    with held_scratch("xfs", SIZE, default_directory()) as disk:
        marker = disk.marker()
        with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
            write = AioWrite(direct, payload(marker), 0)
            write.start()
            assert hold.wait(LIMIT)
            os.kill(disk.pids[0], signal.SIGKILL)
            write.join(5)  # the promise
            assert write.error == errno.EIO
            with pytest.raises(HeldDiskError, match="has ended"):
                hold.wait(LIMIT, 2)


@pytest.mark.parametrize("program", ["nbdfuse", "nbdkit"])
def test_what_the_death_broke_is_told_as_the_death(program: str) -> None:
    with pytest.raises(HeldDiskError, match="has ended"), held_scratch("xfs", SIZE, default_directory()) as disk:
        write_while_it_dies(disk, program)


def write_while_it_dies(disk: HeldDisk, program: str) -> None:
    [nbdfuse] = disk.pids
    [nbdkit] = Path(f"/proc/{nbdfuse}/task/{nbdfuse}/children").read_text().split()
    with disk.scratch.new_file() as file, open(file.path, "r+b") as buffered:
        buffered.write(payload(disk.marker()))
        buffered.flush()
        os.kill(nbdfuse if program == "nbdfuse" else int(nbdkit), signal.SIGKILL)
        os.fsync(buffered.fileno())
    pytest.fail("the disk did not die")


def test_an_error_with_a_living_disk_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="No space"), held_scratch("xfs", SIZE, default_directory()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_stopped_server_is_reported(disk: HeldDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.lab.held._ANSWER_SECONDS", 0.5)
    children = Path(f"/proc/{disk.pids[0]}/task/{disk.pids[0]}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGSTOP)
        until(lambda pid=pid: "T (stopped)" in Path(f"/proc/{pid}/status").read_text())
    try:
        with pytest.raises(HeldDiskError, match="does not answer"), disk.hold(disk.marker()):
            pass
    finally:
        for pid in children:
            os.kill(int(pid), signal.SIGCONT)


HOLDER = """
import os, sys
from tracer.lab.held import held_scratch
from tracer.lab.scratch import default_directory
from tracer.probe.workers import AioWrite, opened_direct
with held_scratch("xfs", 320 << 20, default_directory()) as disk:
    marker = disk.marker()
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
        write = AioWrite(direct, marker * 4096, 0)
        write.start()
        assert hold.wait(30)
        print(disk.pids[0], flush=True)
        sys.stdin.read()
"""


DEAF = "from tracer.lab import children; children._setpriv = lambda: ()"
"""As if it had died before its helpers asked for a signal."""


@pytest.mark.parametrize(
    ("before", "number"),
    [("", signal.SIGKILL), ("", signal.SIGTERM), ("", signal.SIGINT), (DEAF, signal.SIGKILL)],
    ids=["SIGKILL", "SIGTERM", "SIGINT", "SIGKILL-unheard"],
)
def test_a_killed_holder_leaves_nothing(before: str, number: signal.Signals, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", before + HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    daemon = int(holder.stdout.readline())
    served = loop_files() & {os.readlink(entry) for entry in Path(f"/proc/{holder.pid}/fd").iterdir()}
    assert served, "the disk's file is no loop device's"
    os.kill(holder.pid, number)
    holder.wait(LIMIT)  # SIGKILL: it waits for its own write, which the plugin fails when it sees that
    holder.stdin.close()
    holder.stdout.close()
    until(lambda: not Path(f"/proc/{daemon}").exists())
    until(lambda: not served & loop_files())
    assert what_stays(tmp_path) == []


def test_a_server_that_starts_behind_its_holders_end_ends() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryFile() as image, theirs:
        numbers = [f"image={image.fileno()}", f"control={theirs.fileno()}", f"holder={os.getpid()}"]
        server = subprocess.Popen(
            [children.find("nbdkit"), "--foreground", "--unix", "-", "python", str(held._PLUGIN), *numbers],
            pass_fds=(image.fileno(), theirs.fileno()),
        )
        try:
            ours.close()
            assert server.wait(LIMIT) == 0
        finally:
            server.kill()
            server.wait()


def test_waiting_tells_where_a_thread_sleeps() -> None:
    reader, writer = os.pipe()
    thread = threading.Thread(target=os.read, args=(reader, 1))
    thread.start()
    assert thread.native_id is not None
    tid = thread.native_id
    until(lambda: waiting.look(tid) is not None)
    seen = waiting.look(tid)
    assert seen is not None
    assert "pipe" in seen.where or seen.where == waiting.UNKNOWN
    assert waiting.wait_blocked(tid, "fallocate", 0.2) == (None, False)
    assert waiting.wait_blocked(tid, "fallocate", LIMIT, lambda: True) == (None, True)
    os.write(writer, b"x")
    thread.join()
    assert waiting.look(tid) is None
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("fs", "size", "error"), [("nofs", SIZE, UsageError), ("xfs", 1 << 20, UsageError)])
def test_what_cannot_be_made_is_said(fs: str, size: int, error: type[Exception]) -> None:
    with pytest.raises(error), held_scratch(fs, size, default_directory()):
        pass


def test_a_missing_nbdkit_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for command in ("mkfs.xfs", "setpriv"):
        (tmp_path / command).symlink_to(children.find(command))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(children, "_SBIN", str(tmp_path))
    with (
        pytest.raises(UnsupportedError, match="nbdkit is missing: install it"),
        held_scratch("xfs", SIZE, default_directory()),
    ):
        pass


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
