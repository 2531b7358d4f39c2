"""io_uring: batches, more requests than the ring takes, errors to the right request, short reads, names, closing."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import blockstack
from blockstack.aio import io_uring
from blockstack.aio.batch import Pending
from blockstack.aio.io_uring import DEPTH, IoUring
from blockstack.buffers import AlignedBuffer, BufferPool
from blockstack.journal import Journal, Kind
from tests.blockstack.support import check, convert, needs_qemu, payload, run, turns

pytestmark = pytest.mark.usefixtures("direct")

BLOCK = 4096


@pytest.fixture(autouse=True)
def _ring(tmp_path: Path) -> None:
    async def attempt() -> None:
        async with engine(tmp_path / "probe"):
            pass

    try:
        run(attempt())
    except OSError as error:
        pytest.skip(f"needs io_uring: {error.strerror} (sysctl -w kernel.io_uring_disabled=0)")


@asynccontextmanager
async def engine(path: Path, journal: Journal | None = None, size: int = 0, flags: int = 0) -> AsyncIterator[IoUring]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (flags or os.O_DIRECT), 0o600)
    try:
        os.ftruncate(fd, size)
        ring = IoUring(fd, journal)
        try:
            yield ring
        finally:
            ring.close()
    finally:
        os.close(fd)


def filled(pool: BufferPool, byte: int) -> AlignedBuffer:
    return pool.gather([bytes([byte]) * BLOCK])[0]


class Enter:
    """Sees io_uring_enter; may raise instead of the kernel, take fewer, or answer for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        self.failures: list[int] = []
        self.most = DEPTH
        self._real = io_uring._enter
        monkeypatch.setattr(io_uring, "_enter", self._enter)

    def _enter(self, fd: int, count: int) -> int:
        self.counts.append(count)
        if self.failures:
            code = self.failures.pop(0)
            raise OSError(code, os.strerror(code))
        return self._real(fd, min(count, self.most))


def test_one_turn_of_the_loop_is_one_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter, pool = Enter(monkeypatch), BufferPool()

    async def main() -> None:
        async with engine(tmp_path / "f") as ring:
            await asyncio.gather(*(ring.pwrite(filled(pool, at), BLOCK, at * BLOCK, 0) for at in range(20)))

    run(main())
    assert enter.counts == [20]
    assert (tmp_path / "f").read_bytes() == b"".join(bytes([at]) * BLOCK for at in range(20))


