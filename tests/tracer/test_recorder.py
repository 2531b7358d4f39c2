"""The recorder against known operations on real file systems: the trace holds those, and nothing else."""

import contextlib
import ctypes
import errno
import fcntl
import importlib.util
import mmap
import os
import struct
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tracer import attach, btf
from tracer.errors import UnsupportedError
from tracer.lab import scratch
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.operations import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    NONE_RESULT,
    NONE_SIZE,
    OPERATION,
    Op,
)
from tracer.recorder import Recorder

pytestmark = pytest.mark.root

KIB, MIB = 1 << 10, 1 << 20
SLOT_BYTES = 8 + attach.RECORD_BYTES
FS_IOC_SETFLAGS, FS_NOCOW_FL = 0x40086602, 0x00800000
RWF_NOWAIT = 8
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
SYS_IO_SETUP, SYS_IO_DESTROY, SYS_IO_GETEVENTS, SYS_IO_SUBMIT = 206, 207, 208, 209

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def traceable() -> None:
    """Skips for what this host lacks, and only for that: a program that the kernel rejects is a failure."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if importlib.util.find_spec("bcc") is None:
        pytest.skip("needs bcc: apt install python3-bpfcc")
    if not (btf.BTF_DIR / "vmlinux").exists():
        pytest.skip("needs a kernel with BTF")


@pytest.fixture(scope="module")
def probes(traceable: None) -> Iterator[attach.Probes]:
    with attach.attach() as probes:
        yield probes


@pytest.fixture(scope="module", params=["xfs", "ext4", "btrfs"])
def place(request: pytest.FixtureRequest) -> Iterator[scratch.Scratch]:
    yield from _place(request.param)


@pytest.fixture(scope="module")
def xfs() -> Iterator[scratch.Scratch]:
    yield from _place("xfs")


def _place(fs: str) -> Iterator[scratch.Scratch]:
    with contextlib.ExitStack() as stack:
        try:
            made = scratch.loop_scratch(fs, 512 * MIB, scratch.default_directory())
            yield stack.enter_context(made)
        except UnsupportedError as error:
            pytest.skip(str(error))


@contextlib.contextmanager
def watched(probes: attach.Probes, where: scratch.Scratch) -> Iterator[tuple[int, int, Path]]:
    """A watched file: an O_DIRECT descriptor, a buffered one, and its path."""
    with where.new_file() as file:
        if where.fs == "btrfs":
            # With checksums a direct write goes through the page cache (968f19c5b1b7, v6.15).
            fcntl.ioctl(file.fd, FS_IOC_SETFLAGS, struct.pack("i", FS_NOCOW_FL))
        direct = os.open(file.path, os.O_RDWR | os.O_DIRECT)
        dev, ino = probes.watch_file(file.fd)
        assert (dev, ino) == (file.dev, file.ino)
        try:
            yield direct, file.fd, file.path
        finally:
            probes.unwatch(dev, ino)
            os.close(direct)


class Aio:
    """The least of a Linux AIO context: batches of aligned writes."""

    def __init__(self, depth: int = 256) -> None:
        self._context = ctypes.c_ulong()
        self._memory = mmap.mmap(-1, MIB)
        self._memory.write(b"\xa5" * MIB)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        assert _libc.syscall(SYS_IO_SETUP, depth, ctypes.byref(self._context)) == 0

    def submit(self, fd: int, writes: Sequence[tuple[int, int, int]], nowait: Collection[int] = ()) -> int:
        """(offset, length, aio_data) each, in one io_submit(2); those of `nowait` with RWF_NOWAIT."""
        packed = [
            struct.pack(
                *("<QIiHhIQQqQII", data, 0, RWF_NOWAIT if data in nowait else 0, 1, 0, fd),
                *(self._address, length, offset, 0, 0, 0),
            )
            for offset, length, data in writes
        ]
        blocks = [ctypes.create_string_buffer(block, 64) for block in packed]
        pointers = (ctypes.c_void_p * len(blocks))(*(ctypes.addressof(block) for block in blocks))
        return int(_libc.syscall(SYS_IO_SUBMIT, self._context, len(blocks), pointers))

    def results(self, count: int) -> dict[int, int]:
        """aio_data -> result of `count` completions."""
        events = ctypes.create_string_buffer(32 * count)
        assert _libc.syscall(SYS_IO_GETEVENTS, self._context, count, count, events, None) == count
        return {data: result for data, _, result, _ in struct.iter_unpack("<QQqq", events.raw)}

    def close(self) -> None:
        _libc.syscall(SYS_IO_DESTROY, self._context)


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    result = _libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    return -ctypes.get_errno() if result else 0


def pwrite(fd: int, length: int, offset: int) -> int:
    with mmap.mmap(-1, max(length, mmap.PAGESIZE)) as buffer:
        try:
            return os.pwrite(fd, memoryview(buffer)[:length], offset)
        except OSError as error:
            return -(error.errno or 0)


def brief(rows: np.ndarray) -> list[tuple[object, ...]]:
    """op, offset, length, size_begin, size_end, result, in the order of their begins."""
    rows = rows[np.argsort(rows["seq_begin"])]
    names = ("offset", "length", "size_begin", "size_end", "result")
    return [(Op(row["op"]), *(int(row[name]) for name in names)) for row in rows]


def sizes_applied(rows: np.ndarray) -> list[tuple[Op, int]]:
    """op and size_applied of all that succeeded and was not buffered, in the order of their begins."""
    rows = rows[(rows["result"] >= 0) & (rows["op"] != Op.BUFFERED_WRITE)]
    return [(Op(row["op"]), int(row["size_applied"])) for row in rows[np.argsort(rows["seq_begin"])]]


def numbers_are_unique(rows: np.ndarray) -> bool:
    ends = rows["seq_end"][rows["seq_end"] > 0]
    both = np.concatenate([rows["seq_begin"], ends])
    return bool((both > 0).all()) and len(np.unique(both)) == len(both)


def test_synchronous_operations(probes: attach.Probes, place: scratch.Scratch) -> None:
    with watched(probes, place) as (direct, buffered, _), Recorder(probes) as recorder:
        assert fallocate(buffered, 0, 0, 64 * KIB) == 0
        assert fallocate(buffered, FALLOC_FL_KEEP_SIZE, 64 * KIB, 64 * KIB) == 0
        assert pwrite(direct, 4 * KIB, 128 * KIB) == 4 * KIB
        assert pwrite(direct, 8 * KIB, 8 * KIB) == 8 * KIB
        zeroed = fallocate(buffered, FALLOC_FL_ZERO_RANGE, 192 * KIB, 4 * KIB)
        punched = fallocate(buffered, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4 * KIB)
        os.ftruncate(buffered, 16 * KIB)
        assert pwrite(buffered, 100, 5) == 100
        assert fallocate(buffered, 0x4000, 0, 4 * KIB) == -errno.EOPNOTSUPP
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(buffered, -1)
        rows = recorder.take()
    last = 196 * KIB if zeroed == 0 else 132 * KIB
    assert brief(rows) == [
        (Op.FALLOCATE, 0, 64 * KIB, 0, 64 * KIB, 0),
        (Op.FALLOCATE, 64 * KIB, 64 * KIB, 64 * KIB, 64 * KIB, 0),
        (Op.DIRECT_WRITE, 128 * KIB, 4 * KIB, 64 * KIB, 132 * KIB, 4 * KIB),
        (Op.DIRECT_WRITE, 8 * KIB, 8 * KIB, 132 * KIB, 132 * KIB, 8 * KIB),
        (Op.FALLOCATE, 192 * KIB, 4 * KIB, 132 * KIB, last, zeroed),
        (Op.FALLOCATE, 0, 4 * KIB, last, last, punched),
        (Op.TRUNCATE, 16 * KIB, 0, last, 16 * KIB, 0),
        (Op.BUFFERED_WRITE, 5, 100, 16 * KIB, 16 * KIB, 100),
        (Op.FALLOCATE, 0, 4 * KIB, 16 * KIB, 16 * KIB, -errno.EOPNOTSUPP),
        (Op.TRUNCATE, 0, 0, 16 * KIB, 16 * KIB, -errno.EINVAL),  # -1 is no offset that a trace may have
    ]
    assert numbers_are_unique(rows)
    assert (rows["seq_begin"] < rows["seq_end"]).all()
    assert (rows["t_begin"] <= rows["t_end"]).all()
    assert set(rows["tid"]) == {threading.get_native_id()}
    assert set(rows["pid"]) == {os.getpid()}
    assert set(rows["comm"]) == {Path("/proc/self/comm").read_bytes().strip()}
    changed = rows[(rows["op"] == Op.FALLOCATE) & (rows["result"] == 0)]
    if place.fs == "xfs":
        assert ((changed["t_begin"] <= changed["t_applied"]) & (changed["t_applied"] <= changed["t_end"])).all()
        assert [size for _, size in sizes_applied(rows)] == [
            0,
            NONE_SIZE,
            64 * KIB,
            132 * KIB,
            132 * KIB,
            NONE_SIZE,
            last,
        ]
    else:
        assert (changed["t_applied"] == 0).all()
        assert (rows["size_applied"] == NONE_SIZE).all()
    assert (recorder.dropped, recorder.unfinished) == (0, 0)


def test_a_setattr_that_sets_no_size(probes: attach.Probes, xfs: scratch.Scratch) -> None:
    """A fallocate takes file capabilities away with a setattr of its own (file_modified()), before all else."""
    capability = struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0)  # struct vfs_cap_data, revision 2
    with watched(probes, xfs) as (_, buffered, path), Recorder(probes) as recorder:
        os.ftruncate(buffered, 64 * KIB)
        for mode, size in ((FALLOC_FL_KEEP_SIZE, 64 * KIB), (0, 64 * KIB), (0, 128 * KIB)):
            os.setxattr(path, "security.capability", capability)
            assert fallocate(buffered, mode, 0, size) == 0
            assert "security.capability" not in os.listxattr(path)
        rows = recorder.take()
    assert sizes_applied(rows) == [
        (Op.TRUNCATE, 0),
        (Op.FALLOCATE, NONE_SIZE),
        (Op.FALLOCATE, NONE_SIZE),
        (Op.FALLOCATE, 64 * KIB),
    ]
    assert (rows["t_applied"] > 0).all()


def test_aio_batch(probes: attach.Probes, place: scratch.Scratch) -> None:
    aio = Aio()
    batch = [(i * 8 * KIB, 4 * KIB, 0xDEAD0000_00000000 + i) for i in range(100)]
    with watched(probes, place) as (direct, _, _), Recorder(probes) as recorder:
        assert aio.submit(direct, batch) == 100
        assert set(aio.results(100).values()) == {4 * KIB}
        rows = recorder.take()
        assert (recorder.dropped, recorder.unfinished) == (0, 0)
        again = recorder.take()
    aio.close()
    good = rows[np.argsort(rows["seq_begin"])]
    assert [(r["offset"], r["length"], r["request"]) for r in good] == batch
    assert set(good["op"]) == {Op.AIO_WRITE}
    assert set(good["result"]) == {4 * KIB}
    assert set(np.diff(good["seq_begin"])) == {1}, "one block of numbers, taken at the entry of io_submit"
    assert len(set(good["t_begin"])) == 1
    assert (good["seq_end"] > good["seq_begin"].max()).all()
    assert (good["size_end"] >= good["offset"] + good["length"]).all()
    assert ((good["t_applied"] > good["t_begin"]) & (good["t_applied"] <= good["t_end"])).all()
    if place.fs == "xfs":
        assert ((good["size_applied"] >= 0) & (good["size_applied"] <= good["size_end"])).all()
    assert numbers_are_unique(rows)
    assert (len(again), recorder.dropped, recorder.unfinished) == (0, 0, 0)


def test_unaligned_write_is_one_operation(probes: attach.Probes, xfs: scratch.Scratch) -> None:
    """xfs_file_dio_write_unaligned() calls iomap twice with one kiocb: overwrite only, then exclusively."""
    with watched(probes, xfs) as (direct, _, _), Recorder(probes) as recorder:
        aio = Aio()
        assert pwrite(direct, 512, 512) == 512
        assert aio.submit(direct, [(8 * KIB + 512, 512, 1), (512, 512, 2)]) == 2
        assert aio.results(2) == {1: 512, 2: 512}
        aio.close()
        rows = recorder.take()
    assert [row[:3] + row[5:] for row in brief(rows)] == [
        (Op.DIRECT_WRITE, 512, 512, 512),
        (Op.AIO_WRITE, 8 * KIB + 512, 512, 512),
        (Op.AIO_WRITE, 512, 512, 512),
    ]
    assert numbers_are_unique(rows)
    assert (recorder.dropped, recorder.unfinished) == (0, 0)


def test_only_watched_inodes(probes: attach.Probes, xfs: scratch.Scratch) -> None:
    with xfs.new_file() as other, watched(probes, xfs) as (direct, buffered, _), Recorder(probes) as recorder:
        os.pwrite(other.fd, b"x" * 4096, 0)
        os.posix_fallocate(other.fd, 0, 8192)
        os.ftruncate(other.fd, 0)
        os.pread(buffered, 10, 0)
        assert pwrite(direct, 4 * KIB, 0) == 4 * KIB
        assert brief(recorder.take()) == [(Op.DIRECT_WRITE, 0, 4 * KIB, 0, 4 * KIB, 4 * KIB)]
        status = os.fstat(buffered)
        probes.unwatch(status.st_dev, status.st_ino)
        os.ftruncate(buffered, 0)
        assert len(recorder.take()) == 0
        probes.watch(status.st_dev, status.st_ino)
        os.ftruncate(buffered, 1)
        rows = recorder.take()
        assert brief(rows) == [(Op.TRUNCATE, 1, 0, 0, 1, 0)]
        assert (rows["dev"][0], rows["ino"][0]) == (status.st_dev, status.st_ino)


def test_another_recorder_that_comes_is_no_operation(
    probes: attach.Probes, place: scratch.Scratch, traceable: None
) -> None:
    """It names the files that it watches by a system call on them."""
    with watched(probes, place) as (_, buffered, _), Recorder(probes) as recorder, attach.attach(1 << 16) as other:
        status = os.fstat(buffered)
        assert other.watch_file(buffered) == (status.st_dev, status.st_ino)
        assert (len(recorder.take()), recorder.dropped) == (0, 0)
        with Recorder(other) as second:
            assert fallocate(buffered, 0, 0, 0) == -errno.EINVAL
            assert [brief(one.take()) for one in (recorder, second)] == [
                [(Op.FALLOCATE, 0, 0, 0, 0, -errno.EINVAL)]
            ] * 2


def test_overflow_is_counted_exactly(traceable: None, xfs: scratch.Scratch) -> None:
    issued = 500
    with (
        attach.attach(ring_bytes=mmap.PAGESIZE) as small,
        watched(small, xfs) as (_, buffered, _),
        Recorder(small) as recorder,
    ):
        with recorder._lock:  # nobody drains meanwhile
            for i in range(issued):
                os.ftruncate(buffered, i)
        rows = recorder.take()
        assert recorder.dropped == recorder.dropped_by["ring full"] == issued - len(rows)
        assert 0 < len(rows) < issued
        assert numbers_are_unique(rows)
        os.ftruncate(buffered, 0)
        assert (len(recorder.take()), recorder.dropped) == (1, 0)
        for _ in range(20):  # around the end of the ring, many times
            with recorder._lock:
                for i in range(20):
                    os.ftruncate(buffered, i)
            assert sorted(recorder.take()["offset"]) == list(range(20))
            assert recorder.dropped == 0


def test_ring_is_emptied_before_it_is_full(traceable: None, xfs: scratch.Scratch) -> None:
    """Nobody takes: the kernel wakes the recorder's thread."""
    with attach.attach(ring_bytes=MIB) as small, watched(small, xfs) as (_, buffered, _), Recorder(small) as recorder:
        quarter = MIB // 4 // SLOT_BYTES
        for low in range(0, 20_000, 1000):
            for i in range(low, low + 1000):
                os.ftruncate(buffered, i)
            deadline = time.monotonic() + 30
            while recorder._waiting() > 2 * quarter:
                assert time.monotonic() < deadline, "the thread is not woken"
                time.sleep(0.001)
        rows = recorder.take()
        assert (len(rows), recorder.dropped) == (20_000, 0)
        assert sorted(rows["offset"]) == list(range(20_000))
        time.sleep(0.1)  # woken once more, it may be
        for i in range(quarter // 2):
            os.ftruncate(buffered, i)
        time.sleep(0.1)
        assert recorder._waiting() == quarter // 2, "woken for a few"


def test_unfinished_operations(probes: attach.Probes, xfs: scratch.Scratch) -> None:
    """A frozen file system holds whoever wants to write (sb_start_write()), for as long as we like."""
    aio = Aio()
    done: list[int] = []
    with watched(probes, xfs) as (direct, buffered, _), Recorder(probes) as recorder:
        holders = [
            threading.Thread(target=lambda: done.append(fallocate(buffered, 0, 4 * KIB, 4 * KIB))),
            threading.Thread(target=lambda: done.append(pwrite(direct, 8 * KIB, 16 * KIB))),
        ]
        fcntl.ioctl(buffered, FIFREEZE, 0)
        try:
            for thread in holders:
                thread.start()
            deadline = time.monotonic() + 30
            while len(held := recorder.take()) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            fcntl.ioctl(buffered, FITHAW, 0)
        for thread in holders:
            thread.join()
        finished = recorder.take()
    aio.close()
    assert sorted(brief(held)) == [
        (Op.DIRECT_WRITE, 16 * KIB, 8 * KIB, 0, NONE_SIZE, NONE_RESULT),
        (Op.FALLOCATE, 4 * KIB, 4 * KIB, 0, NONE_SIZE, NONE_RESULT),
    ]
    assert not held["seq_end"].any()
    assert not held["t_end"].any()
    assert sorted(done) == [0, 8 * KIB]
    assert set(finished["seq_begin"]) == set(held["seq_begin"]), "the same operations, finished"
    assert (finished["seq_end"] > held["seq_begin"].max()).all()
    assert sorted(finished["result"]) == [0, 8 * KIB]
    assert recorder.unfinished == 0


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "op"), [("libaio", Op.AIO_WRITE), ("io_uring", Op.URING_WRITE)])
def test_fio_in_parallel(probes: attach.Probes, xfs: scratch.Scratch, engine: str, op: Op) -> None:
    with watched(probes, xfs) as (_, buffered, path), Recorder(probes) as recorder:
        os.ftruncate(buffered, 64 * MIB)
        recorder.take()
        words = ["fio", "--name=j", f"--filename={path}", f"--ioengine={engine}", "--direct=1", "--rw=randwrite"]
        words += ["--bs=4k", "--iodepth=32", "--iodepth_batch_submit=8", "--numjobs=4", "--thread", "--size=64m"]
        words += ["--fallocate=none", "--io_size=256m", "--group_reporting", "--end_fsync=0"]
        words += ["--norandommap", "--unlink=0"]
        try:
            ran = subprocess.run(words, capture_output=True, check=False, text=True)
        except FileNotFoundError:
            pytest.skip("no fio: apt install fio")
        if ran.returncode:
            pytest.skip(f"fio cannot do {engine} here: {ran.stderr.strip()[-200:]}")
        rows = recorder.take()
    # How many fio means to issue; what it reports at the end of a timed run is off by one now and then.
    assert len(rows) == 4 * 256 * MIB // (4 * KIB)
    assert set(rows["op"]) == {op}
    # Skipped programs are counted for the whole host; that every operation of fio is there says whose they were not.
    own = {reason: count for reason, count in recorder.dropped_by.items() if reason != "program skipped"}
    assert not any(own.values()), own
    assert recorder.unfinished == 0
    assert numbers_are_unique(rows)
    assert (rows["seq_begin"] < rows["seq_end"]).all()
    assert set(rows["result"]) == {4 * KIB}


