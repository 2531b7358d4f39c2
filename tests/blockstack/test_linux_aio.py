"""Linux AIO: batches, more requests than the context takes, errors to the right request, cancellation, closing."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from blockstack.aio import linux_aio
from blockstack.aio.linux_aio import DEPTH, LinuxAio
from blockstack.buffers import AlignedBuffer, BufferPool
from blockstack.journal import Journal, Kind
from tests.blockstack.support import run, turns

pytestmark = pytest.mark.usefixtures("direct")

BLOCK = 4096


@asynccontextmanager
async def engine(path: Path, journal: Journal | None = None, size: int = 0) -> AsyncIterator[LinuxAio]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    try:
        os.ftruncate(fd, size)
        aio = LinuxAio(fd, journal)
        try:
            yield aio
        finally:
            aio.close()
    finally:
        os.close(fd)


def filled(pool: BufferPool, byte: int) -> AlignedBuffer:
    return pool.gather([bytes([byte]) * BLOCK])[0]


class Calls:
    """Sees io_submit; `answer` may raise instead of the kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        self.failures: list[int] = []
        self._real = linux_aio._syscall
        monkeypatch.setattr(linux_aio, "_syscall", self._syscall)

    def _syscall(self, name: str, *arguments: object) -> int:
        if name == "io_submit":
            self.counts.append(int(arguments[1].value))  # type: ignore[attr-defined]
            if self.failures:
                code = self.failures.pop(0)
                raise OSError(code, os.strerror(code))
        return self._real(name, *arguments)


def test_one_turn_of_the_loop_is_one_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pool = Calls(monkeypatch), BufferPool()

    async def main() -> None:
        async with engine(tmp_path / "f") as aio:
            await asyncio.gather(*(aio.pwrite(filled(pool, at), BLOCK, at * BLOCK, 0) for at in range(20)))

    run(main())
    assert calls.counts == [20]
    assert (tmp_path / "f").read_bytes() == b"".join(bytes([at]) * BLOCK for at in range(20))


def test_more_requests_than_the_context_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pool, journal = Calls(monkeypatch), BufferPool(), Journal()
    count = 3 * DEPTH + 7

    async def main() -> None:
        async with engine(tmp_path / "f", journal) as aio:
            await asyncio.gather(*(aio.pwrite(filled(pool, at % 251), BLOCK, at * BLOCK, at) for at in range(count)))
            assert sorted(aio._free) == list(range(DEPTH))

    run(main())
    assert max(calls.counts) == DEPTH
    assert sum(calls.counts) == count
    assert (tmp_path / "f").read_bytes() == b"".join(bytes([at % 251]) * BLOCK for at in range(count))
    assert [entry.request for entry in journal.entries] == list(range(count))
    assert all(entry.kind is Kind.WRITE and entry.result == BLOCK for entry in journal.entries)
    assert max(entry.size_end for entry in journal.entries) == count * BLOCK


