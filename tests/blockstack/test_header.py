"""Hostile images: whatever a header or a table says, only ImageError or OSError comes out, soon, in little memory."""

import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.qcow2.header import OFLAG_COPIED, Header
from tests.blockstack.conftest import How
from tests.blockstack.hostile import CLUSTER, DATA, FIELDS, L1, L2, MARK, REFBLOCK, exercise, put, refused
from tests.blockstack.support import run

ROOT = Path(__file__).parents[2]
VALUES = [0, 1, 2, 3, 7, 9, 12, 21, 22, 63, 64, 104, 511, 512, 4095, 4096, 12288, 65535, 65536]
VALUES += [1 << bits for bits in (20, 22, 31, 32, 40, 55, 62, 63)]
VALUES += [(1 << 31) - 1, (1 << 32) - 1, (1 << 56) - 512, (1 << 63) - 1, (1 << 64) - 1]


def fits(value: int, form: str) -> bool:
    return value < 1 << 8 * struct.calcsize(form)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_mutated(image: Path, field: str) -> None:
    at, form = FIELDS[field]
    intact = image.read_bytes()
    for value in VALUES:
        if not fits(value, form):
            continue
        image.write_bytes(intact)
        put(image, at, value, form)
        header = image.read_bytes()[:72]
        started = time.monotonic()
        run(exercise(image))
        assert time.monotonic() - started < 3
        assert MARK[:12] not in image.open("rb").read(CLUSTER), (field, value)
        assert image.open("rb").read(48) == header[:48]


def test_truncated_anywhere(image: Path) -> None:
    intact = image.read_bytes()
    for length in [
        *range(0, 120, 3),
        512,
        CLUSTER,
        CLUSTER + 1,
        REFBLOCK,
        L1,
        L1 + 8,
        L2,
        L2 + 9,
        DATA,
        len(intact) - 1,
    ]:
        image.write_bytes(intact[:length])
        run(exercise(image))


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("magic", 0, "not a qcow2 image"),
        ("version", 1, "version 1"),
        ("version", 4, "version 4"),
        ("cluster_bits", 8, "512 B to 2 MiB"),
        ("cluster_bits", 22, "512 B to 2 MiB"),
        ("size", 1 << 63, "overflows"),
        ("size", 1 << 50, "too small for the disk"),
        ("crypt_method", 1, "encrypted"),
        ("crypt_method", 2, "encrypted"),
        ("l1_entries", (32 << 20) // 8 + 1, "32 MiB"),
        ("l1_offset", 0, "impossible offset"),
        ("l1_offset", L1 + 8, "impossible offset"),
        ("l1_offset", 1 << 40, "impossible offset"),
        ("refcount_table_offset", 0, "impossible offset"),
        ("refcount_table_clusters", 0, "no refcount table"),
        ("refcount_table_clusters", 2049, "8 MiB"),
        ("backing_offset", 1 << 40, "outside of the header cluster"),
        ("incompatible", 2, "marked corrupt"),
        ("incompatible", 4, "names no data file"),
        ("autoclear", 2, "external data file is raw"),
        ("incompatible", 8, "compression type zlib contradicts"),
        ("incompatible", 16, "at least 16 KiB"),
        ("incompatible", 1 << 40, r"unknown incompatible feature \(bit 40\)"),
        ("refcount_order", 7, "1 to 64"),
        ("refcount_order", 63, "1 to 64"),
        ("header_length", 100, "header length"),
        ("header_length", CLUSTER + 8, "header length"),
    ],
)
def test_refused_by_name(image: Path, field: str, value: int, match: str) -> None:
    put(image, *(FIELDS[field][0], value, FIELDS[field][1]))
    refused(image, match)


def overlay(path: Path, name: bytes, format: str | None = "raw") -> None:
    header = Header(3, 16, 1 << 20, 1, 3 << 16, 1 << 16, 1)
    header.backing_file, header.backing_format = name.decode("utf-8", "surrogateescape"), format
    with path.open("wb") as file:
        file.write(header.pack().ljust(4 << 16, b"\0"))


