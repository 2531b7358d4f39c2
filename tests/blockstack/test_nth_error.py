"""One I/O of a history fails, whichever: the caller is told, later requests work, and the image is consistent.

Reads, writes, fallocates and flushes of the file are counted from the image's opening on. The first 44 of them by
default; more, and in every engine, for a nightly run: EOFRACE_NTH=400 pytest tests/blockstack/test_nth_error.py
"""

import errno
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import blockstack
from blockstack.aio import ENGINES, Engine
from blockstack.buffers import AlignedBuffer
from blockstack.fallocate import FileCalls
from blockstack.fallocate.kernel import KernelFallocate
from blockstack.journal import Journal
from tests.blockstack.support import check, convert, needs_qemu, run
from tests.fuzz.layout import Layout

pytestmark = [needs_qemu, pytest.mark.usefixtures("direct")]

NTH = int(os.environ.get("EOFRACE_NTH", "44"))
CLUSTER = 512
SIZE = 1 << 20
OLD, OLD_CLUSTERS = 450_048, 225
"""What is there when the history begins."""


class Fault:
    """Fails the `nth` I/O of the file, from 0, with `code`; with 0 a write is dropped and said to be done."""

    def __init__(self, nth: int, code: int) -> None:
        self.seen: list[tuple[str, int | None]] = []  # and the offset, of reads and writes
        self.hit: str | None = None
        self._nth = nth
        self._code = code

    def count(self, what: str, offset: int | None = None) -> bool:
        """Whether it is this one's turn, and `code` is 0: to be dropped."""
        self.seen.append((what, offset))
        if len(self.seen) == self._nth + 1:
            self.hit = what
            if self._code:
                raise OSError(self._code, os.strerror(self._code))
            return True
        return False


class Failing:
    """An engine around the real one, whose calls `fault` counts."""

    def __init__(self, engine: Engine, fault: Fault) -> None:
        self._engine = engine
        self._fault = fault

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        self._fault.count("read", offset)
        return await self._engine.pread(buffer, length, offset)

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        if not self._fault.count("write", offset):
            await self._engine.pwrite(buffer, length, offset, request)

    def close(self) -> None:
        self._engine.close()


def inject(monkeypatch: pytest.MonkeyPatch, aio: str, fault: Fault) -> None:
    """Have every file opened from now on count."""
    real, fallocate = ENGINES[aio], KernelFallocate.fallocate

    def engine(fd: int, journal: Journal | None) -> Engine:
        return Failing(real(fd, journal), fault)

    async def failing_fallocate(self: KernelFallocate, *arguments: Any) -> None:
        fault.count("fallocate")
        await fallocate(self, *arguments)

    async def failing_fdatasync(self: FileCalls) -> None:
        fault.count("flush")  # and no more: nobody pulls the plug

    monkeypatch.setitem(ENGINES, aio, engine)
    monkeypatch.setattr(KernelFallocate, "fallocate", failing_fallocate)
    monkeypatch.setattr(FileCalls, "fdatasync", failing_fdatasync)


class Model:
    """What the disk must hold: bytes that a failed request touched are `unsure` until they are written again."""

    def __init__(self) -> None:
        self.content: npt.NDArray[np.uint8] = np.zeros(SIZE, dtype=np.uint8)
        self.unsure: npt.NDArray[np.bool_] = np.zeros(SIZE, dtype=np.bool_)
        self.unflushed: npt.NDArray[np.bool_] = np.zeros(SIZE, dtype=np.bool_)
        self.errors: list[int] = []

    async def attempt(self, request: Awaitable[object], offset: int, length: int, fill: int | None) -> None:
        """Await a request that leaves `length` bytes of `fill` at `offset`; None: it changes nothing."""
        changed = slice(offset, offset + (length if fill is not None else 0))
        self.unflushed[changed] = True
        try:
            await request
        except OSError as error:
            self.errors.append(error.errno or 0)
            self.unsure[changed] = True
        else:
            self.content[changed] = fill or 0
            self.unsure[changed] = False

    def matches(self, data: bytes, *, flushed_only: bool = False) -> None:
        found = np.frombuffer(data, dtype=np.uint8)
        wrong = (found != self.content) & ~self.unsure
        if flushed_only:
            wrong &= ~self.unflushed
        assert not wrong.any(), f"{np.count_nonzero(wrong)} bytes from {np.flatnonzero(wrong)[0]}"


