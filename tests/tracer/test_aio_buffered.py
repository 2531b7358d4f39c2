"""Writes by io_submit(2) that do not pass through iomap: operations like others, or counted one by one."""

import concurrent.futures
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.tracer.test_recorder import KIB, MIB, SYS_IO_SUBMIT, Aio, _libc, numbers_are_unique, watched
from tracer import attach
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.operations import Op, Operations
from tracer.recorder import Recorder

pytestmark = pytest.mark.root

PWRITE, PWRITEV = 1, 8
RWF_APPEND = 0x10


@pytest.fixture(scope="module")
def probes() -> Iterator[attach.Probes]:
    with attach.attach() as made:
        yield made


@pytest.fixture(scope="module", params=["xfs", "ext4", "btrfs"])
def place(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    with loop_scratch(request.param, 512 * MIB, default_directory()) as made:
        yield made


class Iocbs:
    """Iocbs in memory of their own, each with what it writes; submitted by any thread."""

    def __init__(self, aio: Aio) -> None:
        self._aio = aio
        self.blocks: list[ctypes.Array[ctypes.c_char]] = []
        self._kept: list[object] = []
        self._data = mmap.mmap(-1, MIB)
        self._data.write(bytes(MIB))
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._data))

    def renew(self) -> None:
        """Memory that nobody has touched."""
        self._kept.append(self._data)
        self._data = mmap.mmap(-1, MIB)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._data))

    def add(self, fd: int, offset: int, *lengths: int, number: int, flags: int = 0, shift: int = 0) -> None:
        """A write of that length from `shift` bytes behind a page; PWRITEV for several."""
        address, count, opcode = self._address + shift, lengths[0], PWRITE
        if len(lengths) > 1:
            vector = (ctypes.c_uint64 * (2 * len(lengths)))()
            for i, length in enumerate(lengths):
                vector[2 * i], vector[2 * i + 1] = address, length
            self._kept.append(vector)
            address, count, opcode = ctypes.addressof(vector), len(lengths), PWRITEV
        block = struct.pack("<QIIHhIQQqQII", number, 0, flags, opcode, 0, fd, address, count, offset, 0, 0, 0)
        self.blocks.append(ctypes.create_string_buffer(block, 64))

    def submit(self) -> int:
        """All that were added since the last time; the result, or -errno."""
        blocks, self.blocks = self.blocks, []
        self._kept.extend(blocks)
        pointers = (ctypes.c_void_p * len(blocks))(*(ctypes.addressof(block) for block in blocks))
        done = int(_libc.syscall(SYS_IO_SUBMIT, self._aio._context, len(blocks), pointers))
        return done if done >= 0 else -ctypes.get_errno()


def rows(ops: Operations) -> list[tuple[int, str, int, int, int]]:
    """Request, kind, offset, length and result, in the order of their begins."""
    names = ["request", "op", "offset", "length", "result"]
    ops = ops[np.argsort(ops["seq_begin"])]
    return [(request, Op(op).label, *others) for request, op, *others in ops[names].tolist()]


@contextlib.contextmanager
def aio(depth: int = 256) -> Iterator[tuple[Aio, Iocbs]]:
    made = Aio(depth)
    try:
        yield made, Iocbs(made)
    finally:
        made.close()


def test_buffered_and_direct_in_one_call(probes: attach.Probes, place: Scratch) -> None:
    with watched(probes, place) as (direct, buffered, _), Recorder(probes) as recorder, aio() as (one, iocbs):
        expected = []
        for number in range(1, 41):
            is_direct = number % 3 == 0
            length = 4 * KIB if is_direct else 100 * number
            iocbs.add(direct if is_direct else buffered, number * 8 * KIB, length, number=number)
            expected.append((number, "aio_write" if is_direct else "buffered_write", number * 8 * KIB, length, length))
        assert iocbs.submit() == 40
        assert len(one.results(40)) == 40
        found = recorder.take()
        assert sorted(rows(found)) == expected
        assert recorder.dropped == 0, recorder.dropped_by
        assert numbers_are_unique(found)
        assert len(set(found["t_begin"])) == 1
        assert (found["t_end"] >= found["t_begin"]).all()
        assert (found["size_begin"] >= 0).all()


