"""Extended L2 entries, both ways with QEMU: the same requests to both drivers leave the same map of subclusters."""

import asyncio
import json
import random
import subprocess
from pathlib import Path

import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.journal import Journal, Kind
from blockstack.qcow2.header import OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED
from blockstack.qcow2.subclusters import ALL, ALL_ZERO, is_valid, kind_of, subclusters_from
from blockstack.qcow2.subclusters import Kind as Subcluster
from tests.blockstack.conftest import How
from tests.blockstack.hostile import MARK, exercise, put, refused, word
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qcow2_node, qemu_img, qemu_io, run
from tests.blockstack.test_check import same_as_qemu

SIZE = 4 << 20


def test_kinds() -> None:
    bitmap = 0b0110 | 0b1000 << 32
    assert [kind_of(bitmap, index, True) for index in range(4)] == [
        Subcluster.UNALLOCATED_ALLOC,
        Subcluster.NORMAL,
        Subcluster.NORMAL,
        Subcluster.ZERO_ALLOC,
    ]
    assert kind_of(1 << 32, 0, False) is Subcluster.ZERO_PLAIN
    assert kind_of(1 << 32, 1, False) is Subcluster.UNALLOCATED_PLAIN
    assert is_valid(bitmap, True)
    assert not is_valid(bitmap, False)
    assert not is_valid(1 | 1 << 32, True)
    assert is_valid(ALL_ZERO, False)
    assert subclusters_from(0, 32) == ALL
    assert subclusters_from(2, 4) == 0b1100