async def history(disk: blockstack.Disk, model: Model) -> None:
    """New L2 tables, refcount blocks and a larger refcount table, copy-on-write, zero clusters, discards, flushes."""

    async def write(offset: int, length: int, fill: int) -> None:
        await model.attempt(disk.pwritev(offset, [bytes([fill]) * length]), offset, length, fill)

    async def flush() -> None:
        before = len(model.errors)
        await model.attempt(disk.flush(), 0, 0, None)
        if len(model.errors) == before:
            model.unflushed[:] = False

    async def read(offset: int, length: int) -> None:
        await model.attempt(disk.preadv(offset, length), offset, length, None)

    await write(100, 50, 1)
    await write(10 * CLUSTER + 300, 2 * CLUSTER, 2)
    await read(0, 20 * CLUSTER)
    await flush()
    await write(300_000, 270 * CLUSTER, 10)
    await write(600_000, 5000, 3)
    await write(10 * CLUSTER, 100, 4)
    await model.attempt(disk.pwrite_zeroes(600_100, 3000), 600_100, 3000, 0)
    await write(200_000, 40 * CLUSTER, 5)
    await model.attempt(disk.pdiscard(200_192, 10 * CLUSTER), 200_192, 10 * CLUSTER, 0)
    await write(900_000, 60 * CLUSTER, 6)
    await flush()
    await write(210_000, 30_000, 7)
    await write(5, 10, 8)
    await read(0, SIZE // 2)


async def life(path: Path, aio: str, fault: Fault, model: Model) -> None:
    try:
        async with blockstack.open(path, "qcow2", aio=aio, discard=True, strategy="none") as disk:
            await history(disk, model)
            told = list(model.errors)
            await disk.pwritev(700_000, [b"\x09" * 10_000])  # whatever has failed, this works
            model.content[700_000:710_000] = 9
            model.unflushed[700_000:710_000] = True
            model.matches(await disk.preadv(0, SIZE))
    except OSError as error:
        if fault.hit is None:
            raise
        model.errors.append(error.errno or 0)  # opening or closing has failed
    else:
        model.unflushed[:] = False
        assert told == model.errors


async def prepare(path: Path) -> None:
    """An image that soon needs another refcount block."""
    await blockstack.create(path, SIZE, cluster_size=CLUSTER)
    async with blockstack.open(path, aio="threads") as disk:
        await disk.pwritev(OLD, [b"\x0b" * OLD_CLUSTERS * CLUSTER])


def lived(path: Path, monkeypatch: pytest.MonkeyPatch, aio: str, fault: Fault) -> Model:
    model = Model()
    run(prepare(path))
    model.content[OLD : OLD + OLD_CLUSTERS * CLUSTER] = 11
    with monkeypatch.context() as patch:
        inject(patch, aio, fault)
        run(life(path, aio, fault, model))
    return model


def reference(path: Path, monkeypatch: pytest.MonkeyPatch, aio: str) -> list[str]:
    """What each I/O of the history is for, by the tables that it leaves; nothing fails."""
    fault = Fault(-1, 0)
    model = lived(path, monkeypatch, aio, fault)
    assert not model.errors
    assert model.content.any()
    check(path)
    model.matches(convert(path))
    layout = Layout(path)
    names = []
    for what, offset in fault.seen:
        hit = layout.hit(offset, 1) if offset is not None else None
        names.append(f"{what}: {hit.what if hit is not None else 'data'}" if offset is not None else what)
    return names


@pytest.mark.parametrize("aio", list(ENGINES))
def test_one_io_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aio: str) -> None:
    path = tmp_path / "image"
    names = reference(path, monkeypatch, aio)[:NTH]
    # One engine takes them all; the others see that an error is one there, too.
    tried = range(0, len(names), 1 if NTH > 44 or aio == "native" else 6)
    for nth in tried:
        for code in (errno.EIO, errno.ENOSPC)[:: 1 if nth % 2 else -1][: 2 if NTH > 44 else 1]:
            fault = Fault(nth, code)
            model = lived(path, monkeypatch, aio, fault)
            assert fault.hit is not None
            assert model.errors == [code], names[nth]
            check(path, leaks=SIZE)
            model.matches(convert(path), flushed_only=True)
    if aio == "native":
        parts = ("data", "L1 table", "L2 table", "refcount block", "refcount table")
        expected = {"flush", "fallocate", "read: header", *(f"write: {part}" for part in parts)}
        assert {names[nth] for nth in tried} >= expected


@pytest.mark.parametrize("part", ["data", "L2 table", "refcount block"])
def test_a_write_that_is_dropped_in_silence_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The twin: an engine that lies. What is not written again later is missed."""
    path = tmp_path / "image"
    names = reference(path, monkeypatch, "native")
    for nth in [at for at, name in enumerate(names) if name == f"write: {part}"][::-1]:
        try:
            lived(path, monkeypatch, "native", Fault(nth, 0)).matches(convert(path))
            check(path, leaks=SIZE)
        except (AssertionError, blockstack.ImageError):
            return
    pytest.fail("nobody has seen it")
