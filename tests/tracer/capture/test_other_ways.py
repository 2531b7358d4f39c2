"""What changes a file without write(2) and its kin: recorded, or at least counted, so that no verdict rests on it."""

import contextlib
import errno
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer import attach, trace
from tracer.analysis.hazards import Verdict, analyse
from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.errors import Status
from tracer.lab import namespace
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.operations import Op, Operations

pytestmark = pytest.mark.root

RING = str(Path(__file__).with_name("ring.py"))
FILE_SYSTEMS = ("xfs", "ext4", "btrfs")


@pytest.fixture(params=FILE_SYSTEMS)
def scratch(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    """A file system of each kind."""
    with loop_scratch(request.param, 512 << 20, default_directory()) as made:
        yield made


def recorded(tmp_path: Path, script: str, *words: object, files: tuple[Path, ...] = ()) -> tuple[Captured, Operations]:
    """What `eofrace trace` sees of a Python script, or of one in a file, with these arguments."""
    output = tmp_path / "out.parquet"
    program = [script] if script.endswith(".py") else ["-c", script]
    command = (sys.executable, *program, *map(str, words))
    captured = capture(Options(command=command, files=files, output=output), lambda *_: None)
    assert captured.exit_status == 0
    return captured, trace.read(output).ops


def rows(ops: Operations, path: Path) -> list[tuple[str, int, int, int]]:
    """Kind, offset, length and result of what was done to a file, in the order of its begin."""
    status = path.stat()
    mine = ops[(ops["ino"] == status.st_ino) & (ops["dev"] == status.st_dev)]
    return [
        (Op(op).label, offset, length, result)
        for op, offset, length, result in mine[["op", "offset", "length", "result"]].tolist()
    ]


def lost(captured: Captured) -> dict[str, int]:
    return {reason: count for reason, count in captured.totals.dropped.items() if count}


COPIES = """
import fcntl, os, struct, sys
source, target = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
assert os.copy_file_range(source, target, 4096, 0, 5000) == 4096
assert os.copy_file_range(source, target, 1 << 40, 0) == 8192
os.lseek(source, 0, 0)
assert os.sendfile(target, source, 0, 1000) == 1000
reader, writer = os.pipe()
os.write(writer, bytes(500))
assert os.splice(reader, target, 400, offset_dst=100) == 400
assert os.splice(reader, target, 400) == 100
for command, argument in ((0x40049409, source), (0x4020940D, struct.pack("qQQQ", source, 4096, 0, 16384))):
    try:
        fcntl.ioctl(target, command, argument)
    except OSError:
        pass
"""


def test_copies_are_writes_to_where_they_go(scratch: Scratch, tmp_path: Path) -> None:
    source, target = scratch.path / "source", scratch.path / "target"
    source.write_bytes(bytes(8192))
    captured, ops = recorded(tmp_path, COPIES, source, target)
    cloned = -errno.EOPNOTSUPP if scratch.fs == "ext4" else None
    kind = "buffered_write"
    assert rows(ops, target) == [
        (kind, 5000, 4096, 4096),
        (kind, 0, 8192, 8192),
        (kind, 8192, 1000, 1000),
        (kind, 100, 400, 400),
        (kind, 9192, 100, 100),
        (kind, 0, 8192, cloned or 8192),
        (kind, 16384, 4096, cloned or 4096),
    ]
    assert rows(ops, source) == []
    assert (lost(captured), captured.status) == ({}, Status.OK)


def test_a_copy_to_a_direct_file_is_a_direct_write(tmp_path: Path) -> None:
    script = """
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
assert os.sendfile(target, source, 0, 1 << 17) == 1 << 17
"""
    with loop_scratch("xfs", 320 << 20, default_directory()) as scratch:
        source, target = scratch.path / "source", scratch.path / "target"
        source.write_bytes(bytes(1 << 17))
        captured, ops = recorded(tmp_path, script, source, target)
        parts = rows(ops, target)
    assert {kind for kind, *_ in parts} == {"direct_write"}
    assert sum(result for *_, result in parts) == 1 << 17
    assert sorted(offset for _, offset, *_ in parts)[0] == 0
    assert (lost(captured), captured.status) == ({}, Status.OK)


SPACE = """
import fcntl, os, struct, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(file, b"a" * 65536, 0)
os.lseek(file, 4096, os.SEEK_SET)
for number, whence, start, length in eval(sys.argv[2]):
    try:
        fcntl.ioctl(file, 0x40305800 | number, struct.pack("hhxxxxqqiI16x", 0, whence, start, length, 0, 0))
    except OSError as error:
        print(number, error)
"""


def test_ioctls_that_are_fallocates(scratch: Scratch, tmp_path: Path) -> None:
    """FS_IOC_RESVSP and those beside it, from the begin, the position and the end of the file."""
    path = scratch.path / "f"
    keep, punch, zero = 1, 2, 16
    calls = [(40, 0, 0, 4096, keep), (42, 1, 100, 8192, keep), (41, 0, 8192, 4096, keep | punch)]
    calls += [(43, 2, -4096, 4096, keep | punch), (57, 0, 16384, 4096, keep | zero), (57, 1, 0, 10, keep | zero)]
    calls += [(40, 3, 0, 4096, keep), (41, 0, 0, 0, keep | punch)]  # refused
    captured, ops = recorded(tmp_path, SPACE, path, repr([call[:4] for call in calls]))
    status = path.stat()
    mine = ops[(ops["ino"] == status.st_ino) & (ops["op"] == Op.FALLOCATE)]
    starts = {0: 0, 1: 4096, 2: 65536, 3: 0}
    expected = [(starts[whence] + start, length, mode) for _, whence, start, length, mode in calls]
    assert mine[["offset", "length", "flags"]].tolist() == expected
    assert mine["result"].tolist() == [0] * 6 + [-errno.EINVAL] * 2
    assert path.read_bytes()[8192:12288] == bytes(4096)
    assert (lost(captured), captured.status) == ({}, Status.OK)


UNTOUCHED = """
import ctypes, fcntl, mmap, os, struct, sys
file, words = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[1] + ".words", os.O_RDWR | os.O_CREAT)
os.write(words, struct.pack("hhxxxxqqiI16x", 0, 0, 0, 4096, 0, 0))
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
for command in (0x40305839, 0x4020940D, 0x5421):
    address = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, words, ctypes.c_long(0))
    libc.ioctl(file, ctypes.c_ulong(command), ctypes.c_void_p(address))
assert open(sys.argv[1], "rb").read() == bytes(4096)
"""


def test_an_ioctl_whose_argument_cannot_be_read_is_counted(tmp_path: Path) -> None:
    """It is in a page that the process has not touched yet; the kernel's copy_from_user() fetches it."""
    with loop_scratch("ext4", 320 << 20, default_directory()) as scratch:
        path = scratch.path / "f"
        path.write_bytes(b"a" * 4096)
        captured, ops = recorded(tmp_path, UNTOUCHED, path)
        assert rows(ops, path) == []
    assert (lost(captured), captured.status) == ({"place not known": 2}, Status.INCONCLUSIVE)


TRUNCATIONS = """
import os, sys
for size in (100, 8192, 8192, 0):
    os.truncate(sys.argv[1], size)
try:
    os.truncate(sys.argv[1] + ".not-there", 0)
except FileNotFoundError:
    pass
"""


def test_truncation_by_path_is_recorded_or_counted(scratch: Scratch, tmp_path: Path) -> None:
    """By way of a symbolic link, whose time of access changes; the control does the same by descriptor."""
    file, link = scratch.path / "f", scratch.path / "link"
    file.write_bytes(bytes(4096))
    link.symlink_to(file.name)
    os.utime(link, (0, 0), follow_symlinks=False)
    captured, ops = recorded(tmp_path, TRUNCATIONS, link)
    if scratch.fs == "btrfs" and "kprobe" not in captured.mechanisms["truncate(2)"]:
        assert lost(captured) == {"file not known": 4}
        assert captured.status is Status.INCONCLUSIVE
    else:
        assert rows(ops, file) == [("truncate", size, 0, 0) for size in (100, 8192, 8192, 0)]
        assert (lost(captured), captured.status) == ({}, Status.OK)
    script = TRUNCATIONS.replace("os.truncate(sys.argv[1], size)", "os.truncate(os.open(sys.argv[1], os.O_RDWR), size)")
    captured, ops = recorded(tmp_path, script, link)
    assert rows(ops, file) == [("truncate", size, 0, 0) for size in (100, 8192, 8192, 0)]
    assert (lost(captured), captured.status) == ({}, Status.OK)


def test_size_before_a_truncation_by_path(tmp_path: Path) -> None:
    with loop_scratch("xfs", 320 << 20, default_directory()) as scratch:
        file = scratch.path / "f"
        file.write_bytes(bytes(4096))
        _, ops = recorded(tmp_path, TRUNCATIONS, file)
    assert ops["size_begin"].tolist() == [4096, 100, 8192, 8192]
    assert ops["size_applied"].tolist() == [4096, 100, 8192, 8192]
    assert ops["size_end"].tolist() == [100, 8192, 8192, 0]


@pytest.mark.parametrize(("fs", "counted"), [("xfs", 0), ("ext4", 0), ("btrfs", 1)])
def test_whose_truncation_may_be_that_of_a_watched_file(fs: str, counted: int, tmp_path: Path) -> None:
    """tmpfs does not tell; XFS and ext4 do, so that it was none of theirs."""
    script = "import os, sys; os.pwrite(os.open(sys.argv[1], os.O_RDWR), b'x', 0); os.truncate(sys.argv[2], 5)"
    with (
        loop_scratch(fs, 512 << 20, default_directory()) as scratch,
        tempfile.NamedTemporaryFile(dir="/dev/shm") as elsewhere,
    ):
        file = scratch.path / "f"
        file.write_bytes(bytes(4096))
        captured, ops = recorded(tmp_path, script, file, elsewhere.name, files=(file,))
        assert rows(ops, file) == [("buffered_write", 0, 1, 1)]
    if "kprobe" not in captured.mechanisms["truncate(2)"]:
        assert captured.totals.dropped["file not known"] == counted


def test_a_file_that_is_no_longer_watched_is_no_reason_to_count(tmp_path: Path) -> None:
    def counted() -> int:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as elsewhere:
            os.truncate(elsewhere.name, 5)
        return probes.dropped()["file not known"]

    with attach.attach(1 << 20) as probes, loop_scratch("btrfs", 512 << 20, default_directory()) as scratch:
        if "kprobe" in probes.mechanisms["truncate(2)"]:
            pytest.skip("with kprobes every file is known")
        with (scratch.path / "f").open("wb") as file:
            before = counted()
            dev, ino = probes.watch_file(file.fileno())
            while_watched = counted()
            probes.unwatch(dev, ino)
            assert (before, while_watched, counted()) == (0, 1, 1)
            probes.watch(dev, ino)
            assert counted() == 2
            probes.unwatch(dev, ino)
            assert counted() == 2


@contextlib.contextmanager
def overlaid(directory: Path) -> Iterator[tuple[Path, Path]]:
    """A file on overlayfs, and the same below. Mounted for us alone."""
    namespace.enter_private_namespace()
    below, upper, work, merged = (directory / name for name in ("below", "upper", "work", "merged"))
    for path in (below, upper, work, merged):
        path.mkdir()
    (upper / "f").write_bytes(bytes(4096))
    words = ["mount", "-t", "overlay", "-o", f"lowerdir={below},upperdir={upper},workdir={work}", "overlay"]
    if subprocess.run([*words, str(merged)], capture_output=True, check=False).returncode:
        pytest.skip("no overlayfs here")
    try:
        yield merged / "f", upper / "f"
    finally:
        subprocess.run(["umount", str(merged)], check=True)


def test_truncation_by_path_on_overlayfs(tmp_path: Path) -> None:
    """Told of the file below; whoever watches that of overlayfs hears at least that there was one."""
    script = "import os, sys; os.truncate(sys.argv[1], 100); os.truncate(os.open(sys.argv[1], os.O_RDWR), 200)"
    with overlaid(tmp_path) as (file, below):
        captured, ops = recorded(tmp_path, script, file)
        by_kprobe = "kprobe" in captured.mechanisms["truncate(2)"]
        assert sorted(rows(ops, file) + rows(ops, below)) == [("truncate", size, 0, 0) for size in (100, 200)]
        assert rows(ops, file)[-1] == ("truncate", 200, 0, 0)
        assert lost(captured) == {}
        captured, ops = recorded(tmp_path, script, file, files=(file,))
        assert lost(captured) == ({} if by_kprobe else {"file not known": 1})
        assert captured.status is (Status.OK if by_kprobe else Status.INCONCLUSIVE)
        assert not [gap for gap in captured.gaps if "replaced" in gap]
        captured, ops = recorded(tmp_path, script, file, files=(below,))
        assert lost(captured) == {}


def test_an_open_by_io_uring_that_truncates(scratch: Scratch, tmp_path: Path) -> None:
    file = scratch.path / "f"
    file.write_bytes(bytes(4096))
    captured, ops = recorded(tmp_path, RING, file, "opens")
    assert rows(ops, file) == [("truncate", 0, 0, 0)]
    assert rows(ops, Path(f"{file}.new")) == []
    assert (lost(captured), captured.status) == ({}, Status.OK)


def test_an_open_by_io_uring_without_a_descriptor_is_counted(tmp_path: Path) -> None:
    with loop_scratch("xfs", 320 << 20, default_directory()) as scratch:
        captured, _ = recorded(tmp_path, RING, scratch.path / "f", "opens", "slot")
    assert (lost(captured), captured.status) == ({"file not known": 1}, Status.INCONCLUSIVE)


def test_splicing_by_io_uring(scratch: Scratch, tmp_path: Path) -> None:
    file = scratch.path / "f"
    file.write_bytes(bytes(4096))
    captured, ops = recorded(tmp_path, RING, file, "splices")
    assert rows(ops, file) == [("buffered_write", 4096, 64, 64)]
    assert (lost(captured), captured.status) == ({}, Status.OK)
    captured, _ = recorded(tmp_path, RING, file, "splices-direct")
    assert (lost(captured), captured.status) == ({"begin not seen": 1}, Status.INCONCLUSIVE)


MAPPED = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(os.open(sys.argv[2], os.O_RDWR), b"x", 0)
flags, protection = int(sys.argv[3]), int(sys.argv[4])
memory = mmap.mmap(file, 4096, flags=flags, prot=protection)
if protection & mmap.PROT_WRITE:
    memory[0] = 1
"""


@pytest.mark.parametrize(
    ("flags", "protection", "written", "seen"),
    [
        (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, True, True),
        (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, False, False),  # another file is
        (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, True, False),
        (mmap.MAP_SHARED, mmap.PROT_READ, True, False),
    ],
)
def test_a_file_that_is_written_to_and_mapped(
    scratch: Scratch, tmp_path: Path, flags: int, protection: int, written: bool, seen: bool
) -> None:
    file, other = scratch.path / "f", scratch.path / "other"
    for path in (file, other):
        path.write_bytes(bytes(4096))
    captured, _ = recorded(tmp_path, MAPPED, file, file if written else other, flags, protection)
    if seen:
        assert captured.gaps["stores to shared mappings"].startswith("/f")
        assert captured.status is Status.INCONCLUSIVE
        kept = trace.read(tmp_path / "out.parquet")
        assert analyse(kept.ops, kept.meta).verdict is Verdict.INCONCLUSIVE
    else:
        assert "stores to shared mappings" not in captured.gaps
        assert captured.status is Status.OK


def test_memory_is_there_to_be_mapped(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.truncate(file.name, 4096)
        words = (file.name, file.name, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        captured, _ = recorded(tmp_path, MAPPED, *words)
        assert captured.status is Status.OK
        captured, _ = recorded(tmp_path, MAPPED, *words, files=(Path(file.name),))
        assert captured.status is Status.INCONCLUSIVE


BEFORE = """
import ctypes, mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
shared = sys.argv[2] != "private"
protection = mmap.PROT_READ | (0 if sys.argv[2] == "protected" else mmap.PROT_WRITE)
memory = mmap.mmap(file, 4096, flags=mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, prot=protection)
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "protected":
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 1, mmap.MAP_SHARED, file, ctypes.c_long(0))
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), 3) == 0
    ctypes.memset(address, 1, 1)
