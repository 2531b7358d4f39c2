"""A guest that makes the race as likely as a guest can: fresh clusters, sub-cluster and full writes mixed, many in
flight.

A sub-cluster write to a fresh cluster has qcow2 zero-write it (a post-EOF fallocate); a full-cluster write needs no
zeroes and goes out by itself, behind it. Clusters are taken from many L2 regions, so that new L2 tables, too, are
written behind zero-writes. Some writes straddle two clusters (`qemu-img bench -o 1k -s 64k` of the thread), some share
a cluster with a recent one (a dependency on an allocation in flight), some overwrite old data, and now and then
the guest flushes.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from blockstack.guest.oracle import SECTOR, Oracle
from blockstack.guest.stamp import MAX_DISK, payload
from blockstack.journal import GUEST_SHIFT, Journal, Kind, guest_request
from blockstack.node import Buffer

DEPTH = 16
"""Guest writes in flight at once."""

FLUSH_EVERY = 100
"""Writes from one flush of the guest to the next."""

MIN_CLUSTER = 4096
"""A smaller cluster has no room for a part of it that is still a multiple of SECTOR blocks."""

_STRETCH = 4
"""Writes of a stretch, in units of the depth; a stretch is sent in bursts, or in a steady stream."""

_WRITES_PER_REGION = DEPTH // 2
"""Guest writes to each L2 region, on average: one boundary between two new regions for each burst."""


class Disk(Protocol):
    """What the guest writes to: `blockstack.Disk`, or another driver's."""

    async def pwritev(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write `buffers` one behind the other at `offset`. Raises OSError."""

    async def flush(self) -> None:
        """Make everything acknowledged so far stable. Raises OSError."""


@dataclass(frozen=True, slots=True)
class GuestWrite:
    """One write; `number` counts from 1, offset and length in bytes are multiples of SECTOR."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the guest will do. `size` is the disk's, in bytes."""

    seed: int
    cluster_size: int
    size: int
    writes: tuple[GuestWrite, ...]

    @property
    def bytes_allocated(self) -> int:
        """Bytes of image that the plan fills at most, metadata included."""
        size = self.cluster_size
        touched = {
            cluster
            for write in self.writes
            for cluster in range(write.offset // size, -(-(write.offset + write.length) // size))
        }
        return (len(touched) + 2 * self.size // (size * size // 8) + 8) * size


def make_plan(seed: int, writes: int, cluster_size: int = 65536) -> Plan:
    """The plan for a seed: the same on every host. Raises ValueError where cluster size and count do not fit
    together.
    """
    if cluster_size < MIN_CLUSTER:
        raise ValueError(f"a workload needs clusters of at least {MIN_CLUSTER} bytes")
    per_region = cluster_size // 8
    regions = max(2, writes // _WRITES_PER_REGION, -(-writes * 4 // per_region))
    size = regions * per_region * cluster_size
    if size > MAX_DISK:
        size = MAX_DISK
        regions = size // (per_region * cluster_size)
        if regions < 1 or regions * per_region < writes * 4:
            raise ValueError("so many writes of clusters of this size do not fit on the largest disk")
    return Plan(seed, cluster_size, size, tuple(_Planner(seed, cluster_size, regions, writes).plan()))


class _Planner:
    """Draws the writes of a plan."""

    def __init__(self, seed: int, cluster_size: int, regions: int, writes: int) -> None:
        self._random = random.Random(seed)
        self._cluster_size = cluster_size
        self._per_region = cluster_size // 8
        self._regions = regions
        self._writes = writes
        self._unit = 4096 if cluster_size >= 8192 else SECTOR
        self._boundaries = iter(range(1, regions, 2))
        self._used: set[int] = set()
        self._done: list[GuestWrite] = []

    def plan(self) -> list[GuestWrite]:
        while len(self._done) < self._writes:
            count = min(DEPTH, self._writes - len(self._done))
            # First, since that goes alone: the new L2 table is written at once, behind a cluster whose zero-write
            # starts a moment later.
            boundary = next(self._boundaries, None)
            led = [] if boundary is None else [self._across(boundary)]
            drawn = [self._draw(len(self._done) + 1) for _ in range(count - len(led))]
            # What needs no zero-write goes last, so that it is allocated behind all that does.
            drawn.sort(key=lambda write: write[0] % self._cluster_size == write[1] % self._cluster_size == 0)
            drawn = led + drawn
            self._done.extend(
                GuestWrite(number, offset, length)
                for number, (offset, length) in enumerate(drawn, start=len(self._done) + 1)
            )
        return self._done

    def _draw(self, number: int) -> tuple[int, int]:
        size, choose = self._cluster_size, self._random.random()
        if choose < 0.06 and number > 4 * DEPTH:
            old = self._done[self._random.randrange(number - 2 * DEPTH)]
            return old.offset, old.length
        if choose < 0.12 and self._done:
            recent = self._done[-self._random.randint(1, min(4, len(self._done)))]
            rest = self._rest_of_cluster(recent)
            if rest is not None:
                return rest
        if choose < 0.19:
            return self._fresh(2) * size + 1024, size
        if choose < 0.54:
            clusters = self._random.choice((1, 1, 2, 4))
            return self._fresh(clusters) * size, clusters * size
        unit = self._unit if self._random.random() < 0.9 else SECTOR
        length = unit * self._random.randint(1, max(1, size // unit // 2))
        start = unit * self._random.randint(0, (size - length) // unit)
        return self._fresh(1) * size + start, length

    def _across(self, region: int) -> tuple[int, int]:
        """From within the last cluster before an L2 region over its first one, which the first write opens."""
        size, first = self._cluster_size, region * self._per_region
        self._used.update((first - 1, first))
        head = self._unit * self._random.randint(1, max(1, size // self._unit // 2))
        return first * size - head, head + self._random.choice((self._unit, size))

    def _rest_of_cluster(self, write: GuestWrite) -> tuple[int, int] | None:
        """A part of the last cluster of `write` that it leaves free, or None."""
        size, end = self._cluster_size, write.offset + write.length
        if end % size >= SECTOR and end % size <= size - SECTOR:
            return end, min(self._unit, size - end % size)
        return None

    def _fresh(self, count: int) -> int:
        """The first of `count` neighbouring clusters that nothing was written to, one more region now and then.

        The first and last cluster of a region are left to writes across its boundary.
        """
        opened = 1 + len(self._done) * self._regions // self._writes
        while True:
            region = opened - 1 if self._random.random() < 0.3 else self._random.randrange(opened)
            first = region * self._per_region + self._random.randrange(1, self._per_region - count)
            clusters = range(first, first + count)
            if not self._used.intersection(clusters):
                self._used.update(clusters)
                return first


async def run(
    disk: Disk,
    plan: Plan,
    *,
    depth: int = DEPTH,
    journal: Journal | None = None,
    progress: Callable[[int], None] | None = None,
) -> Oracle:
    """Play the plan with `depth` writes in flight.

    For three quarters of the plan the guest sends `depth` writes at once when the last ones have ended, as one that
    plugs its queue does: then fallocates and writes reach the kernel together most often. The first of each burst,
    which takes a new L2 table most often, goes alone in every other one, so that the others wait for no metadata; else
    it goes in the middle, so that its table is written while zero-writes are in flight (QEMU has the table stable
    before it writes the data that it is for). For a quarter of the plan the guest keeps `depth` in flight.
    Writes go out in the plan's order; one that overlaps a write in flight waits for it, as a guest would, since the
    result would be undefined. `progress` is called with the number of writes acknowledged. Returns the oracle of what
    was acknowledged. Raises what a write raises.
    """
    guest = _Guest(disk, plan.cluster_size, journal, progress)
    for start in range(0, len(plan.writes), _STRETCH * depth):
        stretch = plan.writes[start : start + _STRETCH * depth]
        in_bursts = start // (_STRETCH * depth) % 4 != 3
        for part in range(0, len(stretch), depth if in_bursts else len(stretch)):
            if in_bursts:
                burst = stretch[part : part + depth]
                if part // depth % 2:
                    middle = len(burst) // 2 + 1
                    await guest.play([*burst[1:middle], burst[0], *burst[middle:]], depth)
                else:
                    await guest.play(burst[:1], 1)
                    await guest.play(burst[1:], depth)
            else:
                await guest.play(stretch, depth)
    return guest.oracle


class _Guest:
    """The state that the workers share."""

    def __init__(
        self, disk: Disk, cluster_size: int, journal: Journal | None, progress: Callable[[int], None] | None
    ) -> None:
        self.oracle = Oracle(cluster_size)
        self._disk = disk
        self._journal = journal
        self._progress = progress
        self._todo: Iterator[GuestWrite] = iter(())
        self._payloads: dict[int, bytes] = {}
        self._in_flight: dict[int, tuple[GuestWrite, asyncio.Event]] = {}
        self._acknowledged = 0

    async def play(self, writes: Sequence[GuestWrite], depth: int) -> None:
        """Keep up to `depth` of `writes` in flight until all are acknowledged."""
        # Made before the first one goes out: they take longer than the writes, which would then trickle.
        self._payloads = {write.number: payload(write.number, write.offset, write.length) for write in writes}
        self._todo = iter(writes)
        async with asyncio.TaskGroup() as group:
            for _ in range(depth):
                group.create_task(self.work())

    async def work(self) -> None:
        for write in self._todo:
            while (blocker := self._overlapping(write)) is not None:
                await blocker.wait()
            await self._write(write)
            self._acknowledged += 1
            if self._progress is not None:
                self._progress(self._acknowledged)
            if write.number % FLUSH_EVERY == 0:
                await self._disk.flush()

    async def _write(self, write: GuestWrite) -> None:
        done = asyncio.Event()
        self._in_flight[write.number] = write, done
        guest_request.set(write.number)
        entry = None
        if self._journal is not None:
            entry = self._journal.begin(
                Kind.GUEST_WRITE, write.offset, write.length, request=write.number << GUEST_SHIFT
            )
        try:
            await self._disk.pwritev(write.offset, [self._payloads.pop(write.number)])
            self.oracle.acknowledge(write.number, write.offset, write.length)
            if self._journal is not None and entry is not None:
                self._journal.end(entry, write.length)
        finally:
            guest_request.set(0)
            del self._in_flight[write.number]
            done.set()

    def _overlapping(self, write: GuestWrite) -> asyncio.Event | None:
        for other, done in self._in_flight.values():
            if other.offset < write.offset + write.length and write.offset < other.offset + other.length:
                return done
        return None
