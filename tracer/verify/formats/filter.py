"""`filter`: "raw and filters do not initiate zero-writes on their own".

Taken literally that is not so of copy-on-read, in QEMU as here: a cluster that its backing shows to be zero is stored
by a zero-write of the overlay. To the image file it is a flag in an L2 table.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import blockstack
from blockstack.disk import Disk
from blockstack.file_posix import FilePosix
from blockstack.filters import BlkDebug, CopyOnRead, Throttle
from blockstack.guest import Oracle
from blockstack.guest.mixed import Action, Choice, Profile
from blockstack.guest.stamp import payload
from blockstack.node import Node
from blockstack.qcow2 import Header, Qcow2
from tracer.verify.formats.raw import GrowingRaw, Raw
from tracer.verify.formats.subject import Stage, Subject, served

_IOPS = 1e9
"""A limit that nobody meets: the throttle counts, and holds nobody up."""

_HEADER_BYTES = 65536


def _filters(node: Node) -> Node:
    """Throttle and fault injection, with nothing to do."""
    return BlkDebug(Throttle(node, iops=_IOPS))


class FilteredRaw(Raw):
    """Filters over a raw image: no more zero-writes than the guest's, and all of them within the file."""

    format, case = "filter", "raw"

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The stack."""
        file = stage.file()
        file.growable = False
        async with served(_filters(file), file) as disk:
            yield disk


class FilteredGrowingRaw(GrowingRaw):
    """The same over a file that grows."""

    format, case = "filter", "raw"

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The stack."""
        file = stage.file()
        async with served(_filters(file), file) as disk:
            yield disk


class Overlay(Subject):
    """Copy-on-read and the other filters over a qcow2 overlay. The guest reads parts of clusters that the overlay does
    not have, writes whole ones and zeroes whole ones: whatever zeroes anything in the file is the filter's doing.

    The backing file covers the first third of the disk, three clusters of four with data.
    """

    format, case = "filter", "overlay"
    image_format = "qcow2"
    of_reads = True
    profile = Profile(
        fresh=(
            Choice(Action.READ, whole=False, weight=50),
            Choice(Action.ZERO, whole=True, weight=5),
            Choice(Action.WRITE, whole=True, weight=45),
        ),
        old=(
            Choice(Action.READ, whole=False, weight=50),
            Choice(Action.WRITE, whole=True, weight=30),
            Choice(Action.ZERO, whole=True, weight=20),
        ),
    )

    async def make(self, stage: Stage) -> None:
        """The overlay and its backing file."""
        size, plan = stage.plan.cluster_size, stage.plan
        clusters = max(1, plan.size // size // 3)
        os.ftruncate(stage.other.fd, clusters * size)
        for cluster in _with_data(clusters):
            os.pwrite(stage.other.fd, payload(plan.past, cluster * size, size), cluster * size)
        await blockstack.create(
            stage.image.path,
            plan.size,
            cluster_size=size,
            backing_file=str(stage.other.path),
            backing_format="raw",
        )

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The stack."""
        size = stage.plan.cluster_size
        for cluster in _with_data(stage.other.size // size):
            oracle.acknowledge(stage.plan.past, cluster * size, size)
        file = stage.file()
        head = await file.preadv(0, min(file.length, _HEADER_BYTES))
        backing = FilePosix(stage.other.path, aio="threads", strategy=stage.strategy, read_only=True, direct=False)
        node = await Qcow2.open(Header.parse(head, file.length), file, backing, read_only=False)
        async with served(_filters(self._copying(node)), file) as disk:
            yield disk

    def _copying(self, node: Node) -> CopyOnRead:
        return CopyOnRead(node)


def _with_data(clusters: int) -> list[int]:
    """Clusters of the backing file that are not zero."""
    return [cluster for cluster in range(clusters) if cluster % 4]


class PartialCopyOnRead(CopyOnRead):
    """Stores what was read, and no more, as data."""

    def _rounded(self, offset: int, length: int) -> tuple[int, int]:
        return offset, offset + length

    async def _copy(self, offset: int, length: int) -> None:
        await self.child.pwritev(offset, [await self.child.preadv(offset, length)])
        self.copied += length


class PartialOverlay(Overlay):
    """The same guest over a copy-on-read that leaves qcow2 something to zero."""

    variant = "copies parts"

    def _copying(self, node: Node) -> CopyOnRead:
        return PartialCopyOnRead(node)
