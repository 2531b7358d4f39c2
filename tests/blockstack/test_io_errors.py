"""Errors of the real kernel, in every engine: the caller gets them as they are, and the image stays consistent."""

import asyncio
import errno
import fcntl
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import blockstack
from blockstack.aio import ENGINES
from blockstack.journal import UNKNOWN_SIZE, Journal, Kind
from tests.blockstack.support import check, needs_qemu, payload, qemu_io, run
from tracer.lab.held import HeldDisk, held_scratch
from tracer.lab.scratch import default_directory, loop_scratch

pytestmark = pytest.mark.usefixtures("direct")

CLUSTER = 65536
MIB = 1 << 20

engines = pytest.mark.parametrize("aio", list(ENGINES))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """RLIMIT_FSIZE: a write that reaches over it is short, one behind it EFBIG (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@engines
def test_a_write_over_the_limit_in_a_raw_file(tmp_path: Path, aio: str) -> None:
    """A short write is ENOSPC in the asynchronous engines (QEMU: qemu_laio_process_completion); threads go on, and
    the kernel says EFBIG then (handle_aiocb_rw).
    """
    path, data = tmp_path / "f", payload(1, CLUSTER)
    path.write_bytes(bytes(16 * CLUSTER))

    async def main() -> None:
        async with blockstack.open(path, "raw", aio=aio) as disk:
            with file_size_limit(8 * CLUSTER):
                await disk.pwritev(7 * CLUSTER, [data])
                with pytest.raises(OSError, match=r".") as behind:
                    await disk.pwritev(8 * CLUSTER, [data])
                with pytest.raises(OSError, match=r".") as across:
                    await disk.pwritev(8 * CLUSTER - 4096, [data])
            assert behind.value.errno == errno.EFBIG
            assert across.value.errno == (errno.EFBIG if aio == "threads" else errno.ENOSPC)
            await disk.pwritev(8 * CLUSTER, [data])
            assert await disk.preadv(8 * CLUSTER, CLUSTER) == data

    run(main())


async def fill(disk: blockstack.Disk, codes: set[int], clusters: int) -> list[int]:
    """Write into every cluster, eight at a time; the clusters that were acknowledged."""
    done: list[int] = []

    async def one(cluster: int) -> None:
        offset, length = (0, CLUSTER) if cluster % 2 else (4096, 8192)
        try:
            await disk.pwritev(cluster * CLUSTER + offset, [bytes([cluster % 255 + 1]) * length])
        except OSError as error:
            codes.add(error.errno or 0)
        else:
            done.append(cluster)

    for first in range(0, clusters, 8):
        await asyncio.gather(*(one(cluster) for cluster in range(first, first + 8)))
    return done


def verify(path: Path, done: list[int]) -> None:
    check(path)
    commands = []
    for cluster in done:
        offset, length = (0, CLUSTER) if cluster % 2 else (4096, 8192)
        commands.append(f"read -P {cluster % 255 + 1} {cluster * CLUSTER + offset} {length}")
    qemu_io(path, *commands)


@needs_qemu
@engines
def test_an_image_that_may_not_grow(tmp_path: Path, aio: str) -> None:
    path, codes = tmp_path / "image", set[int]()

    async def main() -> list[int]:
        await blockstack.create(path, 64 * CLUSTER)
        async with blockstack.open(path, aio=aio) as disk:
            with file_size_limit(24 * CLUSTER + 4096):
                return await fill(disk, codes, 64)

    done = run(main())
    assert codes
    assert codes <= {errno.EFBIG, errno.ENOSPC}
    assert 8 <= len(done) < 32
    verify(path, done)


@needs_qemu
@engines
@pytest.mark.root
def test_a_file_system_that_is_full(tmp_path: Path, aio: str) -> None:
    with loop_scratch("xfs", 300 * MIB, tmp_path) as scratch:
        path, codes = scratch.path / "image", set[int]()
        with (scratch.path / "ballast").open("wb") as ballast:

            async def main() -> list[int]:
                await blockstack.create(path, 256 * CLUSTER)
                async with blockstack.open(path, aio=aio) as disk:
                    await fill(disk, codes, 8)
                    assert not codes
                    free = os.statvfs(scratch.path)
                    os.posix_fallocate(ballast.fileno(), 0, (free.f_bavail * free.f_frsize) - 4 * MIB)
                    done = await fill(disk, codes, 256)
                    ballast.truncate(0)
                    return done

            done = run(main())
        assert codes == {errno.ENOSPC}
        assert len(done) < 256
        verify(path, done)


@needs_qemu
@pytest.mark.root
@pytest.mark.parametrize("part", ["data", "L2 table", "refcount block"])
def test_a_disk_that_fails(tmp_path: Path, part: str) -> None:
    """The kernel's own EIO, from a disk that fails the write: of guest data, of an L2 table, of a refcount block."""
    with held_scratch("xfs", 320 * MIB, tmp_path) as disk:
        data = disk.marker() + payload(5, CLUSTER - 16)
        # How a table begins: the first L2 entry, the refcounts of the first five clusters.
        prefix = {
            "data": data[:16],
            "L2 table": (1 << 63 | 5 * CLUSTER).to_bytes(8, "big"),
            "refcount block": b"\0\1" * 6,
        }[part]
        for aio in ENGINES:
            run(_failing(disk, disk.scratch.path / aio, aio, prefix, data))
            check(disk.scratch.path / aio, leaks=4)
            qemu_io(disk.scratch.path / aio, f"read -P 119 {3 * CLUSTER} {CLUSTER}")