FIRST, AGAIN = "on_iomap_dio_complete", "on_iomap_dio_complete_again"


@pytest.mark.parametrize(
    ("preempts", "skipped", "taken", "counted"),
    [
        (False, {FIRST: 3}, 3, 0),
        (False, {FIRST: 3, AGAIN: 2}, 3, 0),
        (False, {FIRST: 3, AGAIN: 1}, 2, 1),
        (False, {FIRST: 3}, 4, 0),
        (False, {FIRST: 2, "on_iomap_dio_rw_begin": 1}, 2, 1),
        (False, {"on_iomap_dio_rw_queued": 1, "on_sys_exit": 2}, 0, 3),
        (False, {"on_xfs_end_io_direct_write": 4}, 0, 0),
        (True, {"on_xfs_end_io_direct_write": 4}, 0, 4),
        (True, {FIRST: 9}, 3, 0),
        (True, {FIRST: 9, AGAIN: 2}, 3, 2),
        (True, {FIRST: 4, AGAIN: 2}, 3, 1),
    ],
)
def test_a_completion_counts_that_neither_program_was_run_for(
    preempts: bool, skipped: dict[str, int], taken: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attach.attach(mechanism="tracepoint") as probes:
        names = {program: name for name, program in probes._programs.items()}
        assert skipped.keys() <= set(names.values())
        monkeypatch.setattr(probes, "_misses", lambda fd: skipped.get(names[fd], 0))
        monkeypatch.setattr(probes, "_preempts", preempts)
        monkeypatch.setattr(probes, "_taken", lambda: taken)
        monkeypatch.setattr(probes, "_skipped_before", 0)
        assert probes.dropped()["program skipped"] == counted
        skipped.clear()
        assert probes.dropped()["program skipped"] == counted  # what was counted stays counted


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
def test_a_write_that_is_refused_is_not_taken_for_the_next_one(fs: str) -> None:
    """Both with the same struct kiocb, freed within io_submit: each is there, with its own place and result."""
    aio = Aio()
    with loop_scratch(fs, 320 * MIB, default_directory()) as place:
        direct = os.open(place.path / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.ftruncate(direct, MIB)  # a hole, which RWF_NOWAIT does not fill
        with attach.attach(1 << 20) as probes, Recorder(probes) as recorder:
            probes.watch_file(direct)
            batch = [(at * 4 * KIB, 4 * KIB, at + 1) for at in range(0, 64, 2)]
            refused = {data for _, _, data in batch[::3]}
            assert aio.submit(direct, batch, refused) == len(batch)
            done = aio.results(len(batch))
            assert {data for data, result in done.items() if result == -errno.EAGAIN} == refused
            found = recorder.take()
        os.close(direct)
    assert {(int(op["request"]), int(op["offset"]), int(op["result"])) for op in found} == {
        (data, offset, done[data]) for offset, _, data in batch
    }
    assert set(found["op"].tolist()) == {Op.AIO_WRITE}
    assert len(found) == len(batch)
    assert (recorder.unfinished, recorder.dropped) == (0, 0)
    aio.close()


def test_ring_bytes_are_checked() -> None:
    for wrong in (0, 1000, 3 * mmap.PAGESIZE):
        with pytest.raises(ValueError, match="power of two"), attach.attach(ring_bytes=wrong):
            pass


def test_record_layout() -> None:
    assert OPERATION.itemsize <= attach.RECORD_BYTES == 152
