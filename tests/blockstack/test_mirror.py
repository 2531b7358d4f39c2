"""The mirror job: the target becomes what the source is, whatever the guest writes meanwhile."""

import asyncio
import errno
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

import blockstack
from blockstack.filters import BlkDebug, InjectError
from blockstack.jobs import DirtyBitmap, Mirror, MirrorTop, default_granularity
from blockstack.journal import Journal, Kind, RequestFlag
from blockstack.requests import RequestType
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, check, needs_qemu, payload, qemu_img, run

CLUSTER = 65536
SIZE = 64 * CLUSTER + 1024


def top(disk: blockstack.Disk) -> MirrorTop:
    assert isinstance(disk.node, MirrorTop)
    return disk.node


async def fill(guest: Guest) -> None:
    """Data with holes between."""
    for cluster in range(0, SIZE // CLUSTER, 3):
        await guest.write(cluster * CLUSTER + 512, payload(cluster, CLUSTER))


async def keep_writing(guest: Guest, seed: int, stop: asyncio.Event) -> int:
    """Random writes, zero-writes and discards until told to stop; three at a time. Returns how many."""
    chosen = random.Random(seed)
    count = 0
    while not stop.is_set():
        jobs = []
        for part in range(3):
            length = chosen.choice((512, 4096, CLUSTER, 3 * CLUSTER + 512))
            offset = part * (SIZE // 3) + chosen.randrange((SIZE // 3 - length) // 512) * 512
            zero = chosen.random() < 0.3
            jobs.append(guest.zero(offset, length) if zero else guest.write(offset, payload(count + part, length)))
        await asyncio.gather(*jobs)
        count += 3
        await asyncio.sleep(0)
    return count


def compare(tmp_path: Path, formats: Sequence[str]) -> None:
    qemu_img("compare", "-f", formats[0], "-F", formats[1], tmp_path / "source", tmp_path / "target")


@needs_qemu
@pytest.mark.parametrize(
    ("formats", "options", "granularity"),
    [
        (("raw", "raw"), {}, None),
        (("raw", "qcow2"), {}, None),
        (("qcow2", "raw"), {}, 4096),
        (("qcow2", "qcow2"), {"cluster_size": 4096}, None),
        (("qcow2", "qcow2"), {"cluster_size": 1 << 20}, None),
        (("raw", "parallels"), {}, None),
    ],
)
def test_the_target_becomes_the_source(
    tmp_path: Path, how: How, formats: tuple[str, str], options: dict[str, int], granularity: int | None
) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "source", SIZE, format=formats[0])
        await blockstack.create(tmp_path / "target", SIZE, format=formats[1], **options)  # type: ignore[arg-type]
        async with (
            blockstack.open(tmp_path / "source", formats[0], filters=[MirrorTop], **how) as source,
            blockstack.open(tmp_path / "target", formats[1], **how) as target,
        ):
            guest, stop = Guest(source), asyncio.Event()
            await fill(guest)
            job = Mirror(top(source), target.node, granularity=granularity)
            running = asyncio.create_task(job.run())
            writing = asyncio.create_task(keep_writing(guest, 1, stop))
            await asyncio.sleep(0.1)
            stop.set()
            assert await writing > 0
            await job.ready.wait()
            await guest.write(0, payload(99, 5000))  # it is kept up to date until it is told to end
            job.complete()
            await running
            assert await target.preadv(0, SIZE) == guest.content
            assert job.copies > 10
            # No hole is as large as a cluster of 1 MiB: a part of one is copied.
            assert (job.zero_writes > 0) is (options.get("cluster_size") != 1 << 20)

    run(main())
    compare(tmp_path, formats)
    if formats[1] == "qcow2":
        check(tmp_path / "target")


def test_zeroes_are_copied_as_zero_writes_and_a_fixed_target_does_not_grow(tmp_path: Path, how: How) -> None:
    journal = Journal()

    async def main() -> int:
        await blockstack.create(tmp_path / "source", SIZE, format="raw")
        await blockstack.create(tmp_path / "target", SIZE, format="raw")
        async with (
            blockstack.open(tmp_path / "source", "raw", filters=[MirrorTop], **how) as source,
            blockstack.open(tmp_path / "target", "raw", journal=journal, **how) as target,
        ):
            await fill(Guest(source))
            job = Mirror(top(source), target.node, unmap=False, journal=journal)
            job.complete()
            await job.run()
            return job.zero_writes

    zero_writes = run(main())
    requests = [entry for entry in journal.entries if entry.kind is Kind.REQUEST]
    zeroed = [entry for entry in requests if entry.flags & RequestFlag.ZERO_WRITE]
    assert len(zeroed) == zero_writes > 10
    assert not any(entry.flags & RequestFlag.POST_EOF for entry in requests)
    assert all(entry.request >> 32 for entry in requests if not entry.flags & RequestFlag.READ)
    assert (tmp_path / "source").read_bytes() == (tmp_path / "target").read_bytes()


@pytest.mark.parametrize(("cluster_size", "granularity"), [(512, 4096), (4096, 4096), (65536, 65536), (1 << 20, 65536)])
def test_the_granularity_is_qemus(tmp_path: Path, how: How, cluster_size: int, granularity: int) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "disk", SIZE, cluster_size=cluster_size)
        async with blockstack.open(tmp_path / "disk", **how) as disk:
            assert default_granularity(disk.node) == granularity
            assert default_granularity(disk.file) == 65536

    run(main())


