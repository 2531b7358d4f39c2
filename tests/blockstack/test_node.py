"""The generic part of a node: read-modify-write, the fallback of zero-writes, bounds, the length, closing."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import blockstack
from blockstack.node import ZERO_CHUNK, Buffer, Node
from blockstack.requests import TrackedRequest
from tests.blockstack.support import Double, Hold, run, turns


class Memory(Node):
    """A node in memory whose every driver call takes a turn of the loop."""

    def __init__(self, length: int, alignment: int = 512, *, read_only: bool = False, fast_zero: bool = False) -> None:
        super().__init__(length, request_alignment=alignment, read_only=read_only)
        self.data = bytearray(length)
        self.calls: list[tuple[str, int, int]] = []
        self.fast_zero = fast_zero
        self.flushes = self.closes = 0

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        self._log("read", offset, length)
        data = bytes(self.data[offset : offset + length]).ljust(length, b"\0")
        await turns(3)
        return data

    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        self._log("write", offset, len(data))
        await turns(3)
        self._put(offset, data)

    async def _pwrite_zeroes(self, request: TrackedRequest, offset: int, length: int, *, unmap: bool) -> None:
        if not self.fast_zero:
            raise OSError(errno.ENOTSUP, "no")
        self._log("zero", offset, length)
        await turns(3)
        self._put(offset, bytes(length))

    async def _flush(self) -> None:
        self.flushes += 1

    async def _close(self) -> None:
        self.closes += 1

    def _put(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def _log(self, what: str, offset: int, length: int) -> None:
        assert offset % self.request_alignment == length % self.request_alignment == 0
        self.calls.append((what, offset, length))


@pytest.mark.parametrize("mutant", [False, True])
def test_two_writes_into_one_block(monkeypatch: pytest.MonkeyPatch, mutant: bool) -> None:
    """Both survive, as an unaligned write is serialising; the mutant, where it is not, loses one."""
    if mutant:
        monkeypatch.setattr(TrackedRequest, "make_serialising", lambda *_: None)

    async def main() -> None:
        node = Memory(4096)
        await asyncio.gather(node.pwritev(10, [b"first"]), node.pwritev(100, [b"second"]))
        survivors = (b"first" in node.data) + (b"second" in node.data)
        assert survivors == (1 if mutant else 2)
        assert node.tracker.waits == (0 if mutant else 1)

    run(main())


def test_an_aligned_write_waits_for_an_unaligned_one(tmp_path: Path) -> None:
    async def main() -> None:
        node = Memory(4096)
        await asyncio.gather(node.pwritev(500, [b"x" * 30]), node.pwritev(512, [b"y" * 512]))
        assert node.data[500:512] == b"x" * 12
        assert node.data[512:1024] == b"y" * 512  # submitted later, done later
        # The twin: aligned neighbours do not wait.
        waits = node.tracker.waits
        await asyncio.gather(node.pwritev(0, [b"x" * 512]), node.pwritev(512, [b"y" * 512]))
        assert (waits, node.tracker.waits) == (1, 1)

    run(main())


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 512), (1, 1), (511, 2), (5, 1019), (512, 700), (100, 924), (3, 4000)]
)
def test_read_modify_write_keeps_what_surrounds(offset: int, length: int) -> None:
    async def main() -> None:
        node = Memory(4096)
        node.data[:] = before = os.urandom(4096)
        await node.pwritev(offset, [b"a" * (length // 2), b"", b"b" * (length - length // 2)])
        data = b"a" * (length // 2) + b"b" * (length - length // 2)
        assert node.data == before[:offset] + data + before[offset + length :]
        assert await node.preadv(offset, length) == data
        assert await node.preadv(0, 4096) == node.data

    run(main())


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("offset", "length"), [(512, 1024), (1, 1), (100, 500), (500, 600), (3, 4000), (0, 4096)])
def test_zero_writes_at_any_alignment(fast: bool, offset: int, length: int) -> None:
    async def main() -> None:
        node = Memory(4096, fast_zero=fast)
        node.data[:] = b"x" * 4096
        await node.pwrite_zeroes(offset, length)
        assert node.data == b"x" * offset + bytes(length) + b"x" * (4096 - offset - length)
        whole = offset // -512 * -512 < (offset + length) // 512 * 512
        assert any(what == "zero" for what, *_ in node.calls) is (fast and whole)

    run(main())


@pytest.mark.parametrize(("offset", "fast"), [(0, False), (1, True), (1, False)])
def test_without_fallback_a_zero_write_writes_nothing(offset: int, fast: bool) -> None:
    async def main() -> None:
        node = Memory(4096, fast_zero=fast)
        with pytest.raises(OSError, match=r"zero-write|no") as caught:
            await node.pwrite_zeroes(offset, 1024, fallback=False)
        assert caught.value.errno == errno.ENOTSUP
        assert node.calls == []
        assert not node.tracker.in_flight

    run(main())


def test_the_fallback_writes_in_chunks() -> None:
    async def main() -> None:
        node = Memory(3 * ZERO_CHUNK + 512)
        await node.pwrite_zeroes(0, node.length)
        assert [length for _, _, length in node.calls] == [ZERO_CHUNK] * 3 + [512]

    run(main())


def _requests(node: Node) -> dict[str, Callable[[int, int], object]]:
    return {
        "read": node.preadv,
        "write": lambda offset, length: node.pwritev(offset, [bytes(max(length, 0))]),
        "zero": node.pwrite_zeroes,
        "discard": node.pdiscard,
    }


@pytest.mark.parametrize("what", ["read", "write", "zero", "discard"])
@pytest.mark.parametrize(("offset", "length"), [(4096, 1), (4095, 2), (-1, 1), (-512, 512), (1 << 63, 1)])
def test_bounds(what: str, offset: int, length: int) -> None:
    async def main() -> None:
        node = Memory(4096)
        with pytest.raises(OSError, match="outside") as caught:
            await _requests(node)[what](offset, length)  # type: ignore[misc]
        assert caught.value.errno == errno.EINVAL
        assert node.calls == []
        assert node.length == 4096

    run(main())


def test_nothing_is_done_for_no_bytes() -> None:
    async def main() -> None:
        node = Memory(4096)
        for request in _requests(node).values():
            await request(4096, 0)  # type: ignore[misc]
        assert node.calls == []

    run(main())


def test_read_only() -> None:
    async def main() -> None:
        node = Memory(4096, read_only=True)
        for what in ("write", "zero", "discard"):
            with pytest.raises(OSError, match="read-only") as caught:
                await _requests(node)[what](0, 512)  # type: ignore[misc]
            assert caught.value.errno == errno.EACCES
        assert await node.preadv(0, 512) == bytes(512)

    run(main())


def test_the_length_grows_only_when_a_request_has_ended() -> None:
    async def main() -> None:
        node = Memory(512)
        node.growable = True
        write = asyncio.create_task(node.pwritev(1024, [b"x" * 512]))
        await turns(2)
        assert node.length == 512
        await write
        assert node.length == 1536
        await node.pwritev(0, [b"y" * 512])
        assert node.length == 1536
        await node.pwrite_zeroes(2048, 512)
        assert node.length == 2560

        async def fail(request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
            raise OSError(errno.EIO, "injected")

        node._pwritev = fail  # type: ignore[method-assign]
        with pytest.raises(OSError, match="injected"):
            await node.pwritev(4096, [b"x" * 512])
        assert node.length == 2560

    run(main())


def test_close_waits_refuses_and_happens_once() -> None:
    async def main() -> None:
        node = Memory(4096)
        write = asyncio.create_task(node.pwritev(0, [b"x" * 512]))
        await turns(1)
        closing = asyncio.create_task(node.close())
        await turns(1)
        assert not closing.done()
        with pytest.raises(OSError, match="closed"):
            await node.preadv(0, 1)
        await asyncio.gather(write, closing)
        await node.close()
        assert node.closes == 1
        assert node.data[:512] == b"x" * 512

    run(main())


@asynccontextmanager
async def _raw(path: Path, size: int, *, direct: bool = False) -> AsyncIterator[blockstack.Disk]:
    path.write_bytes(b"r" * size)
    async with blockstack.open(path, "raw", aio="threads", direct=direct) as disk:
        yield disk


def test_raw_does_not_grow(tmp_path: Path) -> None:
    async def main() -> None:
        async with _raw(tmp_path / "raw", 10_000) as disk:
            for request in (disk.pwritev(9_999, [b"12"]), disk.pwrite_zeroes(10_000, 1), disk.preadv(0, 10_001)):
                with pytest.raises(OSError, match="outside"):
                    await request
            await disk.pwritev(9_999, [b"1"])
            await disk.pwrite_zeroes(1, 9_000)
            assert await disk.preadv(0, 10_000) == b"r" + bytes(9_000) + b"r" * 998 + b"1"
        assert (tmp_path / "raw").stat().st_size == 10_000

    run(main())


@pytest.mark.usefixtures("direct")
def test_raw_of_an_odd_size_is_not_written_with_o_direct(tmp_path: Path) -> None:
    """A write to its last block would make it longer."""

    async def main() -> None:
        with pytest.raises(blockstack.ImageError, match="multiple"):
            async with _raw(tmp_path / "raw", 10_000, direct=True):
                pass
        async with blockstack.open(tmp_path / "raw", "raw", read_only=True, aio="threads") as disk:
            assert await disk.preadv(9_990, 10) == b"r" * 10

    run(main())


def test_two_unaligned_writes_on_a_real_file(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "raw").write_bytes(bytes(8192))
        async with blockstack.open(tmp_path / "raw", "raw", aio="threads", direct=False) as disk:
            disk.node.request_alignment = 4096
            hold = Hold(Double(disk.file), 0, 4096)
            first = asyncio.create_task(disk.pwritev(5, [b"first"]))
            await hold.held.wait()
            second = asyncio.create_task(disk.pwritev(50, [b"second"]))
            await asyncio.sleep(0.02)
            assert disk.file.tracker.waits == 1
            hold.release.set()
            await asyncio.gather(first, second)
            assert (await disk.preadv(0, 100)).count(b"first") == 1
            assert await disk.preadv(50, 6) == b"second"

    run(main())


def test_unknown_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(512))

    async def main() -> None:
        for wrong in ({"strategy": "x"}, {"aio": "x"}, {"fallocate": "x"}):
            with pytest.raises(ValueError, match=r"unknown .* 'x': one of"):
                async with blockstack.open(tmp_path / "raw", **wrong):  # type: ignore[arg-type]
                    pass
        with pytest.raises(blockstack.ImageError, match="unknown image format"):
            async with blockstack.open(tmp_path / "raw", "vmdk", aio="threads", direct=False):
                pass

    run(main())
