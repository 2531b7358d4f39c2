"""The parallels format, against QEMU's in both directions, with its way of zeroing, and hostile images."""

import asyncio
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.fallocate.calls import FALLOC_FL_ZERO_RANGE
from blockstack.file_posix import FilePosix
from blockstack.journal import Journal, Kind
from blockstack.parallels import Header, Parallels, PreallocMode
from blockstack.parallels.header import IN_USE, MAGIC_SECTORS
from blockstack.strategies import STRATEGIES
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, needs_qemu, payload, qemu_img, qemu_io, run, turns

CLUSTER = 65536
SIZE = 20 * CLUSTER + 1024


def clean(image: Path) -> None:
    """`qemu-img check` finds neither errors nor leaks."""
    done = subprocess.run(
        ["qemu-img", "check", "-f", "parallels", image], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def opened(
    path: Path, how: How, journal: Journal | None = None, *, mode: PreallocMode = PreallocMode.FALLOC, ahead: int = 0
) -> blockstack.Disk:
    """With the prealloc options of QEMU, which `blockstack.open` leaves at their defaults."""
    file = FilePosix(path, strategy=STRATEGIES["none"], journal=journal, **how)
    header = Header.parse(await file.preadv(0, min(file.length, 65536)), file.length)
    node = await Parallels.open(header, file, read_only=False, prealloc_mode=mode, prealloc_size=ahead)
    return blockstack.Disk(node, file)


async def history(guest: Guest, seed: int, count: int = 60) -> None:
    """Random writes and zero-writes of any alignment, four at a time in ranges of their own, and flushes."""
    chosen = random.Random(seed)
    quarter = guest.disk.length // 4
    for step in range(count // 4):
        jobs = []
        for part in range(4):
            length = chosen.choice((1, 512, 1000, 4096, CLUSTER, CLUSTER + 5, 3 * CLUSTER))
            offset = part * quarter + chosen.randrange(quarter - length)
            jobs.append(
                guest.zero(offset, length)
                if chosen.random() < 0.2
                else guest.write(offset, payload(seed * 1000 + step * 4 + part, length))
            )
        await asyncio.gather(*jobs)
        if chosen.random() < 0.2:
            await guest.disk.flush()


@needs_qemu
@pytest.mark.parametrize("cluster_size", [CLUSTER, 63 * 512, 1 << 20])
def test_qemu_reads_and_continues_what_blockstack_wrote(tmp_path: Path, how: How, cluster_size: int) -> None:
    path = tmp_path / "disk"

    async def main() -> bytes:
        await blockstack.create(path, SIZE, format="parallels", cluster_size=cluster_size)
        async with blockstack.open(path, **how) as disk:
            assert isinstance(disk.node, Parallels)
            guest = Guest(disk)
            await history(guest, seed=cluster_size)
            await guest.verify()
        async with blockstack.open(path, **how) as disk:
            assert await disk.preadv(0, SIZE) == guest.content
        return bytes(guest.content)

    content = run(main())
    clean(path)
    qemu_img("convert", "-f", "parallels", "-O", "raw", path, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == content
    qemu_io(path, "write -P 7 100k 70k", "read -P 7 100k 70k", format="parallels")
    clean(path)


@needs_qemu
def test_an_empty_image_is_qemus_byte_by_byte(tmp_path: Path) -> None:
    for size, cluster_size in ((SIZE, CLUSTER), (10 << 30, 1 << 20), (512, 512)):
        run(blockstack.create(tmp_path / "ours", size, format="parallels", cluster_size=cluster_size))
        qemu_img("create", "-q", "-f", "parallels", "-o", f"cluster_size={cluster_size}", tmp_path / "theirs", size)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@needs_qemu
def test_blockstack_continues_what_qemu_wrote(tmp_path: Path, how: How) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "parallels", "-o", f"cluster_size={CLUSTER}", path, SIZE)
    qemu_io(path, "write -P 3 50k 100k", "write -P 4 1000k 1k", format="parallels")

    async def main() -> bytes:
        async with blockstack.open(path, **how) as disk:
            guest = Guest(disk)
            guest.content[50 << 10 : 150 << 10] = b"\3" * (100 << 10)
            guest.content[1000 << 10 : 1001 << 10] = b"\4" * 1024
            await guest.verify()
            await history(guest, seed=5)
            await guest.verify()
            return bytes(guest.content)

    content = run(main())
    clean(path)
    qemu_img("convert", "-f", "parallels", "-O", "raw", path, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == content


def sectors_image(path: Path, *, data_offset: int = 0) -> None:
    """An old image, whose BAT counts sectors: clusters of 63 sectors, the second one allocated."""
    header = Header(MAGIC_SECTORS, tracks=63, bat_entries=10, sectors=630, data_offset=data_offset)
    start = header.data_start
    bat = struct.pack("<10I", 0, start // 512, *[0] * 8)
    path.write_bytes((header.pack() + bat).ljust(start, b"\0") + b"q" * 63 * 512)


@needs_qemu
@pytest.mark.parametrize("data_offset", [8, 2, 1])
def test_images_that_count_sectors(tmp_path: Path, how: How, data_offset: int) -> None:
    """Also where the data area leaves no room to pad the BAT. (QEMU 7.2 takes data_off 0 for another place.)"""
    path = tmp_path / "disk"
    sectors_image(path, data_offset=data_offset)

    async def main() -> bytes:
        async with blockstack.open(path, **how) as disk:
            guest = Guest(disk)
            guest.content[63 * 512 : 2 * 63 * 512] = b"q" * 63 * 512
            await guest.verify()
            await guest.write(1000, payload(1, 100000))
            await guest.verify()
            return bytes(guest.content)

    content = run(main())
    clean(path)
    qemu_img("convert", "-f", "parallels", "-O", "raw", path, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == content


@needs_qemu
def test_the_system_calls_are_qemus(tmp_path: Path, how: How) -> None:
    """The file grows as QEMU 7.2's was seen to (strace of qemu-io): one ZERO_RANGE from the end of the data."""
    path = tmp_path / "disk"
    journal = Journal()

    async def main() -> None:
        await blockstack.create(path, 160 * CLUSTER, format="parallels", cluster_size=CLUSTER)
        async with blockstack.open(path, journal=journal, **how) as disk:
            await disk.pwritev(1 << 20, [b"a" * 1000])
            await disk.pwritev(2 << 20, [b"a" * CLUSTER])

    run(main())
    calls = [entry for entry in journal.entries if entry.kind in (Kind.FALLOCATE, Kind.TRUNCATE)]
    assert [(entry.kind, entry.flags, entry.offset, entry.length) for entry in calls] == [
        (Kind.FALLOCATE, FALLOC_FL_ZERO_RANGE, CLUSTER, CLUSTER + (128 << 20)),
        (Kind.TRUNCATE, 0, 3 * CLUSTER, 0),
    ]


def test_whoever_would_write_behind_a_zero_write_waits_for_it(tmp_path: Path, how: How) -> None:
    """The thread's claim, in a schedule that is chosen. QEMU looks places up under the same lock: all have to wait."""
    path = tmp_path / "disk"
    journal = Journal()

    async def main() -> None:
        await blockstack.create(path, SIZE, format="parallels", cluster_size=CLUSTER)
        disk = await opened(path, how, journal)
        await disk.pwritev(0, [b"a" * 512])
        image = disk.node
        assert isinstance(image, Parallels)
        await image.file.truncate(image.data_end, shrink=True)  # nothing is left of what was allocated ahead
        stand = asyncio.Event()
        zeroing = asyncio.Event()
        original = image.file.pwrite_zeroes

        async def late(offset: int, length: int) -> None:
            zeroing.set()
            await stand.wait()
            await original(offset, length)

        image.file.pwrite_zeroes = late  # type: ignore[method-assign, assignment]
        first = asyncio.create_task(disk.pwritev(CLUSTER, [b"b" * 512]))
        await zeroing.wait()
        second = asyncio.create_task(disk.pwritev(5 * CLUSTER, [b"c" * CLUSTER]))
        third = asyncio.create_task(disk.pwritev(512, [b"d" * 512]))
        await turns()
        assert not any(task.done() for task in (first, second, third))
        stand.set()
        await asyncio.gather(first, second, third)
        await disk.node.close()

    run(main())
    zero = next(entry for entry in journal.entries if entry.kind is Kind.FALLOCATE and entry.offset == 2 * CLUSTER)
    behind = [entry for entry in journal.entries if entry.kind is Kind.WRITE and entry.offset >= 2 * CLUSTER]
    assert len(behind) == 2
    assert all(entry.seq_begin > zero.seq_end for entry in behind)


@needs_qemu
def test_truncate_grows_the_file_without_a_fallocate(tmp_path: Path, how: How) -> None:
    path = tmp_path / "disk"
    journal = Journal()

    async def main() -> None:
        await blockstack.create(path, SIZE, format="parallels", cluster_size=CLUSTER)
        disk = await opened(path, how, journal, mode=PreallocMode.TRUNCATE)
        guest = Guest(disk)
        await history(guest, seed=9)
        await guest.verify()
        await disk.node.close()

    run(main())
    clean(path)
    assert not any(entry.kind is Kind.FALLOCATE for entry in journal.entries)


def test_an_image_in_use_is_read_only(tmp_path: Path, how: How) -> None:
    path = tmp_path / "disk"

    async def main() -> None:
        await blockstack.create(path, SIZE, format="parallels", cluster_size=CLUSTER)
        async with blockstack.open(path, **how):
            assert struct.unpack_from("<I", path.read_bytes(), 44)[0] == IN_USE
        assert struct.unpack_from("<I", path.read_bytes(), 44)[0] == 0
        put(path, 44, IN_USE)
        with pytest.raises(ImageError, match="was not closed"):
            async with blockstack.open(path, **how):
                pass
        async with blockstack.open(path, read_only=True, **how) as disk:
            assert await disk.preadv(0, 512) == bytes(512)

    run(main())


def put(path: Path, at: int, value: int, form: str = "<I") -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (16, 3, "version"),
        (28, 0, "no sectors"),
        (28, 2**32 - 1, "too large"),
        (32, 2**32 - 1, "larger than 64 MiB"),
        (32, 2**23, "cut off"),
        (32, 5, "too small for the disk"),
        (36, 2**32 - 1, "too small for the disk"),
        (40, 2**31, "overflows"),
        (48, 0, "impossible sector"),
        (48, 129, "impossible sector"),
        (64, 2**32 - 1, "behind the end"),
        (64, 3, "behind the end"),
        (68, 1, "share"),
        (56, 1, "extension"),
    ],
)
def test_hostile_images_are_refused_and_stay_as_they_are(
    tmp_path: Path, how: How, at: int, value: int, match: str
) -> None:
    path = tmp_path / "disk"

    async def main() -> None:
        await blockstack.create(path, SIZE, format="parallels", cluster_size=CLUSTER)
        async with blockstack.open(path, **how) as disk:
            await disk.pwritev(0, [b"a" * CLUSTER])
            await disk.pwritev(CLUSTER * 3, [b"a" * CLUSTER])
        put(path, at, value)
        before = path.read_bytes()
        with pytest.raises(ImageError, match=match):
            async with blockstack.open(path, "parallels", **how):
                pass
        assert path.read_bytes() == before

    run(main())


def test_flipped_bits_give_nothing_worse_than_an_error(tmp_path: Path, how: How) -> None:
    path = tmp_path / "disk"
    chosen = random.Random(3)

    def spoilt(content: bytes) -> bytes:
        damaged = bytearray(content)
        for _ in range(chosen.randint(1, 4)):
            damaged[chosen.randrange(160)] ^= 1 << chosen.randrange(8)
        return bytes(damaged)

    async def main() -> int:
        await blockstack.create(path, SIZE, format="parallels", cluster_size=CLUSTER)
        async with blockstack.open(path, **how) as disk:
            await disk.pwritev(0, [b"a" * 5 * CLUSTER])
        content = path.read_bytes()
        refused = 0
        for _ in range(40):
            path.write_bytes(spoilt(content))
            try:
                async with blockstack.open(path, "parallels", **how) as disk:
                    await disk.preadv(0, min(disk.length, 1 << 20))
                    await disk.pwritev(0, [b"b" * min(disk.length, CLUSTER * 2)])
            except (ImageError, OSError):
                refused += 1
        return refused

    assert 0 < run(main()) < 40


@pytest.mark.parametrize(
    "impossible",
    [
        lambda path: blockstack.create(path, SIZE, format="parallels", cluster_size=100),
        lambda path: blockstack.create(path, SIZE, format="parallels", cluster_size=1 << 40),
        lambda path: blockstack.create(path, 1 << 60, format="parallels"),
        lambda path: blockstack.create(path, -512, format="parallels"),
        lambda path: blockstack.create(path, SIZE, format="parallels", backing_file="x", backing_format="raw"),
    ],
)
def test_impossible_geometry(tmp_path: Path, impossible: Callable[[Path], object]) -> None:
    with pytest.raises(ImageError):
        run(impossible(tmp_path / "disk"))  # type: ignore[arg-type]
