"""`parallels`: "does so before writes can happen to that area. So with parallels, it's impossible to get a data write
behind an ongoing zero-write".
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import blockstack
from blockstack.disk import Disk
from blockstack.guest import Oracle
from blockstack.guest.mixed import Action, Choice, Profile
from blockstack.parallels import Header, Parallels
from tracer.verify.formats.subject import Stage, Subject, served

_HEADER_BYTES = 65536


class ParallelsImage(Subject):
    """The file grows by the least that QEMU allows (prealloc-size of one cluster), so that it grows often."""

    format = image_format = "parallels"
    profile = Profile(
        fresh=(
            Choice(Action.WRITE, whole=False, weight=50),
            Choice(Action.ZERO, whole=False, weight=5),
            Choice(Action.WRITE, whole=True, weight=45),
        ),
        old=(
            Choice(Action.WRITE, whole=False, weight=60),
            Choice(Action.ZERO, whole=False, weight=20),
            Choice(Action.READ, whole=False, weight=20),
        ),
    )
    _driver: type[Parallels] = Parallels

    async def make(self, stage: Stage) -> None:
        """An empty image."""
        size = stage.plan.cluster_size
        await blockstack.create(stage.image.path, stage.plan.size, format="parallels", cluster_size=size)

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The node over the file."""
        file = stage.file()
        header = Header.parse(await file.preadv(0, min(file.length, _HEADER_BYTES)), file.length)
        node = await self._driver.open(header, file, read_only=False, prealloc_size=stage.plan.cluster_size)
        async with served(node, file) as disk:
            yield disk


class UnlockedParallels(Parallels):
    """Zeroes as qcow2's handle_alloc_space() does: its own new clusters, if it does not fill them, and nobody waits."""

    async def host_offset(self, offset: int, length: int) -> tuple[int, int]:
        """Where the first part of a write goes, and its length in bytes; allocates."""
        async with self._lock:
            host, count = self._run(offset, length)
            if host is not None:
                return host, count
            size = self.header.cluster_size
            first, last = offset // size, -(-(offset + count) // size)
            host = self._take(first, last - first)
        if offset % size or count % size:
            await self._extend(host, (last - first) * size)
        return host + offset % size, count


class UnlockedImage(ParallelsImage):
    """The same guest on that."""

    variant = "unlocked"
    _driver = UnlockedParallels
