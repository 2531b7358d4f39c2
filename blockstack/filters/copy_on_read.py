"""`copy-on-read`: what is read from a backing node is stored in the overlay (QEMU: block/copy-on-read.c,
bdrv_co_do_copy_on_readv in block/io.c).
"""

import errno

from blockstack.filters.base import Filter
from blockstack.node import Node
from blockstack.qcow2 import Qcow2
from blockstack.requests import RequestType, TrackedRequest

MAX_BOUNCE = 64 << 10
"""Bytes copied at once, or one cluster if that is larger (QEMU: MAX_BOUNCE_BUFFER is 32768 sectors)."""


class CopyOnRead(Filter):
    """Over a qcow2 node. It stores whole clusters, so that the overlay has nothing to copy or zero around them.

    It is a filter that starts zero-writes of its own: a cluster that its backing shows to be zero is stored by a
    zero-write *to the overlay*, where that is a flag in an L2 entry; the image file sees none.
    """

    def __init__(self, child: Node) -> None:
        """Raises OSError(EACCES) over a node that cannot be written, OSError(ENOTSUP) over one without clusters."""
        super().__init__(child)
        self._check_writable()
        overlay = child
        while isinstance(overlay, Filter):
            overlay = overlay.child
        if not isinstance(overlay, Qcow2):
            raise OSError(errno.ENOTSUP, "copy-on-read needs an overlay")
        self._cluster_size = overlay.header.cluster_size
        self.copied = 0  # bytes stored so far

    def _rounded(self, offset: int, length: int) -> tuple[int, int]:
        """Start and end of what is stored when a range is read (QEMU: bdrv_round_to_clusters)."""
        size = self._cluster_size
        end = offset + length
        return offset - offset % size, min(self.length, end + -end % size)

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        # Touching the same cluster counts as an overlap (QEMU: bdrv_aligned_preadv).
        request.make_serialising(self._cluster_size)
        await self.tracker.wait_serialising(request)
        await self._admit(RequestType.READ, offset, length)
        at, end = self._rounded(offset, length)
        while at < end:
            status = await self.child.block_status(at, min(end - at, max(MAX_BOUNCE, self._cluster_size)))
            if not status.allocated:
                await self._copy(at, status.length)
            at += status.length
        return await self.child.preadv(offset, length)

    async def _copy(self, offset: int, length: int) -> None:
        data = await self.child.preadv(offset, length)
        if data.count(0) == length:
            await self.child.pwrite_zeroes(offset, length)
        else:
            await self.child.pwritev(offset, [data])
        self.copied += length