@pytest.mark.parametrize("most", [1, 7, DEPTH])
def test_more_requests_than_the_ring_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Also where the kernel takes fewer than it is given: the others are taken back, and given again."""
    enter, pool, journal = Enter(monkeypatch), BufferPool(), Journal()
    enter.most = most
    count = 2 * DEPTH + 7

    async def main() -> None:
        async with engine(tmp_path / "f", journal) as ring:
            await asyncio.gather(*(ring.pwrite(filled(pool, at % 251), BLOCK, at * BLOCK, at) for at in range(count)))
            assert ring._in_flight == {}

    run(main())
    assert max(enter.counts) <= DEPTH
    assert (tmp_path / "f").read_bytes() == b"".join(bytes([at % 251]) * BLOCK for at in range(count))
    assert sorted(entry.request for entry in journal.entries) == list(range(count))
    assert all(entry.kind is Kind.WRITE and entry.result == BLOCK for entry in journal.entries)


@pytest.mark.parametrize("size", [0, 100, BLOCK, BLOCK + 512, 2 * BLOCK - 1])
def test_short_read_at_the_end_of_the_file(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f", size=size) as ring:
            assert await ring.pread(BufferPool().get(2 * BLOCK), 2 * BLOCK, 0) == size
            assert await ring.pread(BufferPool().get(BLOCK), BLOCK, 4 * BLOCK) == 0

    run(main())


def test_a_short_read_is_continued(tmp_path: Path) -> None:
    """The kernel is made to answer with less, by asking it for less (QEMU: luring_resubmit_short_read)."""
    (tmp_path / "f").write_bytes(payload(1, 4 * BLOCK))

    async def main() -> None:
        async with engine(tmp_path / "f", size=4 * BLOCK) as ring:
            real, lengths = ring._send, []

            def send(batch: list[Pending]) -> int:
                whole, batch[0].length = batch[0].length, min(batch[0].length, batch[0].done + BLOCK)
                lengths.append(batch[0].length - batch[0].done)
                try:
                    return real(batch)
                finally:
                    batch[0].length = whole

            ring._send = send  # type: ignore[method-assign]
            buffer = BufferPool().get(4 * BLOCK)
            assert await ring.pread(buffer, 4 * BLOCK, 0) == 4 * BLOCK
            assert buffer.view[: 4 * BLOCK] == payload(1, 4 * BLOCK)
            assert lengths == [BLOCK] * 4

    run(main())


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize("write", [True, False])
def test_eintr_and_eagain_of_a_request_are_tried_again(tmp_path: Path, code: int, write: bool) -> None:
    journal = Journal()

    async def main() -> None:
        async with engine(tmp_path / "f", journal, size=BLOCK) as ring:
            real, answers = ring._again, [-code, -code]

            def again(pending: Pending, result: int) -> bool:
                return real(pending, answers.pop() if answers else result)

            ring._again = again  # type: ignore[method-assign]
            if write:
                await ring.pwrite(filled(BufferPool(), 1), BLOCK, 0, 9)
            else:
                assert await ring.pread(BufferPool().get(BLOCK), BLOCK, 0) == BLOCK
            assert answers == []

    run(main())
    assert [entry.result for entry in journal.entries] == ([-code, -code, BLOCK] if write else [])


@pytest.mark.parametrize("position", [0, 3, 9])
@pytest.mark.parametrize(("offset", "code"), [(100, errno.EINVAL), ((1 << 63) - 2 * BLOCK, errno.EFBIG)])
def test_an_error_reaches_its_request_and_no_other(tmp_path: Path, position: int, offset: int, code: int) -> None:
    pool, journal = BufferPool(), Journal()

    async def main() -> list[BaseException | None]:
        async with engine(tmp_path / "f", journal) as ring:
            writes = [ring.pwrite(filled(pool, at), BLOCK, at * BLOCK, at) for at in range(10)]
            writes[position].close()
            writes[position] = ring.pwrite(filled(pool, 99), BLOCK, offset, 1)
            return await asyncio.gather(*writes, return_exceptions=True)

    results = run(main())
    error = results.pop(position)
    if error is None:
        pytest.skip("this file system takes such a write")
    assert isinstance(error, OSError)
    assert error.errno in (code, errno.EINVAL)
    assert results == [None] * 9
    for at in set(range(10)) - {position}:
        assert (tmp_path / "f").read_bytes()[at * BLOCK : (at + 1) * BLOCK] == bytes([at]) * BLOCK


def test_a_closed_descriptor_is_ebadf(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f") as ring:
            ring._fd = 10_000
            results = await asyncio.gather(
                *(ring.pwrite(BufferPool().get(BLOCK), BLOCK, 0, 0) for _ in range(3)), return_exceptions=True
            )
            assert [getattr(result, "errno", None) for result in results] == [errno.EBADF] * 3

    run(main())


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY])
def test_a_busy_ring_with_nothing_in_flight_fails_one_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    enter, pool = Enter(monkeypatch), BufferPool()

    async def main() -> None:
        async with engine(tmp_path / "f") as ring:
            enter.failures = [code]
            results = await asyncio.gather(
                *(ring.pwrite(filled(pool, at), BLOCK, at * BLOCK, 0) for at in range(4)), return_exceptions=True
            )
            assert [getattr(result, "errno", None) for result in results] == [errno.EAGAIN, None, None, None]

    run(main())


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY])
def test_a_busy_ring_with_something_in_flight_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    enter, pool = Enter(monkeypatch), BufferPool()

    async def main() -> None:
        async with engine(tmp_path / "f") as ring:
            ring._loop.remove_reader(ring._ring)  # completions go unseen
            first = asyncio.create_task(ring.pwrite(filled(pool, 0), BLOCK, 0, 0))
            await turns()
            assert ring._in_flight
            enter.failures = [code]
            second = asyncio.create_task(ring.pwrite(filled(pool, 1), BLOCK, BLOCK, 0))
            await turns()
            assert enter.failures == []
            assert not second.done()
            assert len(enter.counts) == 2  # no spinning
            ring._loop.add_reader(ring._ring, ring._reap)
            await asyncio.gather(first, second)

    run(main())
    assert (tmp_path / "f").read_bytes() == bytes(BLOCK) + b"\1" * BLOCK


def test_two_requests_of_one_name_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f", size=BLOCK) as ring:
            wrong = ring.pwrite(BufferPool().get(BLOCK), BLOCK, 100, 5)
            results = await asyncio.gather(
                ring.pwrite(filled(BufferPool(), 1), BLOCK, 0, 5), wrong, return_exceptions=True
            )
            assert [getattr(result, "errno", None) for result in results] == [None, errno.EINVAL]

    run(main())


def test_a_cancelled_write_keeps_its_buffer_until_the_kernel_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(tmp_path / "f") as ring:
            ring._scheduled = True  # nothing is submitted yet
            write = asyncio.create_task(ring.pwrite(filled(BufferPool(), 7), BLOCK, 0, 0))  # the buffer is its alone
            await turns()
            for _ in range(3):
                write.cancel()
                await turns()
            assert not write.done()
            ring._scheduled = False
            ring._schedule()
            with pytest.raises(asyncio.CancelledError):
                await write

    run(main())
    assert (tmp_path / "f").read_bytes() == b"\7" * BLOCK


def test_descriptors_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        before = descriptors()
        async with engine(tmp_path / "f") as ring:
            assert descriptors() > before
            await ring.pread(BufferPool().get(BLOCK), BLOCK, 0)
        assert descriptors() == before
        monkeypatch.setattr(io_uring, "_FEAT_RW_CUR_POS", 1 << 31)  # as on a kernel without
        with pytest.raises(OSError, match=r"before 5\.6"):
            async with engine(tmp_path / "f"):
                pass
        assert descriptors() == before

    run(main())


@needs_qemu
def test_an_image_written_through_the_ring(tmp_path: Path) -> None:
    path, data = tmp_path / "image", payload(3, 1 << 20)

    async def main() -> None:
        await blockstack.create(path, 4 << 20)
        async with blockstack.open(path, aio="io_uring") as disk:
            step = 12_345
            await asyncio.gather(*(disk.pwritev(at, [data[at : at + step]]) for at in range(0, len(data), step)))
            assert await disk.preadv(0, len(data)) == data

    run(main())
    check(path)
    assert convert(path) == data.ljust(4 << 20, b"\0")
