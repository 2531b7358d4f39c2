"""Requests that meet where it has cost data: each was found by a reviewer, and failed before it was mended."""

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import blockstack
from blockstack.qcow2.cache import Table
from tests.blockstack.support import Double, Hold, check, needs_qemu, qcow2_node, qemu_img, run, turns

KIB, MIB = 1 << 10, 1 << 20
CLUSTER = 4 * KIB
REGION = 2 * MIB  # of one L2 table
HOW: dict[str, Any] = {"aio": "threads", "direct": False, "strategy": "none"}


def image_of(directory: Path, size: int = 8 * MIB, cluster_size: int = CLUSTER) -> Path:
    path = directory / "image"
    run(blockstack.create(path, size, cluster_size=cluster_size))
    return path


@needs_qemu
@pytest.mark.parametrize("how", ["discard", "unmap"])
def test_a_hole_is_not_made_of_what_has_become_an_l2_table(tmp_path: Path, how: str) -> None:
    """The first part gives a cluster back, and the second takes it for the copy of a table that a snapshot shares."""
    path, crashed = image_of(tmp_path), tmp_path / "crashed"

    async def main() -> None:
        async with blockstack.open(path, **HOW) as disk:
            await disk.pwritev(REGION - CLUSTER, [b"A" * CLUSTER])
            await disk.pwritev(REGION + MIB, [b"B" * CLUSTER])
        qemu_img("snapshot", "-c", "kept", path)
        async with blockstack.open(path, discard=True, **HOW) as disk:
            await disk.pwritev(REGION - CLUSTER, [b"C" * CLUSTER])
            await disk.flush()
            if how == "discard":
                await disk.pdiscard(REGION - CLUSTER, 2 * CLUSTER)
            else:
                await disk.pwrite_zeroes(REGION - CLUSTER, 2 * CLUSTER, unmap=True)
            shutil.copy(path, crashed)
        for each in (path, crashed):
            async with blockstack.open(each, read_only=True, **HOW) as disk:
                assert await disk.preadv(REGION + MIB, CLUSTER) == b"B" * CLUSTER
        check(path)

    run(main())


@needs_qemu
def test_what_is_mapped_stays_allocated_if_what_it_replaces_cannot_be_given_back(tmp_path: Path) -> None:
    path = image_of(tmp_path)

    async def main() -> None:
        async with blockstack.open(path, **HOW) as disk:
            await disk.pwritev(0, [b"A" * 64 * KIB])
        qemu_img("snapshot", "-c", "kept", path)
        async with blockstack.open(path, **HOW) as disk:
            await disk.pwritev(0, [b"C" * CLUSTER])
            await disk.flush()
            blocks = set(qcow2_node(disk).refcounts.block_offsets.tolist())
            double = Double(disk.file)
            failed: list[int] = []

            async def fail_once(offset: int, length: int) -> None:
                if offset in blocks and not failed:
                    failed.append(offset)
                    raise OSError(errno.EIO, "injected")

            double.before = fail_once
            await disk.pwritev(CLUSTER, [b"D" * CLUSTER])
            assert failed
            await disk.pwritev(MIB, [b"E" * CLUSTER])
            assert await disk.preadv(CLUSTER, CLUSTER) == b"D" * CLUSTER
            assert await disk.preadv(MIB, CLUSTER) == b"E" * CLUSTER
        check(path, leaks=1)

    run(main())


def test_a_discard_to_the_old_end_keeps_what_was_written_behind_it(tmp_path: Path) -> None:
    size, cluster = MIB + CLUSTER, 64 * KIB
    path = image_of(tmp_path, size, cluster)

    async def main() -> None:
        async with blockstack.open(path, discard=True, **HOW) as disk:
            start = size - cluster - CLUSTER
            await disk.pwritev(start, [b"A" * (cluster + CLUSTER)])
            double = Double(disk.file)
            hold = Hold(double, 0, 1 << 40)
            write = asyncio.create_task(disk.pwritev(start, [b"W" * 512]))
            await hold.held.wait()
            double.before = None
            discard = asyncio.create_task(disk.pdiscard(start, cluster + CLUSTER))
            await turns()
            await disk.truncate(2 * MIB)
            await disk.pwritev(size, [b"X" * CLUSTER])
            assert not discard.done()
            hold.release.set()
            await asyncio.gather(write, discard)
            assert await disk.preadv(size, CLUSTER) == b"X" * CLUSTER
            assert await disk.preadv(start, cluster) == bytes(cluster)

    run(main())


