"""qcow2 images: round trips, growth, copy-on-write, backing files; what is made here, QEMU reads."""

import asyncio
import os
import random
from pathlib import Path

import pytest

import blockstack
from blockstack.qcow2.header import Header
from blockstack.strategies import STRATEGIES
from tests.blockstack.conftest import How
from tests.blockstack.support import (
    Double,
    Guest,
    Hold,
    check,
    convert,
    eventually,
    needs_qemu,
    payload,
    qcow2_node,
    qemu_img,
    run,
)

pytestmark = needs_qemu

CLUSTER_SIZES = [1 << bits for bits in range(9, 22)]


@pytest.mark.parametrize("cluster_size", CLUSTER_SIZES)
def test_round_trip(tmp_path: Path, how: How, cluster_size: int) -> None:
    """Unaligned, whole-cluster and straddling writes, before and after reopening."""
    image = tmp_path / "image"
    size = 5 * cluster_size + cluster_size // 2 // 512 * 512

    async def main() -> bytes:
        await blockstack.create(image, size, cluster_size=cluster_size)
        async with blockstack.open(image, **how) as disk:
            assert disk.length == size
            guest = Guest(disk)
            await guest.verify()
            await guest.write(cluster_size // 2 + 3, payload(1, 11))
            await guest.write(cluster_size, payload(2, cluster_size))
            await guest.write(3 * cluster_size - 7, payload(3, cluster_size + 14))
            await guest.write(size - 1, b"z")
            await guest.write(0, b"a")
            await guest.verify()
            await disk.pwritev(0, [])
            assert await disk.preadv(size, 0) == b""
        async with blockstack.open(image, **how) as disk:
            guest = Guest(disk, bytes(guest.content))
            await guest.verify()
            await guest.write(cluster_size + 1, payload(4, cluster_size))
            await guest.zero(cluster_size // 2, 2 * cluster_size)
            await guest.verify()
        return bytes(guest.content)

    content = run(main())
    check(image)
    assert convert(image) == content


@pytest.mark.parametrize("cluster_size", [512, 1024, 2048])
def test_many_l2_tables_and_refcount_blocks(tmp_path: Path, how: How, cluster_size: int) -> None:
    """More than one L2 table and refcount block, written in random order, many at once."""
    image = tmp_path / "image"
    clusters = cluster_size + cluster_size // 8

    async def main() -> bytes:
        size = clusters * cluster_size
        await blockstack.create(image, size, cluster_size=cluster_size)
        async with blockstack.open(image, **how) as disk:
            guest = Guest(disk)
            step = 8 * cluster_size
            offsets = [at for at in range(0, size - step, step) if at // step % 5]
            random.Random(1).shuffle(offsets)
            await asyncio.gather(*(guest.write(at + 100, payload(at, step - 200)) for at in offsets))
            await guest.verify()
            node = qcow2_node(disk)
            assert len(node.mapping.table_offsets) > 1
            assert len(node.refcounts.block_offsets) > 1
        return bytes(guest.content)

    content = run(main())
    check(image)
    assert convert(image) == content


@pytest.mark.parametrize("strategy", ["none", "no-alloc-space"])
def test_the_refcount_table_grows(tmp_path: Path, how: How, strategy: str) -> None:
    """512-byte clusters: one cluster of refcount table counts 64 * 256 clusters, which is 8 MiB."""
    image = tmp_path / "image"

    async def main() -> bytes:
        await blockstack.create(image, 20 << 20, cluster_size=512)
        async with blockstack.open(image, strategy=strategy, **how) as disk:
            header = qcow2_node(disk).header
            first = header.refcount_table_offset
            guest = Guest(disk)
            seen = {header.refcount_table_clusters}
            for at in range(0, 20 << 20, 1 << 18):
                await guest.write(at + 5, payload(at, (1 << 18) - 10))
                seen.add(header.refcount_table_clusters)
            assert len(seen) >= 3
            assert header.refcount_table_offset != first
            await guest.verify()
            assert await qcow2_node(disk).refcounts.get(first) == 0  # given back, and too small for what came since
        return bytes(guest.content)

    content = run(main())
    check(image)
    assert Header.parse(image.read_bytes()[:4096], image.stat().st_size).refcount_table_clusters > 1
    assert convert(image) == content


def test_two_writes_into_one_fresh_cluster(tmp_path: Path, how: How) -> None:
    """The second one depends on the allocation of the first (handle_dependencies)."""
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, 1 << 20)
        async with blockstack.open(image, **how) as disk:
            node = qcow2_node(disk)
            hold = Hold(Double(disk.file), 5 * 65536, 6 * 65536)
            first = asyncio.create_task(disk.pwritev(0, [b"1" * 4096]))
            await hold.held.wait()
            second = asyncio.create_task(disk.pwritev(8192, [b"2" * 4096]))
            other = asyncio.create_task(disk.pwritev(65536 * 3, [b"3" * 4096]))
            await other
            assert len(node.allocations) == 1
            assert len(node.allocations[0].dependents) == 1
            assert not second.done()
            hold.release.set()
            await asyncio.gather(first, second)
            assert node.allocations == []
            assert await disk.preadv(0, 12288) == b"1" * 4096 + bytes(4096) + b"2" * 4096

    run(main())
    check(image)


def test_a_write_around_an_allocation_in_flight(tmp_path: Path, how: How) -> None:
    """Its part before is written at once; the rest waits, and lands on the same cluster."""
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, 1 << 20)
        async with blockstack.open(image, **how) as disk:
            hold = Hold(Double(disk.file), 5 * 65536, 6 * 65536)
            first = asyncio.create_task(disk.pwritev(2 * 65536, [b"1" * 4096]))
            await hold.held.wait()
            wide = asyncio.create_task(disk.pwritev(65536 + 4096, [b"w" * (2 * 65536)]))
            await eventually(lambda: len(qcow2_node(disk).allocations[0].dependents) == 1)
            hold.release.set()
            await asyncio.gather(first, wide)
            assert await disk.preadv(65536 + 4096, 2 * 65536) == b"w" * (2 * 65536)
            assert len(await qcow2_node(disk).mapping.extents()) == 3

    run(main())
    check(image)


@pytest.mark.parametrize("backing_format", ["raw", "qcow2"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_backing_file_shorter_than_the_overlay(tmp_path: Path, how: How, backing_format: str, strategy: str) -> None:
    backing, image = tmp_path / "backing", tmp_path / "image"
    short, size = 3 * 4096 + 512, 16 * 4096

    async def main() -> bytes:
        await blockstack.create(backing, short, format=backing_format)
        async with blockstack.open(backing, backing_format, aio="threads", direct=False) as disk:
            await disk.pwritev(100, [payload(1, short - 100)])
            below = await disk.preadv(0, short)
        before = backing.read_bytes()
        await blockstack.create(image, size, cluster_size=4096, backing_file="backing", backing_format=backing_format)
        async with blockstack.open(image, strategy=strategy, **how) as disk:
            guest = Guest(disk, below)
            await guest.verify()
            await guest.write(4096 + 10, b"inside")
            await guest.write(3 * 4096 + 500, b"straddles the end of the backing file")
            await guest.write(8 * 4096 + 1, b"beyond")
            await guest.verify()
        assert backing.read_bytes() == before
        return bytes(guest.content)

    content = run(main())
    check(image)
    assert convert(image) == content


def test_backing_file_longer_than_the_overlay(tmp_path: Path, how: How) -> None:
    (tmp_path / "backing").write_bytes(payload(1, 20000))

    async def main() -> None:
        await blockstack.create(tmp_path / "i", 5120, cluster_size=4096, backing_file="backing", backing_format="raw")
        async with blockstack.open(tmp_path / "i", **how) as disk:
            guest = Guest(disk, payload(1, 20000)[:5120])
            await guest.write(5110, b"0123456789")
            await guest.verify()
            with pytest.raises(OSError, match="outside"):
                await disk.pwritev(5111, [b"0123456789"])

    run(main())
    check(tmp_path / "i")


@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 20), (1, 70_000), (65535, 2), (65536, 131072), (900_000, 512)])
@pytest.mark.parametrize("supported", [True, False])
def test_guest_zero_writes_read_as_zero(tmp_path: Path, how: How, offset: int, length: int, supported: bool) -> None:
    """At any alignment, also where the file system has no fallocate at all."""
    image = tmp_path / "image"

    async def main() -> bytes:
        await blockstack.create(image, 1 << 20)
        async with blockstack.open(image, **how) as disk:
            if not supported:
                disk.file._has_write_zeroes = disk.file._has_discard = disk.file._has_fallocate = False
            guest = Guest(disk)
            await guest.write(10, payload(1, 500_000))
            await guest.zero(offset, length)
            await guest.verify()
            await disk.pdiscard(0, 1 << 20)  # a hint, which keeps the data here
            await guest.verify()
        return bytes(guest.content)

    assert run(main()) == convert(image)
    check(image)