async def _failing(disk: HeldDisk, path: Path, aio: str, prefix: bytes, data: bytes) -> None:
    await blockstack.create(path, 64 * CLUSTER)
    async with blockstack.open(path, aio=aio) as image:
        with disk.hold(prefix) as hold:

            async def life() -> None:
                await image.pwritev(0, [data])
                await image.flush()

            living = asyncio.create_task(life())
            assert await asyncio.to_thread(hold.wait, 30)
            hold.fail()
            with pytest.raises(OSError, match=r".") as caught:
                await living
            assert caught.value.errno == errno.EIO
        await image.pwritev(0, [data])
        await image.pwritev(3 * CLUSTER, [b"w" * CLUSTER])
        await image.flush()
        assert await image.preadv(0, CLUSTER) == data


@pytest.mark.root
@engines
@pytest.mark.parametrize("fallocate", ["kernel", "legacy-xfs"])
def test_a_file_system_that_has_shut_down_is_an_error_and_no_hang(aio: str, fallocate: str) -> None:
    """fstat(2) fails too then: the journal lacks a size, and the request still ends."""
    journal = Journal()
    with loop_scratch("xfs", 320 * MIB, default_directory()) as scratch, scratch.new_file() as file:

        async def main() -> None:
            await blockstack.create(file.path, 64 * MIB, cluster_size=CLUSTER)
            async with blockstack.open(file.path, aio=aio, fallocate=fallocate, journal=journal) as disk:
                await disk.pwritev(0, [payload(1, CLUSTER)])
                shut_down(scratch.path)
                for request in (
                    disk.pwritev(0, [payload(2, CLUSTER)]),  # in place
                    disk.pwritev(8 * CLUSTER, [payload(3, 4096)]),  # a zero-write
                    disk.preadv(0, CLUSTER),
                    disk.flush(),
                ):
                    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                        await request

        with pytest.raises(OSError, match=os.strerror(errno.EIO)):  # of closing it
            run(main())
    writes = [entry for entry in journal.entries if entry.kind is Kind.WRITE]
    assert writes[-1].result == -errno.EIO
    assert writes[-1].size_end == UNKNOWN_SIZE
    assert all(entry.seq_end for entry in journal.entries)


def shut_down(mount_point: Path) -> None:
    """XFS_IOC_GOINGDOWN of fs/xfs/libxfs/xfs_fs.h, without writing the log."""
    descriptor = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, 0x8004587D, struct.pack("=I", 2))
    finally:
        os.close(descriptor)
