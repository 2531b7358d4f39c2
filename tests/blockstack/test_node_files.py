"""Requests of any alignment, number of buffers and length on real files under O_DIRECT, in every engine."""

import asyncio
import errno
import itertools
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import blockstack
from blockstack.aio import ENGINES
from blockstack.file_posix import MAX_TRANSFER
from blockstack.journal import Journal, Kind
from blockstack.node import MAX_REQUEST
from blockstack.requests import TrackedRequest
from tests.blockstack.support import Double, Hold, eventually, payload, run, turns

pytestmark = pytest.mark.usefixtures("direct")

KIB, MIB = 1 << 10, 1 << 20

engines = pytest.mark.parametrize("aio", list(ENGINES))


@engines
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_neighbours_of_any_alignment_at_once(tmp_path: Path, aio: str, format: str) -> None:
    """Many writes, none overlapping another, that share their blocks: each byte has one owner, and all survive."""
    path, size, chance = tmp_path / "image", 32 * KIB, random.Random(7)
    cuts = sorted({0, size, *(chance.randrange(size) for _ in range(120))})
    content = payload(3, size)

    async def main() -> None:
        await blockstack.create(path, size, format=format, cluster_size=4096)
        async with blockstack.open(path, format, aio=aio) as disk:
            pieces = [(start, content[start:end]) for start, end in itertools.pairwise(cuts)]
            chance.shuffle(pieces)
            await asyncio.gather(*(disk.pwritev(start, [data]) for start, data in pieces))
            assert disk.file.tracker.waits + disk.node.tracker.waits > 0
            assert await disk.preadv(0, size) == content
            reads = [(chance.randrange(size), chance.randrange(size)) for _ in range(40)]
            found = await asyncio.gather(*(disk.preadv(min(pair), abs(pair[0] - pair[1])) for pair in reads))
            assert found == [content[min(pair) : max(pair)] for pair in reads]
        async with blockstack.open(path, format, aio=aio) as disk:
            assert await disk.preadv(0, size) == content

    run(main())


@engines
def test_a_task_that_goes_on_at_once_may_close_the_file(tmp_path: Path, aio: str) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(8192))
    wrong: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with blockstack.open(path, "raw", aio=aio) as disk:
            await asyncio.gather(*(disk.preadv(0, 4096) for _ in range(3)))
            await disk.preadv(0, 4096)
            await disk.node.close()
        await turns()

    run(main())
    assert wrong == []


@engines
@pytest.mark.parametrize("mutant", [False, True])
def test_two_writes_into_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aio: str, mutant: bool) -> None:
    """The first is about to reach the file when the second comes. The mutant, not serialising, loses the second."""
    path = tmp_path / "raw"
    path.write_bytes(bytes(8192))
    if mutant:
        monkeypatch.setattr(TrackedRequest, "make_serialising", lambda *_: None)

    async def main() -> None:
        async with blockstack.open(path, "raw", aio=aio) as disk:
            double = Double(disk.file)
            hold = Hold(double, 0, 512)
            first = asyncio.create_task(disk.pwritev(5, [b"first"]))
            await hold.held.wait()
            double.before = None
            second = asyncio.create_task(disk.pwritev(50, [b"second"]))
            if mutant:
                await second
            else:
                await eventually(lambda: disk.file.tracker.waits == 1)
            hold.release.set()
            await asyncio.gather(first, second)
            assert await disk.preadv(5, 5) == b"first"
            assert (await disk.preadv(50, 6) == b"second") is not mutant

    run(main())


@engines
@pytest.mark.parametrize(("count", "each"), [(1025, 1), (3000, 7), (2048, 512)])
def test_more_buffers_than_iov_max(tmp_path: Path, aio: str, count: int, each: int) -> None:
    assert os.sysconf("SC_IOV_MAX") <= 1024 < count
    path, data = tmp_path / "raw", payload(1, count * each)
    path.write_bytes(b"o" * 2 * MIB)

    async def main() -> None:
        async with blockstack.open(path, "raw", aio=aio) as disk:
            view = memoryview(data)
            buffers = [view[at : at + each] for at in range(0, len(data), each)]
            await disk.pwritev(5, [b"", *buffers, bytearray()])
            assert await disk.preadv(0, len(data) + 10) == b"ooooo" + data + b"ooooo"

    run(main())


@engines
def test_a_request_longer_than_max_transfer_is_split(tmp_path: Path, aio: str) -> None:
    path, journal, data = tmp_path / "raw", Journal(), payload(2, 100_000)
    path.write_bytes(bytes(MIB))

    async def main() -> None:
        async with blockstack.open(path, "raw", aio=aio, journal=journal) as disk:
            assert disk.file.max_transfer == MAX_TRANSFER
            disk.file.max_transfer = 8 * KIB
            await disk.pwritev(300, [data[:50_000], data[50_000:]])
            assert await disk.preadv(299, len(data) + 2) == b"\0" + data + b"\0"

    run(main())
    lengths = [entry.length for entry in journal.entries if entry.kind is Kind.WRITE]
    assert len(lengths) == 13
    assert max(lengths) == 8 * KIB


