"""`raw`: "raw images are fixed in size so post-EOF writes won't happen"."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import blockstack
from blockstack.disk import Disk
from blockstack.guest import Oracle
from tracer.verify.formats.subject import Stage, Subject, served


class Raw(Subject):
    """A raw image of the disk's full length. The guest's zero-writes and discards reach it as fallocates."""

    format = image_format = "raw"

    async def make(self, stage: Stage) -> None:
        """A sparse file."""
        await blockstack.create(stage.image.path, stage.plan.size, format="raw")

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The file node itself is the disk."""
        file = stage.file()
        file.growable = False
        async with served(file, file) as disk:
            yield disk


class GrowingRaw(Raw):
    """The same guest on a file that begins with one cluster: what raw would be if it were not fixed in size."""

    variant = "growing"

    async def make(self, stage: Stage) -> None:
        """A short file; of an empty one nobody can tell how O_DIRECT wants its requests aligned."""
        os.ftruncate(stage.image.fd, stage.plan.cluster_size)

    @asynccontextmanager
    async def opened(self, stage: Stage, oracle: Oracle) -> AsyncIterator[Disk]:
        """The file node, growing as it does below a format."""
        file = stage.file()
        async with served(file, file) as disk:
            yield disk
