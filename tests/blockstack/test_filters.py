"""Filters: the disk looks the same through them, what goes through stays what it is, and faults come where asked."""

import asyncio
import errno
import json
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import blockstack
from blockstack.filters import BlkDebug, CopyOnRead, Filter, InjectError, Throttle
from blockstack.journal import Journal, Kind, RequestFlag
from blockstack.node import Node
from blockstack.requests import RequestType
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qcow2_node, qemu_img, qemu_io, run

CLUSTER = 65536
SIZE = 8 * CLUSTER


class Recorder(Filter):
    """What reaches the child."""

    def __init__(self, child: Node) -> None:
        super().__init__(child)
        self.seen: list[tuple[RequestType, int, int]] = []

    async def _admit(self, kind: RequestType, offset: int, length: int) -> None:
        self.seen.append((kind, offset, length))


async def overlay(tmp_path: Path, size: int = SIZE) -> tuple[Path, bytes]:
    """An overlay of `size` bytes, and what its backing file holds: two clusters of data, then zeroes, then one more."""
    content = bytearray(size)
    content[: 2 * CLUSTER] = payload(1, 2 * CLUSTER)
    content[-(size % CLUSTER or CLUSTER) :] = payload(2, size % CLUSTER or CLUSTER)
    (tmp_path / "backing").write_bytes(content)
    await blockstack.create(tmp_path / "overlay", size, backing_file="backing", backing_format="raw")
    return tmp_path / "overlay", bytes(content)


