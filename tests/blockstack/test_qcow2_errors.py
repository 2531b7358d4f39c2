"""Errors of the file below reach the guest, and leave an image that works and checks clean."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import blockstack
from tests.blockstack.conftest import How
from tests.blockstack.support import Double, Hold, check, convert, eventually, needs_qemu, qcow2_node, run, turns

pytestmark = needs_qemu

CLUSTER = 4096
SIZE = 8 << 20


class Faults:
    """Fails the writes that `wanted` picks, until switched off."""

    def __init__(self, double: Double, code: int, wanted: Callable[[int, int], bool]) -> None:
        self.on = True
        self.hits = 0
        self._code = code
        self._wanted = wanted
        double.before = self._fail

    async def _fail(self, offset: int, length: int) -> None:
        if self.on and self._wanted(offset, length):
            self.hits += 1
            raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("length", [CLUSTER, 100, 3 * CLUSTER + 10])
def test_data_writes(tmp_path: Path, how: How, code: int, length: int) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, **how) as disk:
            node = qcow2_node(disk)
            await disk.pwritev(SIZE - CLUSTER, [b"o" * CLUSTER])  # the L2 table and more are there
            await disk.pwritev(0, [b"a"])
            faults = Faults(Double(disk.file), code, lambda *_: True)
            with pytest.raises(OSError, match=os.strerror(code)) as caught:
                await disk.pwritev(CLUSTER * 10, [b"x" * length])
            assert caught.value.errno == code
            assert faults.hits
            assert node.allocations == []
            assert not disk.file.tracker.in_flight
            faults.on = False
            assert await disk.preadv(CLUSTER * 10, length) == bytes(length)
            await disk.pwritev(CLUSTER * 10, [b"y" * length])
            assert await disk.preadv(CLUSTER * 10, length) == b"y" * length

    run(main())
    check(image)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_zero_writes(tmp_path: Path, how: How, code: int) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, strategy="none", **how) as disk:
            await disk.pwritev(0, [b"a"])
            real = disk.file._behaviour.fallocate

            async def fail(mode: int, offset: int, length: int, request: int) -> None:
                raise OSError(code, os.strerror(code))

            disk.file._behaviour.fallocate = fail  # type: ignore[method-assign]
            with pytest.raises(OSError, match=os.strerror(code)):
                await disk.pwritev(CLUSTER * 10, [b"x"])
            disk.file._behaviour.fallocate = real  # type: ignore[method-assign]
            await disk.pwritev(CLUSTER * 10, [b"y"])
            assert await disk.preadv(CLUSTER * 10, 2) == b"y\0"

    run(main())
    check(image)


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EAGAIN])
def test_a_zero_write_that_would_fall_back_becomes_copy_on_write(tmp_path: Path, how: How, code: int) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, strategy="none", **how) as disk:

            async def fail(mode: int, offset: int, length: int, request: int) -> None:
                raise OSError(code, os.strerror(code))

            disk.file._behaviour.fallocate = fail  # type: ignore[method-assign]
            await disk.pwritev(100, [b"x"])
            assert await disk.preadv(99, 3) == b"\0x\0"

    run(main())
    check(image)


@pytest.mark.parametrize("stage", range(9))
def test_growth_fails_at_every_write(tmp_path: Path, how: How, stage: int) -> None:
    """A write that makes an L2 table, a refcount block and a larger refcount table, failing at its nth file write."""
    image = tmp_path / "image"
    cluster, size = 512, 9 << 20

    async def main() -> tuple[bytes, bool]:
        await blockstack.create(image, size, cluster_size=cluster)
        async with blockstack.open(image, **how) as disk:
            node = qcow2_node(disk)
            content = bytearray(size)
            at = 0
            # Fill the first refcount table (64 * 256 clusters) to the last cluster but a few.
            while (free := 64 * 256 - node.refcounts._free_from) > 3:
                count = min(max(1, free // 2 - 2), 32 * 64)
                data = os.urandom(count * cluster)
                await disk.pwritev(at, [data])
                content[at : at + len(data)] = data
                at += len(data)
            assert node.header.refcount_table_clusters == 1
            double = Double(disk.file)
            seen = 0

            async def nth(offset: int, length: int) -> None:
                nonlocal seen
                seen += 1
                if seen == stage + 1:
                    raise OSError(errno.ENOSPC, "injected")

            double.before = nth
            fresh = (at + 70 * cluster) & -cluster
            failed = False
            for attempt in range(3):
                data = bytes([attempt + 1]) * (6 * cluster)
                try:
                    await disk.pwritev(fresh, [data])
                    content[fresh : fresh + len(data)] = data
                    break
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    failed = True  # parts of it may be there: the guest writes it again
            assert node.header.refcount_table_clusters > 1
            double.before = None
            await disk.pwritev(fresh + 100, [b"t" * (200 * cluster)])
            content[fresh + 100 : fresh + 100 + 200 * cluster] = b"t" * (200 * cluster)
            assert await disk.preadv(0, size) == content
        return bytes(content), failed

    content, failed = run(main())
    check(image)
    assert convert(image) == content
    if stage < 6:
        assert failed


@pytest.mark.parametrize("kind", ["refcounts", "l2"])
def test_write_back_fails(tmp_path: Path, how: How, kind: str) -> None:
    """A flush that fails is told, keeps what is dirty, and the next one writes it."""
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, **how) as disk:
            node = qcow2_node(disk)
            await disk.pwritev(CLUSTER, [b"d" * CLUSTER])
            place = int((node.refcounts.block_offsets if kind == "refcounts" else node.mapping.table_offsets)[0])
            faults = Faults(Double(disk.file), errno.EIO, lambda offset, _: offset == place)
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output"):
                    await disk.flush()
            faults.on = False
            await disk.flush()
            assert faults.hits == 2
            before = convert(image)  # on disk without closing
            assert before[CLUSTER : 2 * CLUSTER] == b"d" * CLUSTER

    run(main())
    check(image)


def test_a_dependent_goes_on_when_the_allocation_fails(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(SIZE - CLUSTER, [b"o" * CLUSTER])
            double = Double(disk.file)
            release = asyncio.Event()

            async def fail_first(offset: int, length: int) -> None:
                if len(double.writes) == 1:
                    await release.wait()
                    raise OSError(errno.EIO, "injected")

            double.before = fail_first
            first = asyncio.create_task(disk.pwritev(SIZE - 9 * CLUSTER, [b"1" * 512]))
            await eventually(lambda: len(double.writes) == 1)
            second = asyncio.create_task(disk.pwritev(SIZE - 9 * CLUSTER + 512, [b"2" * 512]))
            await turns()
            release.set()
            with pytest.raises(OSError, match="injected"):
                await first
            await second
            assert await disk.preadv(SIZE - 9 * CLUSTER, 1024) == bytes(512) + b"2" * 512

    run(main())
    check(image)


def test_dependents_wake_even_if_the_clusters_cannot_be_freed(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, **how) as disk:
            node = qcow2_node(disk)
            await disk.pwritev(0, [b"a"])
            real = node.refcounts.free

            async def broken(offset: int, count: int, *, linked: bool = True) -> list[tuple[int, int]]:
                node.refcounts.free = real  # type: ignore[method-assign]
                raise OSError(errno.EIO, "cannot free")

            node.refcounts.free = broken  # type: ignore[method-assign]
            faults = Faults(Double(disk.file), errno.EIO, lambda *_: True)
            # The guest is told why its write failed; the clusters are leaked, as below.
            with pytest.raises(OSError, match="Input/output error"):
                await disk.pwritev(8 * CLUSTER, [b"x" * CLUSTER])
            assert node.refcounts.free is not broken
            faults.on = False
            await disk.pwritev(8 * CLUSTER, [b"y" * CLUSTER])

    run(main())
    check(image, leaks=1)


@pytest.mark.parametrize("strategy", ["none", "serialise"])
def test_a_cancelled_write_runs_to_its_end(tmp_path: Path, how: How, strategy: str) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, strategy=strategy, **how) as disk:
            node = qcow2_node(disk)
            await disk.pwritev(0, [b"o"])  # the L2 table is there
            hold = Hold(Double(disk.file), 0, 1 << 60)
            writes = [
                asyncio.create_task(disk.pwritev(at * CLUSTER + 100, [b"c" * CLUSTER])) for at in range(10, 40, 3)
            ]
            await hold.held.wait()
            await turns(100)
            for _ in range(3):
                for write in writes:
                    write.cancel()
                await turns()
            assert not any(write.done() for write in writes)
            assert len(node.allocations)
            hold.release.set()
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert node.allocations == []
            assert not disk.file.tracker.in_flight
            assert not node.tracker.in_flight
            assert not node._lock.locked()
            for at in range(10, 40, 3):
                assert await disk.preadv(at * CLUSTER + 100, CLUSTER) == b"c" * CLUSTER
            flush = asyncio.create_task(disk.flush())
            await turns(1)
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush

    run(main())
    check(image)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_close_that_cannot_write_back_gives_everything_back(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    (tmp_path / "backing").write_bytes(bytes(SIZE))

    async def main() -> None:
        await blockstack.create(image, SIZE, backing_file="backing", backing_format="raw")
        before = _descriptors()
        opened = blockstack.open(image, **how)
        disk = await opened.__aenter__()
        await disk.pwritev(0, [b"a" * 100])
        Faults(Double(disk.file), errno.EIO, lambda *_: True)
        with pytest.raises(OSError, match="Input/output"):
            await opened.__aexit__(None, None, None)
        assert _descriptors() == before
        for request in (disk.pwritev(0, [b"late"]), disk.preadv(0, 4), disk.flush(), disk.pwrite_zeroes(0, 4)):
            with pytest.raises(OSError, match="closed") as caught:
                await request
            assert caught.value.errno == errno.EBADF

    run(main())


def test_read_errors_reach_the_guest(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE)
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [b"a" * 65536])
            engine = disk.file._engine

            class Broken(Double):
                async def pread(self, buffer: object, length: int, offset: int) -> int:
                    raise OSError(errno.EIO, "injected")

            Broken(disk.file)
            with pytest.raises(OSError, match="injected"):
                await disk.preadv(0, 10)
            disk.file._engine = engine
            assert await disk.preadv(0, 1) == b"a"

    run(main())
