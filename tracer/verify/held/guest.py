"""The guest of a chosen schedule: writes one by one, each stamped, and an oracle of what was acknowledged."""

import asyncio
import errno
import functools
from dataclasses import dataclass

import blockstack
from blockstack.guest import GuestWrite, Oracle
from blockstack.guest.stamp import payload
from blockstack.journal import GUEST_SHIFT, Journal, Kind, guest_request

PREFIX = 64
"""Bytes of a stamped payload that tell it from everything else on the disk: no file system writes stamps."""


@dataclass(eq=False, slots=True)
class Sent:
    """A write under way."""

    write: GuestWrite
    task: "asyncio.Task[None]"

    @property
    def number(self) -> int:
        """Of the guest request."""
        return self.write.number

    @property
    def failure(self) -> BaseException | None:
        """What it ended with; None while it runs, or if it was acknowledged."""
        if not self.task.done():
            return None
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()


class Guest:
    """Draws places on the guest's disk that nobody has written to, and writes there."""

    def __init__(self, disk: blockstack.Disk, cluster_size: int, journal: Journal) -> None:
        self.oracle = Oracle(cluster_size)
        self.sent: list[Sent] = []
        self._disk = disk
        self._size = cluster_size
        self._per_region = cluster_size // 8  # clusters that one L2 table maps
        self._journal = journal
        self._cluster = 0  # the next one of region 0
        self._region = 1  # the next region without a table
        self._acknowledged = 0
        self._numbers = 0

    @property
    def acknowledged(self) -> int:
        """Writes that were."""
        return self._acknowledged

    def fresh(self, length: int) -> GuestWrite:
        """A write of `length` bytes (at most a cluster) from the start of the next cluster that has an L2 table."""
        at, self._cluster = self._cluster, self._cluster + 1
        return self._new(at * self._size, length)

    def fresh_region(self, clusters: int = 1) -> GuestWrite:
        """A write of whole clusters that needs a new L2 table."""
        at, self._region = self._region, self._region + 1
        return self._new(at * self._per_region * self._size, clusters * self._size)

    @property
    def per_region(self) -> int:
        """Clusters that one L2 table maps."""
        return self._per_region

    def send(self, write: GuestWrite) -> Sent:
        """Issue it; its first step runs in the next turn of the event loop."""
        sent = Sent(write, asyncio.create_task(self._write(write)))
        self.sent.append(sent)
        return sent

    async def write(self, write: GuestWrite) -> None:
        """Issue it and wait for the acknowledgement. Raises OSError."""
        await self.send(write).task

    def _new(self, offset: int, length: int) -> GuestWrite:
        self._numbers += 1
        return GuestWrite(self._numbers, offset, length)

    async def _write(self, write: GuestWrite) -> None:
        guest_request.set(write.number)
        data = _payload(write)
        entry = self._journal.begin(Kind.GUEST_WRITE, write.offset, write.length, request=write.number << GUEST_SHIFT)
        result = -errno.ECANCELED
        try:
            await self._disk.pwritev(write.offset, [data])
            self.oracle.acknowledge(write.number, write.offset, write.length)
            result = write.length
        except OSError as error:
            result = -(error.errno or errno.EIO)
            raise
        finally:
            self._journal.end(entry, result)
        self._acknowledged += 1


def prefix(write: GuestWrite) -> bytes:
    """What its data begins with on the disk."""
    return payload(write.number, write.offset, PREFIX)


@functools.lru_cache(maxsize=16)
def _payload(write: GuestWrite) -> bytes:
    """The same writes come in every cell of a case, and the large ones take longer to stamp than to write."""
    return payload(write.number, write.offset, write.length)