def test_each_kind_goes_through_as_what_it_is(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        path = tmp_path / "disk"
        await blockstack.create(path, SIZE, format="raw")
        async with blockstack.open(path, "raw", filters=[Recorder, Throttle, BlkDebug], discard=True, **how) as disk:
            guest = Guest(disk)
            await guest.write(1000, payload(1, 70000))
            await guest.zero(4096, 8192)
            await disk.pdiscard(0, 4096)
            guest.content[:4096] = bytes(4096)
            await disk.flush()
            await guest.verify()
            debug = disk.node
            assert isinstance(debug, BlkDebug)
            recorder = debug.child.child  # type: ignore[attr-defined]
            assert recorder.seen[:4] == [
                (RequestType.WRITE, 1000, 70000),
                (RequestType.ZERO_WRITE, 4096, 8192),
                (RequestType.DISCARD, 0, 4096),
                (RequestType.FLUSH, 0, 0),
            ]

    run(main())


@pytest.mark.parametrize(
    ("rule", "fails"),
    [
        (InjectError(errno.EIO), [True, False, False, False]),
        (InjectError(errno.ENOSPC, RequestType.WRITE), [True, False, False, False]),
        (InjectError(errno.EIO, RequestType.WRITE, number=2), [False, False, False, True]),
        (InjectError(errno.EIO, RequestType.ZERO_WRITE), [False, True, False, False]),
        (InjectError(errno.EIO, RequestType.FLUSH), [False, False, True, False]),
        (InjectError(errno.EIO, RequestType.READ), [False, False, False, False]),
        (InjectError(errno.EIO, sector=8, once=False), [False, True, False, True]),
        (InjectError(errno.EIO, sector=7), [True, False, False, False]),
        (InjectError(errno.EIO, once=False), [True, True, True, True]),
    ],
)
def test_an_injected_error_comes_where_it_was_asked_for(
    tmp_path: Path, how: How, rule: InjectError, fails: list[bool]
) -> None:
    async def main() -> None:
        path = tmp_path / "disk"
        await blockstack.create(path, SIZE, format="raw")
        async with blockstack.open(path, "raw", filters=[partial(BlkDebug, rules=[rule])], **how) as disk:
            calls: list[Callable[[], Coroutine[Any, Any, None]]] = [
                lambda: disk.pwritev(0, [b"a" * 4096]),
                lambda: disk.pwrite_zeroes(4096, 4096),
                lambda: disk.flush(),
                lambda: disk.pwritev(4096, [b"b" * 4096]),
            ]
            results = [(await asyncio.gather(call(), return_exceptions=True))[0] for call in calls]
            assert [None if result is None else getattr(result, "errno", 0) for result in results] == [
                rule.errno if failed else None for failed in fails
            ]

    run(main())
    content = (tmp_path / "disk").read_bytes()
    assert content[:4096] == (bytes(4096) if fails[0] else b"a" * 4096)
    assert content[4096:8192] == (bytes(4096) if fails[3] else b"b" * 4096)


def test_a_write_that_fails_leaves_the_qcow2_image_sound(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        path = tmp_path / "disk"
        await blockstack.create(path, SIZE)
        rules = [InjectError(errno.EIO, RequestType.WRITE, number=2)]
        async with blockstack.open(path, filters=[partial(BlkDebug, rules=rules)], **how) as disk:
            results = await asyncio.gather(
                *(disk.pwritev(i * CLUSTER, [b"x" * 4096]) for i in range(4)), return_exceptions=True
            )
            assert sorted(isinstance(result, OSError) for result in results) == [False, False, False, True]

    run(main())
    check(tmp_path / "disk")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("iops", "bps", "length", "seconds"),
    [(100.0, None, 512, 0.9), (None, 4096.0 * 100, 4096, 0.9), (None, None, 4096, 0.0)],
)
def test_a_hundred_requests_take_their_time(
    tmp_path: Path, how: How, iops: float | None, bps: float | None, length: int, seconds: float
) -> None:
    """100 at 100 a second, of which a tenth of a second's worth goes at once."""

    async def main() -> None:
        path = tmp_path / "disk"
        clock = Clock()
        order: list[int] = []
        await blockstack.create(path, SIZE, format="raw")
        filters = [partial(Throttle, clock=clock, sleep=clock.sleep, iops=iops, bps=bps)]
        async with blockstack.open(path, "raw", filters=filters, **how) as disk:

            async def write(index: int) -> None:
                await disk.pwritev(index % 4 * 4096, [b"x" * length])
                order.append(index)

            await asyncio.gather(*(write(index) for index in range(100)))
            assert clock.now == pytest.approx(seconds, abs=0.02)
            await disk.flush()
            assert clock.now == pytest.approx(seconds, abs=0.02)
            throttle = disk.node
            assert isinstance(throttle, Throttle)
            assert (throttle.waits > 0) is (seconds > 0)

    run(main())


def test_copy_on_read_stores_whole_clusters_and_starts_no_zero_write_of_the_file(tmp_path: Path, how: How) -> None:
    size = SIZE + 4096  # the last cluster is cut short

    async def main() -> bytes:
        path, content = await overlay(tmp_path, size)
        journal = Journal()
        async with blockstack.open(path, filters=[CopyOnRead], journal=journal, **how) as disk:
            ranges = [(0, 512), (CLUSTER + 5, 100), (3 * CLUSTER, 4096), (3 * CLUSTER, 512), (SIZE + 512, 100)]
            data = await asyncio.gather(*(disk.preadv(*each) for each in ranges))
            assert list(data) == [content[offset : offset + length] for offset, length in ranges]
            cor = disk.node
            assert isinstance(cor, CopyOnRead)
            assert cor.copied == 3 * CLUSTER + 4096
            allocated = [(await cor.block_status(i * CLUSTER, 512)).allocated for i in range(9)]
            assert allocated == [True, True, False, True, False, False, False, False, True]
            assert (await cor.block_status(3 * CLUSTER, CLUSTER)).zero
        requests = [entry for entry in journal.entries if entry.kind is Kind.REQUEST]
        assert not any(entry.flags & RequestFlag.ZERO_WRITE for entry in requests)
        assert not any(entry.kind is Kind.FALLOCATE for entry in journal.entries)
        return content

    content = run(main())
    check(tmp_path / "overlay")
    assert convert(tmp_path / "overlay") == content


@needs_qemu
def test_copy_on_read_stores_what_qemus_does(tmp_path: Path, how: How) -> None:
    """The map of the overlay after the same reads: data, zero clusters, and what is left in the backing file."""
    size = SIZE + 4096
    reads = [(0, 512), (2 * CLUSTER + 512, CLUSTER), (SIZE, 512)]

    async def main() -> None:
        path, _ = await overlay(tmp_path, size)
        qemu_img("create", "-q", "-f", "qcow2", "-b", "backing", "-F", "raw", tmp_path / "theirs")
        async with blockstack.open(path, filters=[CopyOnRead], **how) as disk:
            for offset, length in reads:
                await disk.preadv(offset, length)

    run(main())
    qemu_io(tmp_path / "theirs", *(f"read {offset} {length}" for offset, length in reads), flags=("-C",))
    ours, theirs = (qemu_img("map", "--output=json", tmp_path / name) for name in ("overlay", "theirs"))

    def seen(text: str) -> list[tuple[int, int, int, bool]]:
        return [(e["start"], e["length"], e["depth"], e["zero"]) for e in json.loads(text)]

    assert seen(ours) == seen(theirs)


def test_reads_and_writes_of_one_cluster_together(tmp_path: Path, how: How) -> None:
    """A copy must not overwrite what was written meanwhile."""

    async def main() -> None:
        path, content = await overlay(tmp_path)
        async with blockstack.open(path, filters=[CopyOnRead], **how) as disk:
            guest = Guest(disk, content)
            for cluster in range(SIZE // CLUSTER):
                start = cluster * CLUSTER
                await asyncio.gather(
                    disk.preadv(start, 512),
                    guest.write(start + 1024, payload(cluster, 2048)),
                    disk.preadv(start + 8192, 100),
                    guest.write(start + 8192, payload(cluster + 9, 100)),
                )
            await guest.verify()

    run(main())
    check(tmp_path / "overlay")


def test_copy_on_read_is_refused_where_nothing_can_be_stored(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        path, _ = await overlay(tmp_path)
        with pytest.raises(OSError, match="read-only"):
            async with blockstack.open(path, filters=[CopyOnRead], read_only=True, **how):
                pass
        with pytest.raises(OSError, match="overlay"):
            async with blockstack.open(tmp_path / "backing", "raw", filters=[CopyOnRead], **how):
                pass
        async with blockstack.open(path, filters=[CopyOnRead], **how) as disk:
            assert qcow2_node(blockstack.Disk(disk.node.child, disk.file)).allocations == []  # type: ignore[attr-defined]

    run(main())
