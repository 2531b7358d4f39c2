"""A short life of a guest on one image: every kind of request, a few at once. Only refusals may come out."""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import blockstack
from blockstack.journal import Journal
from tests.fuzz.watch import MARK

REFUSALS = (OSError, blockstack.ImageError)
READ_BYTES = 1 << 20


class Told:
    """What the guest was told, and what else went wrong."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.wrong: list[str] = []
        self.opened: list[bool] = []  # read-only or not

    def refused(self, error: BaseException) -> None:
        if isinstance(error, REFUSALS):
            self.refusals.append(str(error))
            if not str(error).strip():
                self.wrong.append(f"{type(error).__name__} without a message")
        else:
            raise error


async def live(image: Path, journal: Journal) -> Told:
    """Open `image` read-only, then for writing; `journal` sees the second."""
    told = Told()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.wrong.append(f"left to the event loop: {context}"))
    for read_only in (True, False):
        try:
            async with blockstack.open(
                image,
                "qcow2",
                aio="threads",
                direct=False,
                read_only=read_only,
                discard=not read_only,
                journal=None if read_only else journal,
            ) as disk:
                told.opened.append(read_only)
                await _reads(disk, told)
                if not read_only:
                    await _writes(disk, told)
                    await _reads(disk, told)
        except REFUSALS as error:
            told.refused(error)
    return told


async def _all(told: Told, *requests: Coroutine[Any, Any, object]) -> None:
    for result in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(result, BaseException):
            told.refused(result)


async def _reads(disk: blockstack.Disk, told: Told) -> None:
    places = {0, disk.length // 2, max(0, disk.length - READ_BYTES)}
    await _all(told, *(disk.preadv(at, min(READ_BYTES, disk.length - at)) for at in sorted(places)))


def _write(disk: blockstack.Disk, at: int, length: int) -> Coroutine[Any, Any, None]:
    length = max(0, min(length, disk.length - at))
    return disk.pwritev(at, [(MARK * (length // len(MARK) + 1))[:length]])


async def _writes(disk: blockstack.Disk, told: Told) -> None:
    """Where the seeds have data, and where they have none."""
    length, size = disk.length, 65536
    middle, last = length // 2, max(0, length - 4096)
    at = [place for place in (0, 4096, 12_800, size, 2 * size, middle) if place < length]
    await _all(told, *(_write(disk, place, 1024) for place in at))
    await _all(told, *(_write(disk, place + 700, 9000) for place in at[:3]), _write(disk, last, 4096))
    await _all(told, disk.pwrite_zeroes(0, min(length, 5000)), disk.flush())
    if length > 3 * size:
        await _all(
            told,
            disk.pwrite_zeroes(size, size, unmap=True),
            disk.pdiscard(2 * size, size),
            _write(disk, middle + 100, 3 * 4096),
        )
    await _all(told, disk.flush())
    await _all(told, *(_write(disk, place, 2048) for place in at), _write(disk, last, 512))
    with contextlib.suppress(*REFUSALS):
        await disk.flush()
