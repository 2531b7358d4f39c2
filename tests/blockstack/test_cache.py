"""The metadata caches: their size, and that a power failure at any write costs leaked clusters at most."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blockstack
from blockstack.file_posix import FilePosix
from blockstack.qcow2.cache import DEFAULT_SIZES, MIN_L2_TABLES, MIN_REFCOUNT_BLOCKS, Cache, CacheSizes, Table
from blockstack.qcow2.header import Header
from blockstack.qcow2.mapping import pack_l2
from blockstack.strategies import STRATEGIES
from tests.blockstack.power import Recorder, corruptions
from tests.blockstack.support import Guest, check, convert, needs_qemu, qcow2_node, qemu_img, run

CLUSTER = 512
REGION = 64 * CLUSTER
"""What an L2 table maps, and with refcounts of 64 bits a refcount block counts."""


async def _work(disk: blockstack.Disk, recorder: Recorder) -> None:
    """Changes many tables at a time, gives clusters back and takes them again."""
    for region in (4, 0, 2):
        await disk.pwrite_zeroes(region * REGION, 4 * CLUSTER, unmap=True)
        await disk.pwritev((region + 1) * REGION + 57 * CLUSTER, [bytes([region + 16]) * 3 * CLUSTER])
    await disk.flush()
    recorder.flushed = len(recorder.writes), await disk.preadv(0, disk.length)
    for region in (0, 3, 5, 1):
        await disk.pwritev(region * REGION + 61 * CLUSTER, [bytes([region + 32]) * 2 * CLUSTER])
    await disk.pdiscard(REGION, REGION)
    for region in (5, 1, 3, 0):
        await disk.pwrite_zeroes(region * REGION + 8 * CLUSTER, 20 * CLUSTER, unmap=True)
        await disk.pwritev((region + 7) % 6 * REGION + 10 * CLUSTER, [bytes([region + 48]) * 12 * CLUSTER])


async def _record(image: Path) -> Recorder:
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={CLUSTER},refcount_bits=64", image, 6 * REGION)
    async with blockstack.open(image, **TINY) as disk:
        await disk.pwritev(2 * REGION, [b"old" * 3 * CLUSTER])
        await disk.pwritev(5 * REGION, [b"old" * CLUSTER])
    qemu_img("snapshot", "-c", "kept", image)
    async with blockstack.open(image, **TINY) as disk:
        for region in range(6):
            await disk.pwritev(region * REGION, [b"fill" * (56 * CLUSTER // 4)])
        await disk.flush()
        recorder = Recorder(disk.file, image)
        await _work(disk, recorder)
        node = qcow2_node(disk)
        assert len(node._l2_cache) == MIN_L2_TABLES
        assert len(node.refcounts.cache) == MIN_REFCOUNT_BLOCKS
        assert len(node.refcounts.block_offsets) > MIN_REFCOUNT_BLOCKS
    return recorder


TINY: dict[str, Any] = {
    "aio": "threads",
    "direct": False,
    "strategy": "no-alloc-space",
    "discard": True,
    "l2_cache_size": 0,
    "refcount_cache_size": 0,
}


@needs_qemu
def test_power_failures(tmp_path: Path) -> None:
    image = tmp_path / "image"
    recorder = run(_record(image))
    check(image)
    cuts = list(recorder.cuts())
    assert len(cuts) > 50
    flushed_at, flushed = recorder.flushed
    # What the guest did not change afterwards must be there whenever the power fails.
    kept = np.frombuffer(flushed, dtype=np.uint8) == np.frombuffer(convert(image), dtype=np.uint8)
    assert 0.5 < kept.mean() < 0.95
    checked = 0
    for number, content in cuts:
        assert corruptions(tmp_path / "cut", content) == 0, f"after {number} of {len(recorder.writes)}"
        if number > flushed_at:
            found = run(_read(tmp_path / "cut"))
            assert np.array_equal(np.frombuffer(found, dtype=np.uint8)[kept], np.frombuffer(flushed, np.uint8)[kept])
            checked += 1
    assert checked > 40


async def _read(image: Path) -> bytes:
    async with blockstack.open(image, read_only=True, **TINY) as disk:
        return await disk.preadv(0, disk.length)


async def _independent(self: Cache, other: Cache) -> None:
    pass


async def _unordered(self: Cache) -> None:
    depends, self._depends = self._depends, None
    assert depends is not None
    await depends.write()


def _one_way(kept: Callable[[Cache], bool]) -> Callable[..., Any]:
    real = Cache.depend_on

    async def depend_on(self: Cache, other: Cache) -> None:
        if kept(self):
            await real(self, other)

    return depend_on


MUTANTS = {
    "no dependency": ("depend_on", _independent),
    "no flush between": ("_flush_dependency", _unordered),
    "refcounts do not wait for L2 tables": ("depend_on", _one_way(lambda cache: cache._pack is pack_l2)),
    "L2 tables do not wait for refcounts": ("depend_on", _one_way(lambda cache: cache._pack is not pack_l2)),
}


@needs_qemu
@pytest.mark.parametrize("mutant", MUTANTS)
def test_power_failures_of_mutants(tmp_path: Path, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: caches that keep no order are found out."""
    monkeypatch.setattr(Cache, *MUTANTS[mutant])
    image = tmp_path / "image"
    recorder = run(_record(image))
    check(image)
    assert corruptions(tmp_path / "cut", recorder.before) == 0
    assert any(corruptions(tmp_path / "cut", content) for _, content in recorder.cuts())