@engines
def test_the_longest_request(tmp_path: Path, aio: str) -> None:
    """BDRV_REQUEST_MAX_BYTES: EIO beyond it, without a write; zero-writes and discards go beyond (QEMU 7.2)."""
    path, journal, part = tmp_path / "raw", Journal(), bytes(64 * MIB)
    with path.open("wb") as file:
        file.truncate(5 << 30)

    async def main() -> None:
        async with blockstack.open(path, "raw", aio=aio, journal=journal) as disk:
            for request in (disk.preadv(0, MAX_REQUEST + 1), disk.pwritev(0, [part] * 32)):
                with pytest.raises(OSError, match="more than") as caught:
                    await request
                assert caught.value.errno == errno.EIO
            assert len(journal.entries) == 1  # the header was looked at
            await disk.pdiscard(0, 5 << 30)
            await disk.pwrite_zeroes(0, 5 << 30)
            long = 2 * MAX_TRANSFER + 512
            await disk.pwritev(512, [part[:long]])
            assert await disk.preadv(0, long + 1024) == bytes(long + 1024)

    run(main(), 60)


@engines
def test_the_end_of_the_disk(tmp_path: Path, aio: str) -> None:
    path = tmp_path / "raw"
    path.write_bytes(b"x" * 4096)

    async def main() -> None:
        async with blockstack.open(path, "raw", aio=aio) as disk:
            assert await disk.preadv(4095, 1) == b"x"
            for at in (0, 100, 4096):
                assert await disk.preadv(at, 0) == b""
                await disk.pwritev(at, [])
                await disk.pwritev(at, [b""])
                await disk.pwrite_zeroes(at, 0)
            late: list[Awaitable[object]] = [disk.preadv(4095, 2), disk.preadv(4097, 0), disk.pwritev(4096, [b"y"])]
            for request in (*late, disk.pwrite_zeroes(1, 4096), disk.pdiscard(0, 4097)):
                with pytest.raises(OSError, match="outside") as caught:
                    await request
                assert caught.value.errno == errno.EINVAL
        assert path.read_bytes() == b"x" * 4096

    run(main())


def _requests(disk: blockstack.Disk) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "write": lambda: disk.pwritev(5, [b"n" * 1000]),
        "zero": lambda: disk.pwrite_zeroes(5, 9000),  # three parts: the block's end, whole blocks, a block's beginning
        "read": lambda: disk.preadv(5, 1000),
    }


@engines
@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("what", ["write", "zero", "read"])
def test_drain_and_close_with_requests_in_flight(tmp_path: Path, aio: str, format: str, what: str) -> None:
    """Both wait for what began before; what comes after close began gets EBADF."""
    path = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(path, MIB, format=format)
        opened = blockstack.open(path, format, aio=aio)
        disk = await opened.__aenter__()
        await disk.pwritev(0, [b"o" * 16 * KIB])
        await disk.flush()
        for end in ("drain", "close"):
            double = Double(disk.file)
            hold = Hold(double, 0, 1 << 60)
            blocking = asyncio.create_task(disk.pwritev(3, [b"b"]))  # serialising: the others wait behind it
            await hold.held.wait()
            request = asyncio.ensure_future(_requests(disk)[what]())
            await turns()
            waiting = asyncio.create_task(disk.drain() if end == "drain" else disk.node.close())
            await turns()
            assert not waiting.done()
            if end == "close":
                for late in (disk.preadv(0, 1), disk.pwritev(0, [b"l"]), disk.pwrite_zeroes(0, 1), disk.flush()):
                    with pytest.raises(OSError, match="closed") as caught:
                        await late
                    assert caught.value.errno == errno.EBADF
            double.before = None
            hold.release.set()
            await waiting
            assert blocking.done()
            assert request.done()
            await blocking
            await request
        await opened.__aexit__(None, None, None)
        async with blockstack.open(path, format, aio=aio, read_only=True) as again:
            expected = bytearray(b"ooob" + b"o" * (16 * KIB - 4))
            if what != "read":
                length = 1000 if what == "write" else 9000
                expected[5 : 5 + length] = (b"n" if what == "write" else b"\0") * length
            assert await again.preadv(0, 16 * KIB) == expected

    run(main())


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_close_waits_for_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "image", MIB, format=format)
        opened = blockstack.open(tmp_path / "image", format)
        disk = await opened.__aenter__()
        await disk.pwritev(0, [b"o" * 4096])
        real, release, begun = disk.file._calls.fdatasync, asyncio.Event(), asyncio.Event()

        async def late() -> None:
            begun.set()
            await release.wait()
            await real()

        monkeypatch.setattr(disk.file._calls, "fdatasync", late)
        flush = asyncio.create_task(disk.flush())
        await begun.wait()
        waiting = [asyncio.create_task(disk.drain()), asyncio.create_task(opened.__aexit__(None, None, None))]
        await turns(50)
        assert not any(task.done() for task in waiting)
        release.set()
        await flush
        await asyncio.gather(*waiting)

    run(main())
