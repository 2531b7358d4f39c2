"""Scratch file systems: usable by others, and gone without a trace however their holder ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.tracer.left_behind import loop_files
from tracer.errors import EofraceError, UnsupportedError, UsageError
from tracer.lab import children, loop, namespace, scratch
from tracer.lab.scratch import MIB, Scratch, directory_scratch, loop_scratch

SIZE = 320 * MIB


def in_child(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own: a mount namespace cannot be left again."""
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


def gone(name: str, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(name in held for held in loop_files()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ended(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if "Z (zombie)" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def try_out(made: Scratch) -> None:
    with made.new_file() as file:
        again = os.open(file.path, os.O_RDWR)
        assert os.fstat(again).st_ino == file.ino
        os.pwrite(again, b"data", 0)
        os.close(again)
        assert file.size == 4
        assert file.dev == made.dev
        assert not list(made.path.glob("*eofrace*"))


@pytest.mark.root
@pytest.mark.parametrize("fs", scratch.KINDS)
def test_a_loop_scratch(fs: str, tmp_path: Path) -> None:
    if not Path(f"/usr/sbin/{scratch.KINDS[fs].mkfs[0]}").exists():
        pytest.skip(f"{scratch.KINDS[fs].mkfs[0]} is not installed")
    if fs not in ("xfs", "ext4", "btrfs") and fs not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {fs} (a module may have it: modprobe {fs})")
    mounts = Path("/proc/1/mounts").read_text()
    with loop_scratch(fs, SIZE, tmp_path) as made:
        assert made.fs == fs
        assert 100 * MIB < made.free_bytes <= SIZE
        assert Path("/proc/1/mounts").read_text() == mounts
        assert any(str(tmp_path) in held for held in loop_files())
        try_out(made)
    assert gone(str(tmp_path), 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_qemu_img_works_on_a_file_without_a_name(tmp_path: Path) -> None:
    with loop_scratch("xfs", SIZE, tmp_path) as made, made.new_file() as file:
        children.run(["qemu-img", "create", "-f", "qcow2", str(file.path), "16M"])
        words = ["qemu-img", "bench", "-n", "-i", "native", "-t", "none", "-w", "-c", "64", "-f", "qcow2"]
        children.run([*words, str(file.path)])
        report = json.loads(children.run(["qemu-img", "check", "--output=json", str(file.path)]).stdout)
        assert report["check-errors"] == 0
        assert file.size > MIB // 2


@pytest.mark.root
def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), loop_scratch("xfs", SIZE, tmp_path) as made, made.new_file():
        _ = 1 // 0
    assert gone(str(tmp_path), 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pathlib\n"
        "from tracer.lab.scratch import loop_scratch\n"
        "from tracer.lab.children import dying_with_us\n"
        "import subprocess\n"
        f"with loop_scratch('xfs', {SIZE}, pathlib.Path(sys.argv[1])) as made, made.new_file() as file:\n"
        "    os.pwrite(file.fd, b'x' * 100000, 0)\n"
        "    child = subprocess.Popen(dying_with_us(['sleep', '60']), pass_fds=(file.fd,))\n"
        "    time.sleep(0.05)\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    mounts = Path("/proc/1/mounts").read_text()
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    assert any(str(tmp_path) in held for held in loop_files())
    process.send_signal(number)
    process.wait(20)
    process.stdout.close()
    assert gone(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert Path("/proc/1/mounts").read_text() == mounts
    assert ended(helper)


@pytest.mark.root
def test_killed_while_it_is_being_made_it_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom tracer.lab.scratch import loop_scratch\n"
        "print(flush=True)\n"
        "while True:\n"
        f"    with loop_scratch('xfs', {SIZE}, pathlib.Path(sys.argv[1])) as made: pass\n"
    )
    for step in range(12):
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.011 * step)
        process.kill()
        process.wait()
        process.stdout.close()
        assert gone(str(tmp_path))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_many_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(loop_scratch("xfs", SIZE, tmp_path)) for _ in range(3)]
        assert len({one.dev for one in made}) == 3
        for one in made:
            try_out(one)
    assert gone(str(tmp_path), 0)


@pytest.mark.root
def test_a_kernel_without_loop_configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The number of no ioctl: what a kernel before 5.8 makes of LOOP_CONFIGURE.
    monkeypatch.setattr(loop, "LOOP_CONFIGURE", 0x4CFE)
    with loop_scratch("xfs", SIZE, tmp_path) as made:
        try_out(made)
    assert gone(str(tmp_path), 0)


@pytest.mark.root
def test_tracefs_is_there_and_the_host_sees_nothing_of_it() -> None:
    mounts = Path("/proc/1/mounts").read_text()
    done = in_child(
        "from tracer.lab import namespace as n\nn.ensure_tracefs()\nn.ensure_tracefs()\n"
        "print((n.TRACEFS / 'events').is_dir())"
    )
    assert done.stdout == "True\n", done.stderr
    assert Path("/proc/1/mounts").read_text() == mounts


HOST = """
import os, subprocess, sys
from pathlib import Path
from tests.tracer.test_lab import gone
from tracer.lab import namespace as n

directory = Path(sys.argv[1])
disk, mounted = directory / "disk", directory / "mounted"

def run(*words):
    subprocess.run(words, check=True)

def table():
    return Path("/proc/thread-self/mounts").read_text()

n._libc.unshare(n.CLONE_NEWNS)
run("mount", "--make-rprivate", "/")
run("mount", "--make-rshared", "/")
mounted.mkdir()
disk.touch()
os.truncate(disk, 64 << 20)
run("mkfs.ext4", "-q", str(disk))
run("mount", "-o", "loop", str(disk), str(mounted))
before = table()
command = [sys.executable, "-c", sys.argv[2], str(directory)]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
    child.stdout.readline()
    assert table() == before, "what it mounts is seen outside"
    assert str(mounted) in Path(f"/proc/{child.pid}/mounts").read_text()
    run("umount", str(mounted))
    assert gone(str(disk)), "it keeps the device"
    assert child.poll() is None
    child.communicate()
assert child.returncode == 0
"""
"""A host as systemd makes it, out of a mount namespace, and a child that works in a namespace of ours."""

LIVES = {
    "in the namespace": (
        "import sys; from tracer.lab import namespace as n; n.enter_private_namespace()\n"
        "n._mount('none', n.cover(), 'tmpfs', 0, ''); print(flush=True); sys.stdin.read()"
    ),
    "with a held disk": (
        "import sys; from pathlib import Path; from tracer.lab.held import held_scratch\n"
        f"with held_scratch('xfs', {SIZE}, Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    ),
}


@pytest.mark.root
@pytest.mark.parametrize("life", LIVES)
def test_the_host_can_unmount_what_is_its_own(life: str, tmp_path: Path) -> None:
    mounts = Path("/proc/1/mounts").read_text()
    done = in_child(HOST, tmp_path, LIVES[life])
    assert done.returncode == 0, done.stderr
    assert Path("/proc/1/mounts").read_text() == mounts
    assert gone(str(tmp_path))


@pytest.mark.root
def test_an_unknown_file_system_is_told() -> None:
    with pytest.raises(UnsupportedError, match="no nosuchfs"):
        namespace.mount_detached("none", "nosuchfs")


def test_bad_requests(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    calls: list[Callable[[], AbstractContextManager[Scratch]]] = [
        lambda: loop_scratch("nofs", SIZE, tmp_path),
        lambda: loop_scratch("xfs", 16 * MIB, tmp_path),
        lambda: directory_scratch(tmp_path / "missing"),
        lambda: directory_scratch(tmp_path / "file"),
        lambda: directory_scratch(Path("/proc")),
    ]
    for call in calls:
        with pytest.raises(UsageError) as caught, call():
            pytest.fail("made")
        assert "\n" not in str(caught.value)


@pytest.mark.root
def test_bad_backing_directories(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad, size in ((tmp_path / "missing", SIZE), (tmp_path / "file", SIZE), (tmp_path, 1 << 60)):
        with pytest.raises(EofraceError) as caught, loop_scratch("xfs", size, bad):
            pytest.fail("made")
        assert str(bad) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may mount")
def test_without_privilege_it_says_root(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="root"), loop_scratch("xfs", SIZE, tmp_path):
        pytest.fail("made")


def test_a_directory_scratch(tmp_path: Path) -> None:
    with directory_scratch(tmp_path) as made:
        assert made.dev == tmp_path.stat().st_dev
        assert made.free_bytes > 0
        assert made.fs == scratch.filesystem_of(tmp_path)
        try_out(made)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    with directory_scratch(tmp_path) as made, made.new_file() as file:
        assert os.fstat(file.fd).st_nlink == 0
        assert os.fstat(file.fd).st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_body_is_not_taken_for_one_of_the_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), directory_scratch(tmp_path):
        raise FileNotFoundError(2, "of the body")


def test_names_of_file_systems() -> None:
    assert scratch.filesystem_of(Path("/proc")) == "0x9fa0"
    with pytest.raises(FileNotFoundError):
        scratch.filesystem_of(Path("/nowhere"))


def test_helpers_that_fail() -> None:
    with pytest.raises(UnsupportedError, match="install it"):
        children.run(["no-such-helper"])
    with pytest.raises(children.ChildError, match="did not end within"):
        children.run(["sleep", "9"], seconds=0.2)
    with pytest.raises(children.ChildError, match="exit 3: two") as caught:
        children.run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"])
    assert caught.value.returncode == 3
    assert children.run(["sh", "-c", "echo out; exit 3"], accept=(0, 3)).stdout == "out\n"