@pytest.mark.parametrize("format_name", ["qcow2", "raw"])
def test_who_waited_for_a_truncate_keeps_to_the_new_length(tmp_path: Path, format_name: str) -> None:
    path = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(path, 8 * MIB, format=format_name)
        async with blockstack.open(path, format_name, **HOW) as disk:
            await disk.pwritev(6 * MIB, [b"A" * 512])
            shrink = asyncio.create_task(disk.truncate(MIB, shrink=True))
            await asyncio.sleep(0)
            late = [
                disk.pwritev(6 * MIB, [b"X" * 512]),
                disk.preadv(6 * MIB, 512),
                disk.pwrite_zeroes(6 * MIB, CLUSTER),
            ]
            for result in await asyncio.gather(*late, return_exceptions=True):
                assert isinstance(result, OSError)
                assert result.errno == errno.EINVAL
            await shrink
            assert disk.length == MIB
            # A growth behind another one that has gone further would shrink the disk, and nobody asked for that.
            results = await asyncio.gather(disk.truncate(8 * MIB), disk.truncate(4 * MIB), return_exceptions=True)
            assert results[0] is None
            assert isinstance(results[1], OSError)
            assert disk.length == 8 * MIB
            assert await disk.preadv(6 * MIB, 512) == bytes(512)

    run(main())


def test_a_failed_shrink_forgets_the_tables_that_the_disk_may_have_lost(tmp_path: Path) -> None:
    path = image_of(tmp_path)

    async def main() -> None:
        async with blockstack.open(path, **HOW) as disk:
            await disk.pwritev(6 * MIB, [b"A" * CLUSTER])
            await disk.flush()
            l1 = qcow2_node(disk).header.l1_offset
            double = Double(disk.file)

            async def fail(offset: int, length: int) -> None:
                if offset == l1 + 8:
                    raise OSError(errno.EIO, "injected behind the write")

            double.after = fail
            with pytest.raises(OSError, match="injected"):
                await disk.truncate(MIB, shrink=True)
            double.after = None
            await disk.pwritev(6 * MIB, [b"N" * CLUSTER])
            await disk.flush()
        async with blockstack.open(path, **HOW) as disk:
            assert await disk.preadv(6 * MIB, CLUSTER) == b"N" * CLUSTER

    run(main())


def test_every_allocation_of_a_failed_write_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_of(tmp_path)

    async def main() -> None:
        async with blockstack.open(path, **HOW) as disk:
            node = qcow2_node(disk)
            for at in (0, REGION + 8 * CLUSTER, REGION - 8 * CLUSTER):  # so that both tables are there
                await disk.pwritev(at, [b"A" * 512])
            double, state = Double(disk.file), {"failed": 0, "allocations": 0}
            block = node.refcounts._block

            async def no_block(index: int) -> Table | None:
                if state["failed"] == 1:
                    state["failed"] = 2
                    raise OSError(errno.EIO, "the refcount block")
                return await block(index)

            async def fail(offset: int, length: int) -> None:
                if length == 2 * CLUSTER and not state["failed"]:
                    state.update(failed=1, allocations=len(node.allocations))
                    raise OSError(errno.EIO, "the data")

            monkeypatch.setattr(node.refcounts, "_block", no_block)
            double.before = fail
            with pytest.raises(OSError, match="the data"):
                await disk.pwritev(REGION - CLUSTER, [b"D" * 2 * CLUSTER])
            assert state == {"failed": 2, "allocations": 2}
            assert not node.allocations
            for at in (REGION - CLUSTER, REGION):
                await disk.pwritev(at, [b"E" * 512])

    run(main())


@needs_qemu
def test_a_compressed_cluster_that_moves_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "image"
    data = os.urandom(3000).ljust(CLUSTER, b"a")
    raw.write_bytes(data.ljust(64 * CLUSTER, b"\0"))
    qemu_img("convert", "-c", "-O", "qcow2", "-o", f"cluster_size={CLUSTER}", raw, path)

    async def main() -> None:
        async with blockstack.open(path, **HOW) as disk:
            await disk.preadv(0, 16)
            engine = disk.file._engine
            read, held, go = engine.pread, asyncio.Event(), asyncio.Event()

            async def late(buffer: Any, length: int, offset: int) -> int:
                if not held.is_set():
                    held.set()
                    await go.wait()
                return await read(buffer, length, offset)

            engine.pread = late  # type: ignore[method-assign]
            reading = asyncio.create_task(disk.preadv(0, 512))
            await held.wait()
            await disk.pwritev(2048, [b"w" * 512])
            for cluster in range(1, 6):
                await disk.pwritev(cluster * CLUSTER, [b"Z" * CLUSTER])
            go.set()
            assert await reading == data[:512]

    run(main())
