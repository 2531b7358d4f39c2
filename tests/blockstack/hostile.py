"""What a hostile image is put through: opened both ways, read from end to end, written a little. Run as a program, it
says how much memory that took.
"""

import asyncio
import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import blockstack

READ_AT_MOST = 1 << 20
MARK = b"\xa5guest data\x5a" * 64

REFUSALS = (OSError, blockstack.ImageError)


async def exercise(image: Path, *, write: bool = True, reads: int = READ_AT_MOST) -> list[str]:
    """Everything a guest can do to the image; returns what it was told. Only `REFUSALS` may come out."""
    told: list[str] = []

    @contextlib.contextmanager
    def attempt() -> Iterator[None]:
        try:
            yield
        except REFUSALS as error:
            told.append(str(error))

    for read_only in (True, False) if write else (True,):
        with attempt():
            async with blockstack.open(image, "qcow2", aio="threads", direct=False, read_only=read_only) as disk:
                places = [0, disk.length // 2, max(0, disk.length - reads)]
                for place in places:
                    with attempt():
                        await disk.preadv(place, min(reads, disk.length - place))
                if not read_only:
                    for place in [*range(0, min(disk.length, 1 << 16), 8192), *places]:
                        with attempt():
                            await disk.pwritev(place, [MARK[: disk.length - place]])
                    with attempt():
                        await disk.pwrite_zeroes(0, min(disk.length, 4096))
                    with attempt():
                        await disk.flush()
    return told


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    before = peak()
    for name in sys.argv[1:]:
        print(asyncio.run(exercise(Path(name))), file=sys.stderr)
    print(peak() - before)