def _make(image: Path, maker: str, cluster_size: int, *, backed: bool, data: bool = False, size: int = SIZE) -> None:
    """A backing file is full of data, and shorter than the image."""
    base, external = image.with_name("base"), image.with_name("data").absolute()
    if backed:
        base.write_bytes(b"\xbb" * (SIZE * 3 // 4 + 512))
    if maker == "qemu":
        options = f"extended_l2=on,cluster_size={cluster_size}" + f",data_file={external}" * data
        qemu_img(
            "create", "-q", "-f", "qcow2", "-o", options, *(("-b", base, "-F", "raw") if backed else ()), image, size
        )
        return
    run(
        blockstack.create(
            image,
            size,
            extended_l2=True,
            cluster_size=cluster_size,
            backing_file="base" if backed else None,
            backing_format="raw" if backed else None,
            data_file=str(external) if data else None,
        )
    )


@needs_qemu
@pytest.mark.parametrize("maker", ["qemu", "blockstack"])
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize(("cluster_size", "data"), [(16384, False), (65536, False), (65536, True), (2 << 20, False)])
def test_both_ways(tmp_path: Path, how: How, maker: str, backed: bool, cluster_size: int, data: bool) -> None:
    image = tmp_path / "image"
    _make(image, maker, cluster_size, backed=backed, data=data)
    qemu_io(image, "write -P 1 0 100k", "write -P 2 1000k 777", "write -z 3M 102k", "write -z -u 512k 66k")
    content = convert(image)

    async def main() -> bytes:
        async with blockstack.open(image, discard=True, **how) as disk:
            guest = Guest(disk, content)
            await guest.verify()
            await guest.write(50_001, payload(1, 100_000))
            await guest.write((3 << 20) + 70_000, payload(2, 300))
            await guest.write(SIZE - 700, payload(3, 700))
            await guest.write((512 << 10) + 5000, payload(4, 3))
            await guest.zero(70_000, 200_000)
            await guest.zero(1000 << 10, 512)
            await guest.verify()
            await disk.flush()
            await disk.pdiscard(2 << 20, 2 << 20)
            guest.content[2 << 20 :] = bytes(2 << 20)
            await guest.verify()
            await guest.write((2 << 20) + 1, payload(5, 40_000))
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    check(image)
    assert convert(image) == expected
    qemu_io(image, "write -P 9 2000100 100", "read -P 9 2000100 100", "write -P 8 0 1k", "write -z 2M 20k")
    check(image)
    content = convert(image)

    async def again() -> None:
        async with blockstack.open(image, read_only=True, **how) as disk:
            assert await disk.preadv(0, SIZE) == content

    run(again())


def _requests(seed: int, cluster_size: int, size: int) -> list[tuple[str, int, int]]:
    """Half of them aligned to subclusters; in whole sectors, as qemu-io would otherwise read around them."""
    chosen = random.Random(seed)
    found = []
    for _ in range(40):
        grain = chosen.choice((512, cluster_size // 32, cluster_size // 32, cluster_size))
        offset = chosen.randrange(size // grain) * grain
        length = min(chosen.choice((1, 1, 2, 3, 7, 40)) * grain, size - offset)
        found.append((chosen.choice(("write", "write", "write", "zero", "unmap", "discard")), offset, length))
        if chosen.random() < 0.2:  # up to the end of the disk
            what, _, length = found[-1]
            found[-1] = what, size - length, length
    # The last cluster is cut short, and stays.
    return [*found, ("write", size - 512, 512), ("unmap", size - 71_680, 71_680)]


def _by_qemu(image: Path, requests: list[tuple[str, int, int]]) -> None:
    names = {"write": "write -P 7", "zero": "write -z", "unmap": "write -z -u", "discard": "discard"}
    words = [word for what, offset, length in requests for word in ("-c", f"{names[what]} {offset} {length}")]
    subprocess.run(["qemu-io", "-d", "unmap", "-f", "qcow2", *words, image], check=True, capture_output=True)


async def _by_us(image: Path, requests: list[tuple[str, int, int]], how: How) -> None:
    async with blockstack.open(image, discard=True, **how) as disk:
        for what, offset, length in requests:
            match what:
                case "write":
                    await disk.pwritev(offset, [b"\x07" * length])
                case "discard":
                    await disk.pdiscard(offset, length)
                case _:
                    await disk.pwrite_zeroes(offset, length, unmap=what == "unmap")


def _map(image: Path) -> list[dict[str, object]]:
    extents: list[dict[str, object]] = json.loads(qemu_img("map", "-f", "qcow2", "--output=json", image))
    for extent in extents:
        # Where clusters lie is each driver's own affair.
        extent.pop("offset", None)
    joined: list[dict[str, object]] = []
    for extent in extents:
        start, length = extent.pop("start"), extent.pop("length")
        assert isinstance(start, int)
        assert isinstance(length, int)
        if joined and joined[-1]["extent"] == extent:
            joined[-1]["end"] = start + length
        else:
            joined.append({"extent": extent, "start": start, "end": start + length})
    return joined


def _entries(image: Path) -> list[tuple[int, int]]:
    """Flags and bitmap of every L2 entry, as on the disk."""
    data = image.read_bytes()
    cluster_size = 1 << int.from_bytes(data[20:24], "big")
    l1, count = int.from_bytes(data[40:48], "big"), int.from_bytes(data[36:40], "big")
    found = []
    for index in range(count):
        table = int.from_bytes(data[l1 + 8 * index : l1 + 8 * index + 8], "big") & OFFSET_MASK
        for at in range(table, table + cluster_size, 16) if table else ():
            entry = int.from_bytes(data[at : at + 8], "big")
            flags = entry & (OFLAG_COPIED | OFLAG_COMPRESSED) | bool(entry & OFFSET_MASK)
            found.append((flags, int.from_bytes(data[at + 8 : at + 16], "big")))
    return found


@needs_qemu
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_same_requests_leave_the_same_bitmaps(tmp_path: Path, how: How, backed: bool, seed: int) -> None:
    cluster_size = (16384, 65536)[seed % 2]
    size = SIZE if seed < 2 else SIZE - 2560  # ends inside of a subcluster
    requests = _requests(seed, cluster_size, size)
    left = []
    for driver in ("qemu", "blockstack"):
        (tmp_path / driver).mkdir()
        image = tmp_path / driver / "image"
        _make(image, driver, cluster_size, backed=backed, size=size)
        if driver == "qemu":
            _by_qemu(image, requests)
        else:
            run(_by_us(image, requests, how))
        check(image)
        left.append((_entries(image), _map(image), convert(image)))
    assert left[0] == left[1]
    assert any(0 < bitmap & ALL < ALL for _, bitmap in left[0][0])  # it is about parts of clusters


@needs_qemu
def test_compressed_clusters(tmp_path: Path, how: How) -> None:
    """Over one there is only copy-on-write of all of it."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes((payload(1, 4000) * 300)[: 1 << 20])
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on,compression_type=zstd", raw, image)

    async def main() -> bytes:
        async with blockstack.open(image, discard=True, **how) as disk:
            guest = Guest(disk, raw.read_bytes())
            await guest.verify()
            await guest.write(3000, payload(2, 3))
            await guest.zero(65536 + 4096, 8192)
            await guest.zero(3 * 65536 - 2048, 65536 + 4096)
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    assert same_as_qemu(image) == (0, 0, 0)
    assert convert(image) == expected


@needs_qemu
@pytest.mark.parametrize("backed", [False, True])
def test_snapshots_stay_intact(tmp_path: Path, how: How, backed: bool) -> None:
    image = tmp_path / "image"
    _make(image, "qemu", 65536, backed=backed)
    qemu_io(image, "write -P 7 10k 200k", "write -z 300k 20k", "write -P 6 800k 100k")
    frozen = convert(image)
    qemu_img("snapshot", "-c", "s", image)

    async def main() -> bytes:
        async with blockstack.open(image, discard=True, **how) as disk:
            guest = Guest(disk, frozen)
            await guest.verify()
            await guest.write(30_000, payload(1, 300))
            await guest.write(150_000, payload(2, 170_000))
            await guest.zero(850_000, 3000)
            await guest.zero(12_288, 4096)
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    assert same_as_qemu(image) == (0, 0, 0)
    assert convert(image) == expected
    qemu_img("snapshot", "-a", "s", image)
    assert convert(image) == frozen
    qemu_img("snapshot", "-d", "s", image)
    check(image)


def test_only_the_subclusters_are_zeroed_and_written(tmp_path: Path, how: How, zero_range: None) -> None:
    """handle_alloc_space, for a new cluster and then for one that has its place already."""
    image, journal = tmp_path / "image", Journal()
    _make(image, "blockstack", 65536, backed=False)

    async def main() -> None:
        async with blockstack.open(image, journal=journal, **how) as disk:
            for offset, length in ((2048 + 512, 512), (8192 - 512, 1024), (20480, 4096), (3072, 2048)):
                await disk.pwritev(offset, [b"d" * length])
            (host,) = (extent[1] for extent in await qcow2_node(disk).mapping.extents())
            zeroed = [entry for entry in journal.entries if entry.kind is Kind.FALLOCATE]
            assert [(entry.offset - host, entry.length) for entry in zeroed] == [
                (2048, 2048),
                (6144, 4096),
                (3072, 3072),  # it begins in an allocated subcluster
            ]
            assert await disk.preadv(0, 32768) == (
                bytes(2560) + b"d" * 2560 + bytes(2560) + b"d" * 1024 + bytes(20480 - 8704) + b"d" * 4096 + bytes(8192)
            )

    run(main())


def test_writes_beside_each_other_in_one_cluster(tmp_path: Path, how: How) -> None:
    """In a cluster that has its place they need not wait for each other, and no bitmap is lost."""
    image = tmp_path / "image"
    _make(image, "blockstack", 65536, backed=True)

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            guest = Guest(disk, (tmp_path / "base").read_bytes())
            for _ in range(3):
                await asyncio.gather(*(guest.write(at * 1024 + 100, payload(at, 500)) for at in range(200)))
                await guest.verify()

    run(main())
    run_again(image, how)


def run_again(image: Path, how: How) -> None:
    """Everything is readable after a reopen."""

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            assert await disk.preadv(100, 500) == payload(0, 500)
            assert await disk.preadv(199 * 1024 + 100, 500) == payload(199, 500)

    run(main())


@needs_qemu
@pytest.mark.parametrize(
    ("entry", "bitmap"),
    [(None, 1 | 1 << 32), (0, 1), (0, ALL), (None, ALL_ZERO | 1 << 31), (OFLAG_COPIED | 512, 1), (1 << 40, 1 << 63)],
)
def test_impossible_entries(tmp_path: Path, how: How, entry: int | None, bitmap: int) -> None:
    image = tmp_path / "image"
    _make(image, "qemu", 65536, backed=False)
    qemu_io(image, "write -P 1 0 2k")
    l2 = word(image, 3 << 16) & OFFSET_MASK
    if entry is not None:
        put(image, l2, entry)
    put(image, l2 + 8, bitmap)
    if entry is None or not entry:
        same_as_qemu(image)

    async def main() -> None:
        async with blockstack.open(image, discard=True, **how) as disk:
            if entry == 1 << 40:  # a bitmap that is possible, far behind the end of the file
                assert await disk.preadv(0, 4096) == bytes(4096)
                return
            for attempt in (
                disk.preadv(0, 512),
                disk.pwritev(5000, [b"x"]),
                disk.pwrite_zeroes(2048, 2048),
            ):
                with pytest.raises(ImageError, match=r"impossible bitmap|unaligned"):
                    await attempt

    run(main())


def test_an_entry_that_points_to_metadata(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    _make(image, "blockstack", 65536, backed=False)

    async def fill() -> None:
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [b"x"])

    run(fill())
    l2 = word(image, 3 << 16) & OFFSET_MASK
    put(image, l2, 65536 | OFLAG_COPIED)
    before = image.read_bytes()

    async def main() -> None:
        async with blockstack.open(image, discard=True, **how) as disk:
            for attempt in (
                disk.pwritev(0, [b"x"]),
                disk.pwritev(60_000, [b"x"]),
                disk.pdiscard(0, 65536),
                disk.pwrite_zeroes(0, 65536, unmap=True),
            ):
                with pytest.raises(ImageError, match="overlaps"):
                    await attempt

    run(main())
    assert image.read_bytes() == before


@pytest.mark.parametrize("seed", range(2))
def test_random_entries(tmp_path: Path, seed: int) -> None:
    """Whatever a table says, nothing is written over metadata, and only refusals come out."""
    image, size = tmp_path / "image", 16384
    _make(image, "blockstack", size, backed=False)
    put(image, 3 * size, 4 * size | OFLAG_COPIED)  # an L2 table
    put(image, 2 * size + 8, 1, ">H")
    intact = image.read_bytes().ljust(5 * size, b"\0")
    chance = random.Random(seed)
    hosts = [0, *(cluster * size for cluster in range(12)), 512, 1 << 40, OFFSET_MASK]
    told: set[str] = set()
    for _ in range(40):
        image.write_bytes(intact)
        for entry in range(4):
            flags = chance.choice((0, 1, OFLAG_COPIED, OFLAG_COPIED, OFLAG_COMPRESSED))
            put(image, 4 * size + 16 * entry, chance.choice(hosts) | flags)
            alloc, zero = chance.getrandbits(32), chance.getrandbits(32)
            bitmap = chance.choice((alloc, alloc | (zero & ~alloc) << 32, alloc | zero << 32, zero << 32))
            put(image, 4 * size + 16 * entry + 8, bitmap)
        told.update(message.split(" ")[0] for message in run(exercise(image)))
        with image.open("rb") as file:
            after = file.read(5 * size)
        assert after[: 2 * size] == intact[: 2 * size]
        assert after[3 * size : 4 * size] == intact[3 * size : 4 * size]
        assert MARK[:12] not in after
    assert told  # some were refused


@pytest.mark.parametrize(
    ("cluster_size", "version", "match"), [(8192, 3, "at least 16 KiB"), (65536, 2, "version 2 has no extended")]
)
def test_impossible_options(tmp_path: Path, cluster_size: int, version: int, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        run(blockstack.create(tmp_path / "image", SIZE, extended_l2=True, cluster_size=cluster_size, version=version))
    assert not (tmp_path / "image").exists()


def test_clusters_too_small_for_them(image: Path) -> None:
    put(image, 72, 1 << 4)
    refused(image, "at least 16 KiB")


@needs_qemu
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("mode", ["metadata", "falloc"])
def test_preallocated_as_qemu_does(tmp_path: Path, how: How, mode: str, data: bool) -> None:
    """Every cluster has its place, no subcluster is allocated; the host's space is where guest data goes."""
    left = []
    for driver in ("qemu", "blockstack"):
        (tmp_path / driver).mkdir()
        image = tmp_path / driver / "image"
        external = image.with_name("data").absolute()
        if driver == "qemu":
            options = f"extended_l2=on,preallocation={mode}" + f",data_file={external}" * data
            qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, SIZE)
        else:
            name = str(external) if data else None
            run(blockstack.create(image, SIZE, extended_l2=True, preallocation=mode, data_file=name))
        check(image)
        qemu_io(image, "write -P 1 70k 2k")
        used = (external if data else image).stat().st_blocks * 512 >= SIZE
        left.append((_entries(image)[:64], _map(image), used))
    assert left[0] == left[1]
    assert left[0][2] is (mode == "falloc")


@needs_qemu
@pytest.mark.parametrize("data", [False, True])
def test_repaired_after_a_crash(tmp_path: Path, how: How, data: bool) -> None:
    """Lazy refcounts: repair counts the entries, and leaves bitmaps alone that look like them."""
    image, crashed = tmp_path / "image", tmp_path / "crashed"
    external = str((tmp_path / "data").absolute()) if data else None

    async def main() -> bytes:
        await blockstack.create(image, SIZE, extended_l2=True, lazy_refcounts=True, data_file=external)
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(1000, [payload(1, 200_000)])
            await disk.pwritev(2 << 20, [payload(2, 2000)])
            await disk.pwritev((3 << 20) + (32 << 10), [payload(3, 4096)])  # its bitmap is the offset of a cluster
            await disk.pwrite_zeroes(64 << 10, 48 << 10)
            await disk.flush()
            crashed.write_bytes(image.read_bytes())
            return await disk.preadv(0, SIZE)

    content = run(main())
    before = _entries(crashed)

    async def repair() -> None:
        async with blockstack.open(crashed, **how) as disk:
            assert await disk.preadv(0, SIZE) == content

    assert word(crashed, 72) & 1
    run(repair())
    assert not word(crashed, 72) & 1
    assert same_as_qemu(crashed) == (0, 0, 0)
    assert _entries(crashed) == before
    assert convert(crashed) == content