def test_a_write_larger_than_one_transfer(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    data = os.urandom(1 << 20) * 40

    async def main() -> None:
        await blockstack.create(image, 64 << 20)
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(12345, [data[: 20 << 20], data[20 << 20 :]])
            assert await disk.preadv(12345, len(data)) == data

    run(main())
    check(image)


@pytest.mark.parametrize("length", [0, 512, 1 << 40, 8 << 40])
def test_unusual_disk_sizes(tmp_path: Path, how: How, length: int) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, length)
        async with blockstack.open(image, **how) as disk:
            assert disk.length == length
            if length:
                await disk.pwritev(length - 5, [b"final"])
                assert await disk.preadv(length - 6, 6) == b"\0final"

    run(main())
    check(image)
    assert f'"virtual-size": {length},' in qemu_img("info", "--output=json", image)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_create_rounds_up_to_whole_sectors(tmp_path: Path, format: str) -> None:
    """As qemu-img does: QEMU rounds down when it opens, and would not see the last bytes."""

    async def main() -> None:
        await blockstack.create(tmp_path / "image", 100_000, format=format)
        async with blockstack.open(tmp_path / "image", aio="threads", direct=False) as disk:
            assert disk.length == 100_352

    run(main())


@pytest.mark.parametrize(
    ("size", "cluster_size"), [(1 << 20, 1000), (1 << 20, 256), (1 << 20, 4 << 20), (-1, 65536), (1 << 60, 512)]
)
def test_impossible_geometry_makes_no_file(tmp_path: Path, size: int, cluster_size: int) -> None:
    with pytest.raises(blockstack.ImageError):
        run(blockstack.create(tmp_path / "image", size, cluster_size=cluster_size))
    assert list(tmp_path.iterdir()) == []


def test_raw_of_impossible_size_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("precious")
    for size in (-1, 1 << 63):
        with pytest.raises(blockstack.ImageError):
            run(blockstack.create(tmp_path / "raw", size, format="raw"))
    assert (tmp_path / "raw").read_text() == "precious"


def test_eviction_of_clean_l2_tables(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"

    async def main() -> bytes:
        await blockstack.create(image, 1 << 20, cluster_size=512)
        async with blockstack.open(image, l2_cache_size=4 * 512, **how) as disk:
            guest = Guest(disk)
            for at in range(0, 1 << 20, 30_000):
                await guest.write(at, payload(at, 700))
                await disk.flush()
            await guest.verify()
            assert len(qcow2_node(disk)._l2_cache) <= 4
            assert len(qcow2_node(disk).mapping.table_offsets) == 32
            await guest.write(1000, payload(1, 700))
            await guest.verify()
        return bytes(guest.content)

    assert run(main()) == convert(image)
    check(image)
