"""Zero-writes and discards of a qcow2 node: whole clusters change their mapping, the rest is written (QEMU:
qcow2_co_pwrite_zeroes, qcow2_co_pdiscard).
"""

import errno
from abc import abstractmethod
from collections.abc import Sequence

from blockstack.file_posix import FilePosix
from blockstack.node import Buffer, Node
from blockstack.qcow2.placing import Placing
from blockstack.requests import RequestType, TrackedRequest
from blockstack.settled import uninterrupted


class Zeroing(Placing):
    """That part of `Qcow2`."""

    backing: Node | None
    data: FilePosix
    _discard: bool

    @abstractmethod
    async def _pwritev_parts(self, offset: int, buffers: Sequence[Buffer]) -> None: ...

    async def _pwrite_zeroes(self, request: TrackedRequest, offset: int, length: int, *, unmap: bool) -> None:
        # Nobody else may be in clusters that are given back; QEMU leaves that to the guest.
        request.make_serialising(self.header.cluster_size)
        await self.tracker.wait_serialising(request)
        await uninterrupted(self._zero_parts(offset, length, unmap))

    async def _zero_parts(self, offset: int, length: int, unmap: bool) -> None:
        """Whole clusters by the zero flag, the ends by writing zeroes where the rest of the cluster has data (QEMU:
        bdrv_co_do_pwrite_zeroes over qcow2_co_pwrite_zeroes).
        """
        size = self.header.cluster_size
        at, end = offset, offset + length
        if self.header.version < 3 and self.backing is not None:
            raise OSError(errno.ENOTSUP, "version 2 has no zero clusters")
        while at < end:
            cluster = at // size
            if at % size == 0 and (end - at >= size or end == self.length):
                whole = -(-(end - at) // size) if end == self.length else (end - at) // size
                await self._zero_raw(at, min(end, at + whole * size), unmap)
                async with self._lock, self.mapping.holes():
                    while whole:
                        done = await self._zeroize_clusters(at // size, whole, unmap)
                        at, whole = at + done * size, whole - done
                continue
            count = min(end, (cluster + 1) * size) - at
            async with self._lock, self.mapping.holes():
                zero = await self._reads_as_zero(cluster)
                if zero:
                    await self._zero_raw(cluster * size, min((cluster + 1) * size, self.length), unmap)
                    await self._zeroize_clusters(cluster, 1, unmap)
            if not zero:
                await self._pwritev_parts(at, [bytes(count)])
            at += count

    async def _zeroize_clusters(self, cluster: int, limit: int, unmap: bool) -> int:
        """As `Mapping.zeroize`. Version 2 has no zero flag: without a backing file what is given back reads as zeroes,
        too (QEMU: qcow2_subcluster_zeroize, v5.1 and later).
        """
        if self.header.version < 3:
            return await self.mapping.discard(cluster, limit, backed=False)
        return await self.mapping.zeroize(cluster, limit, unmap=unmap)

    async def _reads_as_zero(self, cluster: int) -> bool:
        run = await self.mapping.run(cluster, 1)
        if run.zero or run.entry:
            return run.zero
        start = cluster * self.header.cluster_size
        return self.backing is None or self.backing.known_zero(start, self.header.cluster_size)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Give whole clusters in a range back, if the node was opened so; else keep the data, which is permitted.

        They read as zeroes afterwards. Partial clusters are kept, but for one at the end of the disk (QEMU:
        qcow2_co_pdiscard). Raises OSError, ImageError.
        """
        await super().pdiscard(offset, length)
        if not self._discard or (self.header.version < 3 and self.backing is not None):
            return
        size = self.header.cluster_size
        with self.tracker.track(TrackedRequest(offset, length, RequestType.ZERO_WRITE)) as request:
            request.make_serialising(size)
            await self.tracker.wait_serialising(request)
            # Only now: the disk may have another end than when it was asked for.
            end = min(offset + length, self.length)
            first, last = -(-offset // size), -(-end // size) if end == self.length else end // size
            if first < last:
                await uninterrupted(self._discard_parts(first, last))

    async def _discard_parts(self, first: int, last: int) -> None:
        size = self.header.cluster_size
        at, failed = first, self.data.failed_discards
        async with self._lock, self.mapping.holes():
            while at < last:
                at += await self.mapping.discard(at, last - at, backed=self.backing is not None)
        # A raw data file must read as zeroes also where not all of that became holes.
        holes = self.data.makes_holes and self.data.failed_discards == failed
        if not holes or size % self.data.request_alignment:
            await self._zero_raw(first * size, min(last * size, self.length), unmap=True)

    async def _zero_raw(self, start: int, end: int, unmap: bool) -> None:
        """What reads as zeroes is zero in a raw data file, too (QEMU: data_file_is_raw in qcow2_subcluster_zeroize).

        For a discard QEMU leaves that to the hole, also where a file system refuses to make it.
        """
        if self.header.data_file_raw:
            await self.data.pwrite_zeroes(start, end - start, unmap=unmap)