def test_a_thread_that_wrote_directly_before(probes: attach.Probes, place: Scratch) -> None:
    """Its iocbs are no longer noted when it begins."""
    with watched(probes, place) as (direct, buffered, _), Recorder(probes) as recorder, aio() as (one, iocbs):
        for turn in range(4):
            for number in range(3):
                fd = direct if turn % 2 == 0 else buffered
                iocbs.add(fd, (turn * 3 + number) * 4 * KIB, 4 * KIB, number=turn * 3 + number + 1)
            assert iocbs.submit() == 3
            one.results(3)
        found = recorder.take()
    kinds = ["aio_write"] * 3 + ["buffered_write"] * 3
    assert sorted(rows(found)) == [(n + 1, kind, n * 4 * KIB, 4 * KIB, 4 * KIB) for n, kind in enumerate(kinds * 2)]
    assert recorder.dropped == 0, recorder.dropped_by


def test_iomap_gives_up(probes: attach.Probes) -> None:
    """btrfs does a write through its page cache whose buffer has to be faulted in first, at the end of a file."""
    with (
        loop_scratch("btrfs", 512 * MIB, default_directory()) as place,
        watched(probes, place) as (direct, _, _),
        Recorder(probes) as recorder,
        aio() as (one, iocbs),
    ):
        for turn in range(3):
            iocbs.renew()
            for number in range(3):
                iocbs.add(direct, (turn * 3 + number) * 4 * KIB, 4 * KIB, number=turn * 3 + number + 1)
            assert iocbs.submit() == 3
            one.results(3)
        found = recorder.take()
        assert recorder.dropped == 0, recorder.dropped_by
    kinds = ["buffered_write", "aio_write", "aio_write"]
    assert sorted(rows(found)) == [(n + 1, kind, n * 4 * KIB, 4 * KIB, 4 * KIB) for n, kind in enumerate(kinds * 3)]
    assert numbers_are_unique(found)