os.pwrite(file, b"x", 0)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("kind", "seen"), [("shared", True), ("private", False), ("protected", True)])
@pytest.mark.parametrize("by", ["process", "file"])
def test_a_mapping_from_before(kind: str, by: str, seen: bool, tmp_path: Path) -> None:
    with loop_scratch("xfs", 320 << 20, default_directory()) as scratch:
        file = scratch.path / "f"
        file.write_bytes(bytes(4096))
        words = [sys.executable, "-c", BEFORE, str(file), kind]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None
            stdout.readline()
            begun: list[float] = []

            def act(_totals: object, _seconds: float) -> None:
                if not begun:
                    begun.append(0)
                    os.write(stdin.fileno(), b"now\n")

            selected = {"pids": (process.pid,)} if by == "process" else {"files": (file,)}
            captured = capture(Options(seconds=1, **selected), act)
            os.write(stdin.fileno(), b"end\n")
    assert captured.totals.operations == 1
    assert captured.status is (Status.INCONCLUSIVE if seen else Status.OK)
    assert ("stores to shared mappings" in captured.gaps) is seen


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
@pytest.mark.parametrize("what", ["write", "discard"])
def test_what_a_loop_device_does_to_a_watched_file_is_counted(fs: str, what: str, tmp_path: Path) -> None:
    """Through the page cache, by a thread of the kernel; the control does it by itself."""
    script = "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); os.pwrite(f, bytes(8192), 0); os.fsync(f)"
    discard = (
        "import subprocess, sys; subprocess.run(['blkdiscard', '-o', '0', '-l', '65536', sys.argv[1]], check=True)"
    )
    with loop_scratch(fs, 512 << 20, default_directory()) as scratch:
        file = scratch.path / "f"
        file.write_bytes(bytes(1 << 20))
        words = ["losetup", "--find", "--show", str(file)]
        device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        try:
            command = (sys.executable, "-c", script if what == "write" else discard, device)
            captured = capture(Options(files=(file,), seconds=2), _once(command))
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
        control = capture(Options(files=(file,), seconds=2), _once((sys.executable, "-c", script, str(file))))
    if what == "discard" and fs == "xfs" and captured.mechanisms["xfs_file_fallocate"].startswith(("kprobe", "kfunc")):
        assert captured.totals.kinds == {"fallocate": 1}
    else:
        assert captured.totals.dropped["by a kernel thread"] > 0
        assert captured.status is Status.INCONCLUSIVE
    assert lost(control) == {}
    assert control.status is Status.OK


def _once(command: tuple[str, ...]) -> Callable[[object, float], None]:
    """Progress of a capture that runs a command, when recording has begun."""
    waiting = [command]

    def act(_totals: object, _seconds: float) -> None:
        if waiting:
            subprocess.run(waiting.pop(), check=True)

    return act