@pytest.mark.parametrize(
    ("name", "format", "error"),
    [
        (b"missing", "raw", FileNotFoundError),
        (b"\xff\xfe", "raw", FileNotFoundError),
        (b"nul\0byte", "raw", ImageError),
        (b"x" * 1023, "raw", OSError),
        (b"/", "raw", OSError),
        (b"fifo", "raw", OSError),
        (b"/dev/zero", "raw", OSError),
        (b"image", None, ImageError),
        (b"image", "vmdk", ImageError),
        (b"empty", "qcow2", ImageError),
        (b"image", "qcow2", ImageError),  # itself
    ],
)
def test_backing_names(tmp_path: Path, name: bytes, format: str | None, error: type[Exception]) -> None:
    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
    (tmp_path / "empty").touch()
    overlay(tmp_path / "image", name, format)

    async def main() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(error):
            async with blockstack.open(tmp_path / "image", "qcow2", aio="threads", direct=False):
                pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    run(main())


def test_a_loop_of_two(tmp_path: Path, how: How) -> None:
    overlay(tmp_path / "a", b"b", "qcow2")
    overlay(tmp_path / "b", b"a", "qcow2")

    async def main() -> None:
        with pytest.raises(ImageError, match="loop"):
            async with blockstack.open(tmp_path / "a", **how):
                pass

    run(main())


def test_descriptors_of_failed_opens_come_back(tmp_path: Path, how: How, image: Path) -> None:
    overlay(tmp_path / "overlay", image.name.encode(), "qcow2")
    put(tmp_path / "overlay", 3 << 16, 512)  # an unaligned L2 table: found when the backing file is open already

    async def main() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with pytest.raises(ImageError, match="unaligned"):
                async with blockstack.open(tmp_path / "overlay", **how):
                    pass
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    run(main())


def _huge_l1(path: Path) -> None:
    header = Header(3, 21, 1 << 40, (32 << 20) // 8, 4 << 21, 1 << 21, 1)
    with path.open("wb") as file:
        file.write(header.pack())
        file.truncate(1 << 40)


def _huge_reftable(path: Path) -> None:
    header = Header(3, 21, 1 << 40, 2, 16 << 21, 1 << 21, 4)
    with path.open("wb") as file:
        file.write(header.pack())
        file.truncate(1 << 40)


def _many_l2_tables(path: Path) -> None:
    """300 L2 tables of 2 MiB, all holes; reading the disk from end to end touches them all."""
    header = Header(3, 21, 300 << 39, 300, 4 << 21, 1 << 21, 1)
    with path.open("wb") as file:
        file.write(header.pack())
        file.seek(4 << 21)
        file.write(struct.pack(">300Q", *(((8 + index) << 21) | OFLAG_COPIED for index in range(300))))
        file.truncate(1 << 40)


READ_ALL_TABLES = """
import asyncio, sys, blockstack
from tests.blockstack.hostile import peak
async def main():
    before = peak()
    async with blockstack.open(sys.argv[1], aio="threads", direct=False, read_only=True) as disk:
        for place in range(0, disk.length, 1 << 39):
            await disk.preadv(place, 512)
    print(peak() - before)
asyncio.run(main())
"""


@pytest.mark.parametrize("make", [_huge_l1, _huge_reftable])
def test_memory_of_huge_tables(tmp_path: Path, make: Callable[[Path], None]) -> None:
    try:
        make(tmp_path / "huge")
    except OSError as error:
        pytest.skip(f"no sparse file of 1 TiB here: {error}")
    assert _memory("-m", "tests.blockstack.hostile", str(tmp_path / "huge")) < 256 << 20


def test_memory_of_many_l2_tables(tmp_path: Path) -> None:
    try:
        _many_l2_tables(tmp_path / "huge")
    except OSError as error:
        pytest.skip(f"no sparse file of 1 TiB here: {error}")
    assert _memory("-c", READ_ALL_TABLES, str(tmp_path / "huge")) < 256 << 20


def _memory(*words: str) -> int:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
