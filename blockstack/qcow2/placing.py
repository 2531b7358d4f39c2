"""Where a guest write goes: as far as the file is contiguous, over clusters that may be written in place and new ones
(QEMU: qcow2_alloc_host_offset, handle_copied, handle_alloc).
"""

import asyncio
from contextlib import suppress
from dataclasses import replace

from blockstack.errors import ImageError
from blockstack.mutex import Mutex
from blockstack.node import Node
from blockstack.qcow2.allocation import Allocation, Part
from blockstack.qcow2.data_file import DataClusters
from blockstack.qcow2.header import OFFSET_MASK, Header
from blockstack.qcow2.mapping import Mapping, Run


class Placing(Node):
    """That part of `Qcow2`."""

    header: Header
    clusters: DataClusters
    mapping: Mapping
    allocations: list[Allocation]
    _lock: Mutex

    async def _place(self, offset: int, length: int) -> Part:
        """The first part of a write. Waits for an allocation in flight of the same clusters. Raises OSError,
        ImageError.
        """
        while True:
            async with self._lock:
                count, dependency = self._dependency(offset, length)
                if dependency is None:
                    return await self._gather(offset, count)
                done = asyncio.get_running_loop().create_future()
                dependency.dependents.append(done)
            await done

    def _dependency(self, offset: int, length: int) -> tuple[int, Allocation | None]:
        """How much of the write no allocation in flight touches, and whom to wait for if none (QEMU:
        handle_dependencies).
        """
        size = self.header.cluster_size
        for other in self.allocations:
            start = other.guest_cluster * size
            end = start + other.clusters * size
            if offset + length <= start or offset >= end:
                continue
            if offset >= start:
                return 0, other
            length = start - offset
        return length, None

    async def _gather(self, offset: int, length: int) -> Part:
        part = Part(0, 0, [])
        try:
            while part.length < length:
                at = offset + part.length
                host = part.host + part.length if part.length else None
                runs = await self._runs(at, length - part.length)
                if _in_place(runs[0]):
                    found = await self._kept(runs, at, length - part.length, host)
                else:
                    found = await self._new(runs, at, length - part.length, host)
                if found is None:
                    break
                part.allocations.extend(found.allocations)
                part = Part(part.host if part.length else found.host, part.length + found.length, part.allocations)
        except BaseException:
            for allocation in part.allocations:
                await self._forget(allocation)
            raise
        return part

    async def _runs(self, offset: int, length: int) -> list[Run]:
        """What is there, as far as all of it is written in place to neighbouring clusters, or none of it."""
        size = self.header.cluster_size
        first, last = offset // size, -(-(offset + length) // size)
        last = min(last, first - first % self.header.l2_entries + self.header.l2_entries)  # within one L2 table
        runs: list[Run] = []
        at, expected = first, 0
        while at < last:
            run = await self.mapping.run(at, last - at)
            if runs and (_in_place(run) != _in_place(runs[0]) or (_in_place(run) and _host(run) != expected)):
                break
            runs.append(run)
            at += run.clusters
            expected = _host(run) + run.clusters * size
        return runs

    async def _kept(self, runs: list[Run], offset: int, length: int, wanted: int | None) -> Part | None:
        """Allocated clusters. Those that read as zeroes have to be linked anew, and zeroed around the data."""
        size = self.header.cluster_size
        clusters = sum(run.clusters for run in runs)
        host = _host(runs[0])
        if wanted is not None and host != wanted:
            return None
        self.clusters.check(host, clusters * size)
        count = min(length, clusters * size - offset % size)
        part = Part(host + offset % size, count, [])
        if self._needs_link(runs, offset, count):
            part.allocations.append(self._allocation(runs, host, offset, count, kept=True))
        return part

    def _needs_link(self, runs: list[Run], offset: int, length: int) -> bool:
        """Whether a write to allocated clusters changes what their entries say."""
        return any(run.zero for run in runs)

    async def _new(self, runs: list[Run], offset: int, length: int, wanted: int | None) -> Part | None:
        size = self.header.cluster_size
        clusters = sum(run.clusters for run in runs)
        for run in runs:
            if run.entry:
                self.mapping.extent(run.entry, run.clusters)  # checked before anything is written
        # The L2 table comes first, as in QEMU's get_cluster_table: linking needs no allocation then.
        await self.mapping.table_for_write(offset // size)
        if wanted is None:
            host, clusters = await self.clusters.allocate(offset // size, clusters)
        else:
            host, clusters = wanted, await self.clusters.allocate_at(wanted, clusters)
            if not clusters:
                return None
        count = min(length, clusters * size - offset % size)
        return Part(host + offset % size, count, [self._allocation(_first(runs, clusters), host, offset, count)])

    def _allocation(self, runs: list[Run], host: int, offset: int, length: int, *, kept: bool = False) -> Allocation:
        """An allocation in flight (QEMU: calculate_l2_meta). What is kept needs nothing around the data where it holds
        data.
        """
        size = self.header.cluster_size
        head, tail = self._around(runs, offset, length, kept)
        allocation = Allocation(
            guest_cluster=offset // size,
            clusters=sum(run.clusters for run in runs),
            host=host,
            guest_offset=offset,
            length=length,
            head=head,
            tail=tail,
            replaced=runs,
            kept=kept,
        )
        self.allocations.append(allocation)
        return allocation

    def _around(self, runs: list[Run], offset: int, length: int, kept: bool) -> tuple[int, int]:
        """Bytes before and behind the data that have to come from elsewhere."""
        size = self.header.cluster_size
        head = offset % size if runs[0].zero or not kept else 0
        return head, -(offset + length) % size if runs[-1].zero or not kept else 0

    async def _forget(self, allocation: Allocation) -> None:
        """Give up an allocation that was not linked (QEMU: qcow2_alloc_cluster_abort), under the lock.

        The refcounts go back before anybody can see the allocation gone. Where that fails the clusters are leaked: what
        the guest is told is why they were given up.
        """
        try:
            if not allocation.kept:
                with suppress(OSError, ImageError):
                    await self.clusters.abort(allocation.host, allocation.clusters)
        finally:
            self._end(allocation)

    def _end(self, allocation: Allocation) -> None:
        self.allocations.remove(allocation)
        for dependent in allocation.dependents:
            if not dependent.done():
                dependent.set_result(None)


def _in_place(run: Run) -> bool:
    """Whether a write needs no new clusters there (QEMU: cluster_needs_new_alloc)."""
    return run.copied


def _host(run: Run) -> int:
    return run.entry & OFFSET_MASK


def _first(runs: list[Run], clusters: int) -> list[Run]:
    """`runs` cut down to `clusters` clusters."""
    taken: list[Run] = []
    for run in runs:
        if clusters:
            count = min(run.clusters, clusters)
            taken.append(run if count == run.clusters else replace(run, clusters=count))
            clusters -= count
    return taken
