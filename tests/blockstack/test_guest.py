"""Stamps, plans, and the oracle: what it counts is exactly what was done to the data."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

import blockstack
from blockstack.guest import Damage, Oracle, Plan, make_plan
from blockstack.guest import run as play
from blockstack.guest.oracle import SECTOR
from blockstack.guest.stamp import MAX_DISK, MAX_WRITES, WORD, decode, payload, stamp
from blockstack.guest.workload import FLUSH_EVERY, MIN_CLUSTER
from blockstack.journal import GUEST_SHIFT, Journal, Kind
from tests.blockstack.conftest import How
from tests.blockstack.support import run

CLUSTER = 4096
PLANS = [(1, 400, 65536), (2, 400, 4096), (3, 50, 2 << 20), (4, 3000, 4096), (5, 1, 65536), (6, 200, 8192)]


@pytest.mark.parametrize(("number", "offset"), [(1, 0), (7, 512), (MAX_WRITES, MAX_DISK - 4096), (1000, 1 << 37)])
def test_stamps_decode(number: int, offset: int) -> None:
    data = payload(number, offset, 4096)
    assert len(data) == 4096
    assert 0 not in data
    numbers, places = decode(np.frombuffer(data, dtype=np.uint8))
    assert set(numbers.tolist()) == {number}
    assert places.tolist() == list(range(offset, offset + 4096, WORD))


def test_stamps_of_nobody_are_zero() -> None:
    owners = np.array([0, 5, 0], dtype=np.uint64)
    data = stamp(owners, 800)
    assert data[:8].tolist() == data[16:].tolist() == [0] * 8
    assert decode(data)[0].tolist() == [0, 5, 0]


def test_what_is_no_stamp_has_number_0() -> None:
    assert decode(np.full(64, 0x41, dtype=np.uint8))[0].tolist() == [0] * 8


@pytest.mark.parametrize(("seed", "writes", "cluster_size"), PLANS)
def test_a_plan_is_the_same_for_a_seed(seed: int, writes: int, cluster_size: int) -> None:
    plan = make_plan(seed, writes, cluster_size)
    assert plan == make_plan(seed, writes, cluster_size)
    if writes > 1:
        assert plan.writes != make_plan(seed + 1, writes, cluster_size).writes
    assert [write.number for write in plan.writes] == list(range(1, writes + 1))
    for write in plan.writes:
        assert write.offset >= 0
        assert write.length > 0
        assert write.offset + write.length <= plan.size
        assert write.offset % SECTOR == write.length % SECTOR == 0


def test_a_plan_mixes_what_the_race_needs() -> None:
    plan = make_plan(1, 1000)
    size = plan.cluster_size
    whole = [write for write in plan.writes if write.offset % size == 0 and write.length % size == 0]
    part = [write for write in plan.writes if write.length < size]
    straddling = [write for write in plan.writes if write.offset % size and write.offset % size + write.length > size]
    for kind in (whole, part, straddling):
        assert len(kind) > 50
    tables = {write.offset // size // (size // 8) for write in plan.writes}
    assert len(tables) > 10


@pytest.mark.parametrize(("writes", "cluster_size"), [(10, 512), (10, 2048), (MAX_WRITES, 2 << 20)])
def test_impossible_plans(writes: int, cluster_size: int) -> None:
    if cluster_size >= MIN_CLUSTER:
        assert make_plan(1, 10, cluster_size)
        return
    with pytest.raises(ValueError, match="clusters"):
        make_plan(1, writes, cluster_size)


@pytest.mark.parametrize("strategy", ["none", "serialise"])
def test_playing_a_plan(tmp_path: Path, how: How, strategy: str) -> None:
    """Read back, everything is as the oracle says; every guest write is in the journal, and owns its requests."""
    plan = make_plan(3, FLUSH_EVERY + 50, 8192)
    journal = Journal()
    progress: list[int] = []
    bytes_used = 0

    async def main() -> tuple[Oracle, Damage]:
        nonlocal bytes_used
        image = tmp_path / "image"
        await blockstack.create(image, plan.size, cluster_size=plan.cluster_size)
        async with blockstack.open(image, strategy=strategy, journal=journal, **how) as disk:
            oracle = await play(disk, plan, journal=journal, progress=progress.append)
        bytes_used = image.stat().st_size
        damage = Damage()
        async with blockstack.open(image, read_only=True, **how) as disk:
            for cluster in oracle.clusters:
                content = await disk.preadv(cluster * plan.cluster_size, plan.cluster_size)
                oracle.compare_cluster(cluster, content, damage)
        return oracle, damage

    oracle, damage = run(main())
    assert damage == Damage()
    assert progress == list(range(1, len(plan.writes) + 1))
    assert bytes_used <= plan.bytes_allocated
    guest = [entry for entry in journal.entries if entry.kind is Kind.GUEST_WRITE]
    assert sorted(entry.request >> GUEST_SHIFT for entry in guest) == [write.number for write in plan.writes]
    assert all(entry.result == entry.length for entry in guest)
    begun = {entry.request >> GUEST_SHIFT: entry for entry in guest}
    for entry in journal.entries:
        owner = begun.get(entry.request >> GUEST_SHIFT)
        if entry.kind is Kind.WRITE and owner is not None:
            assert owner.seq_begin < entry.seq_begin < entry.seq_end < owner.seq_end
    assert oracle.clusters == sorted(
        {
            cluster
            for write in plan.writes
            for cluster in range(
                write.offset // plan.cluster_size, (write.offset + write.length - 1) // plan.cluster_size + 1
            )
        }
    )


class Image:
    """A cluster of content beside the oracle that knows it."""

    def __init__(self, seed: int, cluster: int = 5) -> None:
        chance = random.Random(seed)
        self.cluster = cluster
        self.start = cluster * CLUSTER
        self.oracle = Oracle(CLUSTER)
        self.data = bytearray(CLUSTER)
        self.owned = bytearray(CLUSTER)
        self.older = bytearray(CLUSTER)
        for number in range(1, 6):
            first = chance.randrange(7)
            offset, length = first * SECTOR, chance.randint(1, 8 - first) * SECTOR
            self.older[offset : offset + length] = self.data[offset : offset + length]
            self.data[offset : offset + length] = payload(number, self.start + offset, length)
            self.owned[offset : offset + length] = b"\1" * length
            self.oracle.acknowledge(number, self.start + offset, length)

    def damage(self, content: bytes | bytearray | None = None) -> Damage:
        damage = Damage()
        self.oracle.compare_cluster(self.cluster, bytes(self.data if content is None else content), damage)
        return damage


@pytest.mark.parametrize("seed", range(5))
def test_no_damage(seed: int) -> None:
    assert Image(seed).damage() == Damage()


@pytest.mark.parametrize(("start", "end"), [(0, 4096), (512, 1024), (100, 101), (8, 4000)])
@pytest.mark.parametrize("seed", range(5))
def test_zeroes_where_data_was_acknowledged(seed: int, start: int, end: int) -> None:
    image = Image(seed)
    expected = sum(image.owned[start:end])
    image.data[start:end] = bytes(end - start)
    damage = image.damage()
    assert damage.zero_bytes == damage.bytes == expected
    assert damage.clusters == ({image.cluster} if expected else set())
    assert sum(stop - begin for begin, stop in damage.ranges) == expected
    predicted = Damage()
    image.oracle.predict(image.cluster, start, end, predicted)
    assert predicted == damage


def test_prediction_of_a_cluster_nobody_wrote() -> None:
    damage = Damage()
    Image(1).oracle.predict(9, 0, CLUSTER, damage)
    assert damage == Damage()


@pytest.mark.parametrize("seed", range(5))
def test_stale_data(seed: int) -> None:
    """An earlier write's data at its own place: whole words, which count byte by byte as far as they differ."""
    image = Image(seed)
    stale = [
        at
        for at in range(CLUSTER)
        if image.older[at // 8 * 8 : at // 8 * 8 + 8] != bytes(8) and image.older[at] != image.data[at]
    ]
    content = bytes(old or new for old, new in zip(image.older, image.data, strict=True))
    damage = image.damage(content)
    assert damage.stale_bytes == damage.bytes == len(stale)


def test_misplaced_data() -> None:
    image = Image(1)
    elsewhere = payload(3, image.start + CLUSTER, 64)
    expected = sum(a != b for a, b in zip(elsewhere, image.data[:64], strict=True))
    image.data[:64] = elsewhere
    damage = image.damage()
    assert damage.misplaced_bytes == damage.bytes == expected > 0
    assert damage.ranges[0][0] >= image.start


def test_foreign_data_also_where_nobody_wrote() -> None:
    image = Image(1)
    image.data[8:24] = b"\x41" * 16
    assert image.damage().foreign_bytes == image.damage().bytes == 16
    oracle, damage = Oracle(CLUSTER), Damage()
    oracle.compare_cluster(7, bytes(100) + b"Z" * 28 + bytes(CLUSTER - 128), damage)
    assert damage.foreign_bytes == damage.bytes == 28
    assert damage.ranges == [(7 * CLUSTER + 100, 7 * CLUSTER + 128)]
    assert damage.clusters == {7}


def test_all_kinds_at_once_add_up() -> None:
    image = Image(2)
    image.oracle.acknowledge(9, image.start, CLUSTER)
    image.data[:] = payload(9, image.start, CLUSTER)
    image.data[0:8] = bytes(8)
    image.data[64:72] = b"\x41" * 8
    image.data[128:136] = payload(2, image.start + 128, 8)
    image.data[256:264] = payload(9, 0, 8)
    damage = image.damage()
    assert (damage.zero_bytes, damage.foreign_bytes) == (8, 8)
    assert 0 < damage.stale_bytes <= 8
    assert 0 < damage.misplaced_bytes <= 8
    assert damage.bytes == sum(stop - begin for begin, stop in damage.ranges)


def test_a_failing_write_ends_the_run(tmp_path: Path, how: How) -> None:
    plan = make_plan(1, 40, 8192)

    async def main() -> Plan:
        image = tmp_path / "image"
        await blockstack.create(image, 8192)  # much too small
        async with blockstack.open(image, **how) as disk:
            with pytest.raises(ExceptionGroup) as caught:
                await play(disk, plan)
            assert caught.group_contains(OSError, match="outside")
            assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()][1:]
        return plan

    run(main())