@pytest.mark.parametrize("size", [0, 100, BLOCK, BLOCK + 512, 2 * BLOCK - 1])
def test_short_read_at_the_end_of_the_file(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f", size=size) as aio:
            assert await aio.pread(BufferPool().get(2 * BLOCK), 2 * BLOCK, 0) == size
            assert await aio.pread(BufferPool().get(BLOCK), BLOCK, 4 * BLOCK) == 0

    run(main())


@pytest.mark.parametrize("position", [0, 3, 9])
@pytest.mark.parametrize(
    ("length", "offset", "code"),
    [
        (-1, 0, errno.EINVAL),  # io_submit itself refuses the iocb
        (BLOCK, 100, errno.EINVAL),  # unaligned
        (BLOCK, (1 << 63) - 2 * BLOCK, errno.EFBIG),
    ],
)
def test_an_error_reaches_its_request_and_no_other(
    tmp_path: Path, position: int, length: int, offset: int, code: int
) -> None:
    pool, journal = BufferPool(), Journal()

    async def main() -> list[BaseException | None]:
        async with engine(tmp_path / "f", journal) as aio:
            writes = [aio.pwrite(filled(pool, at), BLOCK, at * BLOCK, at) for at in range(10)]
            writes[position].close()
            writes[position] = aio.pwrite(filled(pool, 99), length, offset, 1)
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert sorted(aio._free) == list(range(DEPTH))
            return results

    results = run(main())
    error = results.pop(position)
    if error is None:
        pytest.skip("this file system takes such a write")
    assert isinstance(error, OSError)
    assert error.errno in (code, errno.EINVAL)  # ext4 finds the alignment before the size
    assert results == [None] * 9
    for at in set(range(10)) - {position}:
        assert (tmp_path / "f").read_bytes()[at * BLOCK : (at + 1) * BLOCK] == bytes([at]) * BLOCK
    assert len(journal.entries) == (9 if length < 0 else 10)  # what never reached the kernel is no system call


def test_a_closed_descriptor_is_ebadf(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f") as aio:
            aio._fd = 10_000
            results = await asyncio.gather(
                *(aio.pwrite(BufferPool().get(BLOCK), BLOCK, 0, 0) for _ in range(3)), return_exceptions=True
            )
            assert [getattr(result, "errno", None) for result in results] == [errno.EBADF] * 3

    run(main())


def test_eagain_with_nothing_in_flight_fails_one_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pool = Calls(monkeypatch), BufferPool()

    async def main() -> None:
        async with engine(tmp_path / "f") as aio:
            calls.failures = [errno.EAGAIN]
            results = await asyncio.gather(
                *(aio.pwrite(filled(pool, at), BLOCK, at * BLOCK, 0) for at in range(4)), return_exceptions=True
            )
            assert [getattr(result, "errno", None) for result in results] == [errno.EAGAIN, None, None, None]

    run(main())


def test_eagain_with_something_in_flight_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pool = Calls(monkeypatch), BufferPool()

    async def main() -> None:
        async with engine(tmp_path / "f") as aio:
            aio._loop.remove_reader(aio._eventfd)  # completions go unseen
            first = asyncio.create_task(aio.pwrite(filled(pool, 0), BLOCK, 0, 0))
            await turns()
            assert aio._in_flight
            calls.failures = [errno.EAGAIN]
            second = asyncio.create_task(aio.pwrite(filled(pool, 1), BLOCK, BLOCK, 0))
            await turns()
            assert calls.failures == []
            assert not second.done()
            assert len(calls.counts) == 2  # no spinning
            aio._loop.add_reader(aio._eventfd, aio._reap)
            await asyncio.gather(first, second)

    run(main())
    assert (tmp_path / "f").read_bytes() == bytes(BLOCK) + b"\1" * BLOCK


def test_a_signal_while_reaping_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full batch of events io_getevents(2) is asked again, and says EINTR if there is a signal instead."""
    real, pool, answers = linux_aio._syscall, BufferPool(), [0]

    def syscall(name: str, *arguments: object) -> int:
        count = real(name, *arguments)
        if name == "io_getevents":
            answers.append(count)
            if count == 0:
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        return count

    monkeypatch.setattr(linux_aio, "_syscall", syscall)

    async def main() -> None:
        async with engine(tmp_path / "f") as aio:
            aio._loop.remove_reader(aio._eventfd)
            writes = asyncio.gather(*(aio.pwrite(filled(pool, 1), BLOCK, at * BLOCK, 0) for at in range(2 * DEPTH)))
            await turns()
            while True:  # until all of the first batch are there at once
                await asyncio.sleep(0.001)
                if len(aio._in_flight) == DEPTH and os.eventfd_read(aio._eventfd) == DEPTH:
                    break
            os.eventfd_write(aio._eventfd, 1)
            aio._loop.add_reader(aio._eventfd, aio._reap)
            await writes

    run(main())
    assert DEPTH in answers
    assert 0 in answers[1:]


def test_a_cancelled_write_keeps_its_buffer_until_the_kernel_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f") as aio:
            aio._scheduled = True  # nothing is submitted yet
            write = asyncio.create_task(aio.pwrite(filled(BufferPool(), 7), BLOCK, 0, 0))  # the buffer is its alone
            await turns()
            for _ in range(3):
                write.cancel()
                await turns()
            assert not write.done()
            others = [filled(BufferPool(), 8) for _ in range(64)]  # would take the memory if it were free
            aio._scheduled = False
            aio._schedule()
            with pytest.raises(asyncio.CancelledError):
                await write
            assert sorted(aio._free) == list(range(DEPTH))
            assert len(others) == 64

    run(main())
    assert (tmp_path / "f").read_bytes() == b"\7" * BLOCK


def test_descriptors_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        before = descriptors()
        async with engine(tmp_path / "f") as aio:
            assert descriptors() > before
            await aio.pread(BufferPool().get(BLOCK), BLOCK, 0)
        assert descriptors() == before

        def fail(name: str, *arguments: object) -> int:
            raise OSError(errno.EAGAIN, "no room")

        monkeypatch.setattr(linux_aio, "_syscall", fail)
        with pytest.raises(OSError, match="no room"):
            async with engine(tmp_path / "f"):
                pass
        assert descriptors() == before

    run(main())