def test_what_fails(probes: attach.Probes, place: Scratch) -> None:
    """EFBIG, in the middle of a write, too; EINVAL if not aligned; EBADF ends io_submit itself: no operation."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with watched(probes, place) as (direct, buffered, path), Recorder(probes) as recorder, aio() as (one, iocbs):
        unwritable = os.open(path, os.O_RDONLY)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * KIB, limit[1]))
            iocbs.add(buffered, 0, 1000, number=1)
            iocbs.add(buffered, 64 * KIB, 1000, number=2)
            iocbs.add(buffered, 63 * KIB, 4 * KIB, number=3)
            iocbs.add(direct, 8 * KIB, 4 * KIB, number=4)
            iocbs.add(direct, 8 * KIB + 1, 4 * KIB, number=5)
            iocbs.add(direct, 64 * KIB, 4 * KIB, number=6)
            iocbs.add(unwritable, 0, 4 * KIB, number=7)
            iocbs.add(buffered, 0, 4 * KIB, number=8)
            assert iocbs.submit() == 6
            results = one.results(6)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
            os.close(unwritable)
        found = recorder.take()
        assert recorder.dropped == 0, recorder.dropped_by
    told = {request: (kind, offset, length, result) for request, kind, offset, length, result in rows(found)}
    assert {request: row[3] for request, row in told.items()} == results
    assert told[1] == ("buffered_write", 0, 1000, 1000)
    assert told[2] == ("buffered_write", 64 * KIB, 1000, -errno.EFBIG)
    assert told[3] == ("buffered_write", 63 * KIB, 4 * KIB, KIB)
    assert told[4] == ("aio_write", 8 * KIB, 4 * KIB, 4 * KIB)
    # btrfs writes through its page cache what is not aligned.
    kind = "buffered_write" if place.fs != "xfs" and results[5] > 0 else "aio_write"
    assert told[5] == (kind, 8 * KIB + 1, 4 * KIB, results[5])
    assert told[6] == ("aio_write", 64 * KIB, 4 * KIB, -errno.EFBIG)


def test_no_space(probes: attach.Probes, place: Scratch) -> None:
    with watched(probes, place) as (direct, buffered, _), Recorder(probes) as recorder, aio() as (one, iocbs):
        with full(place.path):
            for number, fd in enumerate((direct, buffered, direct, buffered)):
                iocbs.add(fd, number * MIB, 256 * KIB, number=number + 1)
                assert iocbs.submit() == 1
            results = one.results(4)
        found = recorder.take()
        assert recorder.dropped == 0, recorder.dropped_by
    assert set(results.values()) & {-errno.ENOSPC}
    written = [row for row in rows(found) if row[1] != "fallocate"]
    assert [(request, offset, length, result) for request, _, offset, length, result in written] == [
        (number + 1, number * MIB, 256 * KIB, results[number + 1]) for number in range(4)
    ]


@contextlib.contextmanager
def full(directory: Path) -> Iterator[None]:
    """Have no room on a file system until the block ends."""
    filler = directory / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        at, step = 0, 1 << 30
        while step >= 4 * KIB:
            try:
                os.posix_fallocate(fd, at, step)
                at += step
            except OSError:
                step //= 2
        yield
    finally:
        os.close(fd)
        filler.unlink()


def test_appending_and_vectors(probes: attach.Probes, place: Scratch) -> None:
    with watched(probes, place) as (_, buffered, path), Recorder(probes) as recorder, aio() as (one, iocbs):
        end = os.open(path, os.O_WRONLY | os.O_APPEND)
        iocbs.add(buffered, 10, 100, 200, 300, number=1)
        iocbs.add(end, 0, 50, number=2)
        iocbs.add(end, 7, *[10] * 9, number=3)
        iocbs.add(buffered, 5, 60, number=4, flags=RWF_APPEND)
        iocbs.add(buffered, 0, 4, number=5)
        assert iocbs.submit() == 5
        one.results(5)
        os.close(end)
        found = recorder.take()
        size = os.fstat(buffered).st_size
    assert size == 810
    told = rows(found)
    assert told[0] == (1, "buffered_write", 10, 600, 600)
    assert told[-1] == (5, "buffered_write", 0, 4, 4)
    if place.fs == "xfs":
        assert told[1:-1] == [
            (2, "buffered_write", 610, 50, 50),
            (3, "buffered_write", 660, 90, 90),
            (4, "buffered_write", 750, 60, 60),
        ]
        assert recorder.dropped == 0
    else:
        assert len(told) == 2  # the first of them has moved the end, too
        assert recorder.dropped == recorder.dropped_by["place not known"] == 3


def test_only_appending(probes: attach.Probes, place: Scratch) -> None:
    with watched(probes, place) as (_, buffered, path), Recorder(probes) as recorder, aio() as (one, iocbs):
        os.ftruncate(buffered, 1000)
        end = os.open(path, os.O_WRONLY | os.O_APPEND)
        for number in range(1, 6):
            iocbs.add(end, 0, 10 * number, number=number)
        assert iocbs.submit() == 5
        one.results(5)
        os.close(end)
        found = recorder.take()
        assert recorder.dropped == 0, recorder.dropped_by
    assert rows(found)[1:] == [
        (number, "buffered_write", 1000 + sum(range(0, 10 * number, 10)), 10 * number, 10 * number)
        for number in range(1, 6)
    ]


def fetch(one: Aio, blocks: Sequence[ctypes.Array[ctypes.c_char]], first: int) -> None:
    """Fetch the completions of iocbs, numbered from `first` on, one by one, and use their memory again."""
    for _ in blocks:
        for number in one.results(1):
            ctypes.memset(ctypes.addressof(blocks[number - first]), 0xFF, 64)


@pytest.mark.parametrize("fetched", ["in time", "at once"])
def test_more_than_are_noted_are_counted(probes: attach.Probes, place: Scratch, fetched: str) -> None:
    """With another thread that fetches what completes while io_submit goes on."""
    issued = 0
    with watched(probes, place) as (_, buffered, _), Recorder(probes) as recorder, aio(2000) as (one, iocbs):
        for count in (1500, 300, 300):
            for number in range(count):
                iocbs.add(buffered, number * 100, 100, number=issued + number + 1)
            thread = threading.Thread(target=fetch, args=[one, iocbs.blocks, issued + 1])
            if fetched == "at once":
                thread.start()
            assert iocbs.submit() == count
            if fetched == "in time":
                thread.start()
            thread.join()
            issued += count
        found = recorder.take()
    assert recorder.dropped == recorder.dropped_by["not through iomap"] == 1500 - 1024
    assert len(found) == issued - recorder.dropped
    expected = [*range(1024), *range(300), *range(300)]
    assert [row[2:] for row in rows(found)] == [(number * 100, 100, 100) for number in expected]


@pytest.mark.parametrize("last", ["others", "direct", "buffered"])
def test_behind_more_other_writes_than_are_noted(
    probes: attach.Probes, place: Scratch, tmp_path: Path, last: str
) -> None:
    """A thread's first io_submit has more than are noted, none of them on the file: those behind them are counted."""
    with (
        watched(probes, place) as (direct, buffered, _),
        (tmp_path / "other").open("wb") as other,
        Recorder(probes) as recorder,
        aio(2000) as (one, iocbs),
    ):
        for number in range(1, 1101):
            iocbs.add(other.fileno(), 0, 100, number=number)
        for number in range(1101, 1201):
            file = {"others": other.fileno(), "direct": direct, "buffered": buffered}[last]
            iocbs.add(file, number * 4 * KIB, 4 * KIB, number=number)
        with concurrent.futures.ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(iocbs.submit).result() == 1200
        one.results(1200)
        found = recorder.take()
    if last == "direct":
        assert [row[0] for row in rows(found)] == list(range(1101, 1201))
        assert recorder.dropped == 0, recorder.dropped_by
    else:
        assert len(found) == 0
        assert recorder.dropped == recorder.dropped_by["not through iomap"] == (0 if last == "others" else 100)


