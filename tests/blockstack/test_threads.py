"""aio=threads: whole requests in worker threads."""

import asyncio
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from blockstack.aio.threads import ThreadPool
from blockstack.buffers import BufferPool
from blockstack.journal import Journal
from tests.blockstack.support import o_direct, run, turns

BLOCK = 4096


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT | (os.O_DIRECT if o_direct(tmp_path) else 0), 0o600)


@pytest.mark.parametrize("size", [0, 100, BLOCK, BLOCK + 512, 2 * BLOCK - 1])
def test_round_trip_and_short_read(tmp_path: Path, fd: int, size: int) -> None:
    async def main() -> None:
        journal = Journal()
        engine, pool = ThreadPool(fd, journal), BufferPool()
        buffer, _ = pool.gather([b"a" * BLOCK, b"b" * BLOCK])
        await engine.pwrite(buffer, 2 * BLOCK, 0, 5)
        assert [(entry.request, entry.result, entry.size_begin, entry.size_end) for entry in journal.entries] == [
            (5, 2 * BLOCK, 0, 2 * BLOCK)
        ]
        os.ftruncate(fd, size)
        assert await engine.pread(pool.get(2 * BLOCK), 2 * BLOCK, 0) == size
        engine.close()

    run(main())
    os.close(fd)


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: real(fd, [views[0][:1000]], at))

    async def main() -> None:
        descriptor = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT, 0o600)
        engine = ThreadPool(descriptor)
        buffer, length = BufferPool().gather([bytes(range(250)) * 10])
        await engine.pwrite(buffer, length, 10, 0)
        engine.close()
        os.close(descriptor)

    run(main())
    assert (tmp_path / "f").read_bytes() == bytes(10) + bytes(range(250)) * 10


@pytest.mark.parametrize(("result", "code"), [(0, errno.EINVAL), (errno.ENOSPC, errno.ENOSPC)])
def test_errors(fd: int, monkeypatch: pytest.MonkeyPatch, result: int, code: int) -> None:
    def pwritev(*_: object) -> int:
        if result:
            raise OSError(result, os.strerror(result))
        return 0

    monkeypatch.setattr(os, "pwritev", pwritev)
    journal = Journal()

    async def main() -> None:
        engine = ThreadPool(fd, journal)
        with pytest.raises(OSError, match=r"0 bytes|No space") as caught:
            await engine.pwrite(BufferPool().get(BLOCK), BLOCK, 0, 0)
        assert caught.value.errno == code
        engine.close()

    run(main())
    assert [entry.result for entry in journal.entries] == [-result]
    os.close(fd)


def test_a_cancelled_write_ends_with_its_system_call(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    release, ended = threading.Event(), threading.Event()

    def pwritev(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        release.wait(10)
        ended.set()
        return len(views[0])

    monkeypatch.setattr(os, "pwritev", pwritev)

    async def main() -> None:
        engine = ThreadPool(fd)
        write = asyncio.create_task(engine.pwrite(BufferPool().get(BLOCK), BLOCK, 0, 0))
        await turns()
        for _ in range(3):
            write.cancel()
            await asyncio.sleep(0.005)
        assert not write.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await write
        assert ended.is_set()
        engine.close()

    run(main())
    os.close(fd)
