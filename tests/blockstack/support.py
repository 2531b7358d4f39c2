"""What the tests of blockstack share: running a coroutine, qemu-img, engines that hold or fail what they are given."""

import asyncio
import json
import os
import random
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

import blockstack
from blockstack.aio import Engine
from blockstack.buffers import AlignedBuffer
from blockstack.file_posix import FilePosix
from blockstack.qcow2 import Qcow2

T = TypeVar("T")

_HOLDS: list["Hold"] = []

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("qemu-io") is None, reason="needs qemu-img: apt install qemu-utils"
)


def run(main: Coroutine[Any, Any, T], seconds: float = 30) -> T:
    """Run `main`; whatever hangs is a failure after `seconds`."""

    stuck: list[bool] = []

    async def limited() -> T:
        _HOLDS.clear()
        # A cancelled write waits for its end: what is held has to be let go.
        asyncio.get_running_loop().call_later(seconds, _release_all)
        return await asyncio.wait_for(main, seconds)

    runner = asyncio.Runner()
    runner.get_loop().call_later(2 * seconds, stuck.append, True)
    runner.get_loop().call_later(2 * seconds, runner.get_loop().stop)
    try:
        return runner.run(limited())
    finally:
        if not stuck:  # what cannot be cancelled would not let it close
            runner.close()


def _release_all() -> None:
    for hold in _HOLDS:
        hold.release.set()


async def turns(count: int = 20) -> None:
    """Let everything that can go on, go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; the caller's time limit ends the wait."""
    while not condition():
        await asyncio.sleep(0.001)


def qemu_img(*words: object) -> str:
    return _tool("qemu-img", *words)


def qemu_io(image: Path, *commands: str, format: str = "qcow2", flags: tuple[str, ...] = ()) -> str:
    words = [word for command in commands for word in ("-c", command)]
    output = _tool("qemu-io", *flags, "-f", format, *words, image)
    # qemu-io says so, and still exits with 0, where a pattern differs.
    assert "verification failed" not in output, output
    return output


def _tool(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def check(image: Path, *, leaks: int = 0) -> None:
    """`qemu-img check` finds no error and at most `leaks` leaks."""
    words = ["qemu-img", "check", "-f", "qcow2", "--output=json", str(image)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    report = json.loads(done.stdout)
    assert report.get("corruptions", 0) == 0, report
    assert report["check-errors"] == 0, report
    assert report.get("leaks", 0) <= leaks, report


def convert(image: Path) -> bytes:
    """The content of a qcow2 image as QEMU reads it."""
    raw = image.with_suffix(".converted")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", image, raw)
    try:
        return raw.read_bytes()
    finally:
        raw.unlink()


def o_direct(directory: Path) -> bool:
    """Whether the file system of `directory` takes O_DIRECT."""
    path = directory / "probe"
    path.touch()
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    finally:
        path.unlink()
    return True


def qcow2_node(disk: blockstack.Disk) -> Qcow2:
    assert isinstance(disk.node, Qcow2)
    return disk.node


def payload(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


class Guest:
    """A disk and what it must contain."""

    def __init__(self, disk: blockstack.Disk, content: bytes = b"") -> None:
        self.disk = disk
        self.content = bytearray(content.ljust(disk.length, b"\0"))

    async def write(self, offset: int, data: bytes) -> None:
        await self.disk.pwritev(offset, [data])
        self.content[offset : offset + len(data)] = data

    async def zero(self, offset: int, length: int) -> None:
        await self.disk.pwrite_zeroes(offset, length)
        self.content[offset : offset + length] = bytes(length)

    async def verify(self) -> None:
        assert await self.disk.preadv(0, self.disk.length) == self.content


class Double:
    """An engine around the real one. `before` and `after` see every write: they may wait, or raise."""

    def __init__(self, file: FilePosix) -> None:
        self._engine: Engine = file._engine
        file._engine = self
        self.before: Callable[[int, int], Awaitable[None]] | None = None
        self.after: Callable[[int, int], Awaitable[None]] | None = None
        self.writes: list[tuple[int, int]] = []  # offset and length, in order of arrival
        self.finished: list[tuple[int, int]] = []

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        return await self._engine.pread(buffer, length, offset)

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        self.writes.append((offset, length))
        if self.before is not None:
            await self.before(offset, length)
        await self._engine.pwrite(buffer, length, offset, request)
        if self.after is not None:
            await self.after(offset, length)
        self.finished.append((offset, length))

    def close(self) -> None:
        self._engine.close()


class Hold:
    """Holds writes that touch [start, end) until `release` is set, before they reach the file, or after."""

    def __init__(self, double: Double, start: int, end: int, *, after: bool = False) -> None:
        self.release = asyncio.Event()
        self.held = asyncio.Event()
        self._range = start, end
        _HOLDS.append(self)
        if after:
            double.after = self._hold
        else:
            double.before = self._hold

    async def _hold(self, offset: int, length: int) -> None:
        start, end = self._range
        if offset < end and start < offset + length:
            self.held.set()
            await self.release.wait()