def test_reads_and_other_files_are_no_writes(probes: attach.Probes, place: Scratch, tmp_path: Path) -> None:
    with (
        watched(probes, place) as (direct, buffered, _),
        (tmp_path / "other").open("wb") as other,
        Recorder(probes) as recorder,
        aio() as (one, iocbs),
    ):
        for turn in range(3):
            iocbs.add(other.fileno(), 0, 100, number=1)
            iocbs.add(direct, 0, 4 * KIB, number=2)
            assert iocbs.submit() == 2
            one.results(2)
            assert [row[0] for row in rows(recorder.take())] == [2], turn
            assert recorder.dropped == 0
        iocbs.add(buffered, 0, 100, number=3)
        assert iocbs.submit() == 1
        one.results(1)
        assert [row[0] for row in rows(recorder.take())] == [3]


def test_btrfs_with_checksums(probes: attach.Probes) -> None:
    with loop_scratch("btrfs", 512 * MIB, default_directory()) as place, place.new_file() as file:
        direct = os.open(file.path, os.O_RDWR | os.O_DIRECT)
        probes.watch_file(file.fd)
        with Recorder(probes) as recorder, aio() as (one, iocbs):
            for number in range(1, 11):
                iocbs.add(direct, number * 8 * KIB, 4 * KIB, number=number)
            assert iocbs.submit() == 10
            one.results(10)
            found = recorder.take()
        probes.unwatch(file.dev, file.ino)
        os.close(direct)
    assert [row[0] for row in rows(found)] == list(range(1, 11))
    assert {row[3:] for row in rows(found)} == {(4 * KIB, 4 * KIB)}
    assert {row[1] for row in rows(found)} <= {"buffered_write", "aio_write"}
    assert recorder.dropped == 0, recorder.dropped_by


def test_ext4_without_extents(probes: attach.Probes) -> None:
    with loop_scratch("ext4", 512 * MIB, default_directory()) as place, place.new_file() as file:
        flags = bytearray(4)
        fcntl.ioctl(file.fd, 0x80086601, flags)  # FS_IOC_GETFLAGS
        without = struct.unpack("I", flags)[0] & ~0x80000  # EXT4_EXTENTS_FL
        fcntl.ioctl(file.fd, 0x40086602, struct.pack("I", without))
        direct = os.open(file.path, os.O_RDWR | os.O_DIRECT)
        probes.watch_file(file.fd)
        with Recorder(probes) as recorder, aio() as (one, iocbs):
            for number in range(1, 11):
                iocbs.add(direct, number * 8 * KIB, 4 * KIB, number=number)
            assert iocbs.submit() == 10
            one.results(10)
            found = recorder.take()
        probes.unwatch(file.dev, file.ino)
        os.close(direct)
    assert [(row[0], *row[3:]) for row in rows(found)] == [(n, 4 * KIB, 4 * KIB) for n in range(1, 11)]
    assert recorder.dropped == 0, recorder.dropped_by
