"""What a hostile image is put through: opened both ways, read from end to end, written a little. Run as a program, it
says how much memory that took.
"""

import asyncio
import contextlib
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockstack
from tests.blockstack.support import run

READ_AT_MOST = 1 << 20
MARK = b"\xa5guest data\x5a" * 64

REFUSALS = (OSError, blockstack.ImageError)

# The image of the fixture `image`: where its tables lie.
CLUSTER = 4096
SIZE = 4 << 20  # two L2 tables
REFTABLE, REFBLOCK, L1, L2 = CLUSTER, 2 * CLUSTER, 3 * CLUSTER, 4 * CLUSTER
DATA = 5 * CLUSTER

# Header fields: offset and form.
FIELDS = {
    "magic": (0, ">I"),
    "version": (4, ">I"),
    "backing_offset": (8, ">Q"),
    "backing_length": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "size": (24, ">Q"),
    "crypt_method": (32, ">I"),
    "l1_entries": (36, ">I"),
    "l1_offset": (40, ">Q"),
    "refcount_table_offset": (48, ">Q"),
    "refcount_table_clusters": (56, ">I"),
    "snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "compatible": (80, ">Q"),
    "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
}


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


def word(path: Path, at: int) -> int:
    return int(struct.unpack_from(">Q", path.read_bytes(), at)[0])


def put(path: Path, at: int, value: int, form: str = ">Q") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, value))


def refused(image: Path, match: str, *, read_only: bool = True) -> None:
    async def main() -> None:
        with pytest.raises(blockstack.ImageError, match=match):
            async with blockstack.open(image, "qcow2", aio="threads", direct=False, read_only=read_only):
                pass

    run(main())


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    before = peak()
    for name in sys.argv[1:]:
        print(asyncio.run(exercise(Path(name))), file=sys.stderr)
    print(peak() - before)