def test_size() -> None:
    """As QEMU's defaults: what the disk needs, within 32 MiB; and never less than it takes to work."""

    def header(size: int, cluster_bits: int = 16) -> Header:
        return Header(3, cluster_bits, size, 0, 0, 0, 1)

    assert DEFAULT_SIZES.l2_tables(header(10 << 30)) == 20
    assert DEFAULT_SIZES.l2_tables(header(16 << 40)) == 512
    assert DEFAULT_SIZES.l2_tables(header(0)) == MIN_L2_TABLES
    assert DEFAULT_SIZES.refcount_blocks(header(16 << 40)) == MIN_REFCOUNT_BLOCKS
    assert CacheSizes(1 << 20, 1 << 20).l2_tables(header(16 << 40)) == 16
    assert CacheSizes(1 << 20, 1 << 20).refcount_blocks(header(16 << 40)) == 16
    with pytest.raises(ValueError, match="refcount cache size -1 is negative"):
        CacheSizes(None, -1)


def test_what_is_evicted(tmp_path: Path) -> None:
    """Tables not used since eviction last came by, the oldest first; one that has changed is written."""
    path = tmp_path / "file"
    path.write_bytes(bytes(16 * CLUSTER))

    async def main() -> None:
        file = FilePosix(path, aio="threads", strategy=STRATEGIES["none"], direct=False)
        cache = Cache(file, 3, pack_l2)
        tables = [Table(index * CLUSTER, np.full(64, index, dtype=np.uint64), dirty=True) for index in range(8)]
        for index in range(3):
            await cache.add(index, tables[index])
        await cache.add(3, tables[3])  # all were used: the oldest goes
        assert [cache.get(index) is not None for index in (0, 2)] == [False, True]
        await cache.add(4, tables[4])  # 1 was not, 2 was just now
        assert [index for index in range(8) if cache.get(index) is not None] == [2, 3, 4]
        assert not tables[0].dirty
        assert not tables[1].dirty
        assert await file.preadv(CLUSTER, CLUSTER) == pack_l2(tables[1].entries)
        await cache.add(2, tables[5])  # in the place of the older one
        assert cache.get(2) is tables[5]
        assert len(cache) == 3
        await file.close()

    run(main())


@needs_qemu
def test_the_guest_sees_nothing_of_it(tmp_path: Path) -> None:
    image = tmp_path / "image"

    async def main() -> bytes:
        await blockstack.create(image, 6 * REGION, cluster_size=CLUSTER, refcount_bits=64)
        async with blockstack.open(image, **TINY) as disk:
            guest = Guest(disk)
            for step in range(150):
                await guest.write(step * 7919 * 13 % (6 * REGION - 3000), bytes([step + 1]) * (step * 17 % 2900 + 1))
                if step % 8 == 0:
                    await guest.zero(step * 104729 % (6 * REGION - 3000), step * 19 % 2900)
            await guest.verify()
        return bytes(guest.content)

    assert run(main()) == convert(image)
    check(image)
