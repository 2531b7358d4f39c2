"""`mirror`: "block jobs and guests are limited to generally fixed-size disks, so I don't see a way to generate
zero-writes beyond the EOF there".

A disk is fixed in size, and its image file may grow. What is watched is the target's.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import blockstack
from blockstack.disk import Disk
from blockstack.file_posix import FilePosix
from blockstack.guest import Oracle
from blockstack.guest.mixed import run_mixed
from blockstack.guest.stamp import payload
from blockstack.jobs import Mirror, MirrorTop
from blockstack.qcow2 import Header, Qcow2
from blockstack.strategies import CONTROL, STRATEGIES
from tracer.verify.formats.subject import Stage, Subject, leave, served
from tracer.verify.play import Run, delays

_HEADER_BYTES = 65536
_PART = 4096
"""Bytes; what is on the source before has holes of this size."""


class MirrorToRaw(Subject):
    """To a raw target of the source's length, as drive-mirror makes it, while the guest writes to the source.

    The source is a raw file: full clusters, clusters with data in a part of them, and holes.
    """

    format, case = "mirror", "raw"
    image_format = "raw"
    untouched = 1  # what is copied once is what meets most
    _granularity: int | None = None
    _cluster_size = 65536  # bytes, of the target if it has any
    _full, _partial = 0.4, 0.1
    """Of as many bytes of the source each, before the guest begins, how many have data everywhere, or in a part."""

    async def make(self, stage: Stage) -> None:
        """Source and target."""
        os.ftruncate(stage.other.fd, stage.plan.size)
        for offset, length in self.past(stage):
            os.pwrite(stage.other.fd, payload(stage.plan.past, offset, length), offset)
        await self._make_target(stage)

    def past(self, stage: Stage) -> list[tuple[int, int]]:
        """What is on the source before the guest begins: ranges (offset, length)."""
        size = max(stage.plan.cluster_size, self._cluster_size)
        chosen = random.Random(stage.plan.seed)
        ranges = []
        for cluster in range(stage.plan.size // size):
            choice = chosen.random()
            if choice < self._full:
                ranges.append((cluster * size, size))
            elif choice < self._full + self._partial:
                parts = chosen.randint(1, max(1, size // _PART // 2))
                ranges.append((cluster * size + _PART * chosen.randint(0, size // _PART - parts), parts * _PART))
        return ranges

    async def _make_target(self, stage: Stage) -> None:
        await blockstack.create(stage.image.path, stage.plan.size, format="raw")

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The target."""
        file = stage.file()
        file.growable = False
        async with served(file, file) as disk:
            yield disk

    async def play(self, stage: Stage) -> Run:
        """Guest and job at the same time, until both disks are the same."""
        before = delays()
        oracle = Oracle(stage.plan.cluster_size)
        for offset, length in self.past(stage):
            oracle.acknowledge(stage.plan.past, offset, length)
        async with self.opened(stage, oracle) as target, _source(stage) as source:
            top = source.node
            assert isinstance(top, MirrorTop)
            job = Mirror(top, target.node, granularity=self._granularity, unmap=False, journal=stage.journal)
            async with asyncio.TaskGroup() as group:
                group.create_task(job.run())
                await run_mixed(source, stage.plan, oracle, progress=stage.progress)
                job.complete()
            return await leave(target.node, oracle, before)


def _source(stage: Stage) -> AbstractAsyncContextManager[Disk]:
    ground = stage.ground
    strategy = STRATEGIES[CONTROL]
    file = FilePosix(stage.other.path, aio=ground.aio, strategy=strategy, direct=ground.direct, discard=True)
    file.growable = False
    return served(MirrorTop(file), file)


class MirrorToUnsized(MirrorToRaw):
    """The same to a file that nobody has given its length."""

    variant = "growing"

    async def _make_target(self, stage: Stage) -> None:
        os.ftruncate(stage.image.fd, stage.plan.cluster_size)

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The target, which says it were as long as the source."""
        file = stage.file()
        file.length = stage.plan.size
        async with served(file, file) as disk:
            yield disk


class MirrorToQcow2(MirrorToRaw):
    """To a qcow2 image, which grows: one bit of the bitmap is one cluster."""

    case = "qcow2"
    image_format = "qcow2"
    untouched = 3
    _full, _partial = 0.35, 0.5

    async def _make_target(self, stage: Stage) -> None:
        await blockstack.create(stage.image.path, stage.plan.size, cluster_size=self._cluster_size)

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The target."""
        file = stage.file()
        header = Header.parse(await file.preadv(0, min(file.length, _HEADER_BYTES)), file.length)
        node = await Qcow2.open(header, file, None, read_only=False)
        async with served(node, file) as disk:
            yield disk


class MirrorInParts(MirrorToQcow2):
    """The same in parts of clusters, which qcow2 zeroes before it writes into them."""

    variant = "4 KiB bits"
    _granularity = _PART


class MirrorToLargeClusters(MirrorToQcow2):
    """To clusters larger than the largest bit that QEMU chooses by itself, which is 64 KiB."""

    case = "qcow2-128k"
    untouched = 7  # half the clusters, half the pairs
    _cluster_size = 131072


class MirrorToLargeInParts(MirrorToLargeClusters):
    """The same in yet smaller parts."""

    variant = "4 KiB bits"
    _granularity = _PART