def test_a_target_of_other_content_is_overwritten(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "source", SIZE)
        (tmp_path / "target").write_bytes(b"x" * SIZE)
        async with (
            blockstack.open(tmp_path / "source", filters=[MirrorTop], **how) as source,
            blockstack.open(tmp_path / "target", "raw", **how) as target,
        ):
            guest = Guest(source)
            await fill(guest)
            for zero_target, same in ((False, False), (True, True)):
                job = Mirror(top(source), target.node, zero_target=zero_target)
                job.complete()
                await job.run()
                assert (await target.preadv(0, SIZE) == guest.content) is same

    run(main())


@pytest.mark.parametrize("kind", [RequestType.WRITE, RequestType.ZERO_WRITE, RequestType.FLUSH])
def test_an_error_of_the_target_ends_the_job_and_not_the_guest(tmp_path: Path, how: How, kind: RequestType) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "source", SIZE, format="raw")
        await blockstack.create(tmp_path / "target", SIZE, format="raw")
        fault = partial(BlkDebug, rules=[InjectError(errno.ENOSPC, kind)])
        async with (
            blockstack.open(tmp_path / "source", "raw", filters=[MirrorTop], **how) as source,
            blockstack.open(tmp_path / "target", "raw", filters=[fault], **how) as target,
        ):
            guest = Guest(source)
            await fill(guest)
            job = Mirror(top(source), target.node)
            with pytest.raises(OSError, match="injected") as caught:
                await job.run()
            assert caught.value.errno == errno.ENOSPC
            await guest.write(0, payload(1, 4096))
            await guest.verify()

    run(main())


def test_disks_of_different_length_are_refused(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "source", SIZE)
        await blockstack.create(tmp_path / "target", SIZE + 512)
        async with (
            blockstack.open(tmp_path / "source", filters=[MirrorTop], **how) as source,
            blockstack.open(tmp_path / "target", **how) as target,
        ):
            with pytest.raises(OSError, match="bytes and the target"):
                Mirror(top(source), target.node)
            with pytest.raises(ValueError, match="granularity"):
                Mirror(top(source), source.node, granularity=1000)

    run(main())


def test_a_cancelled_job_leaves_nothing_in_flight(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "source", SIZE, format="raw")
        await blockstack.create(tmp_path / "target", SIZE)
        async with (
            blockstack.open(tmp_path / "source", "raw", filters=[MirrorTop], **how) as source,
            blockstack.open(tmp_path / "target", **how) as target,
        ):
            await fill(Guest(source))
            running = asyncio.create_task(Mirror(top(source), target.node).run())
            while not target.node.tracker.in_flight:
                await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not target.node.tracker.in_flight
            assert not source.node.tracker.in_flight

    run(main())
    check(tmp_path / "target")


def test_the_bitmap_counts_what_is_dirty() -> None:
    async def main() -> None:
        bitmap = DirtyBitmap(10 * 4096 + 1, 4096)
        bitmap.set(4095, 2)
        bitmap.set(8192, 1)
        bitmap.set(4096, 0)
        assert (bitmap.count, bitmap.next(0), bitmap.next(3), bitmap.run(0, 100)) == (3, 0, None, 3)
        bitmap.set(10 * 4096, 1)
        bitmap.clear(0, 2)
        assert (bitmap.count, bitmap.next(0), bitmap.next(3), bitmap.run(10, 100)) == (2, 2, 10, 1)

    run(main())
