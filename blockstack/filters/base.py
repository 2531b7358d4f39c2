"""What all filters share: every request goes to the child as it came."""

from collections.abc import Sequence

from blockstack.block_status import BlockStatus
from blockstack.node import Buffer, Node
from blockstack.requests import RequestType, TrackedRequest


class Filter(Node):
    """A node over `child`, which it owns. Subclasses override `_admit`, or what they do otherwise.

    Flags go through: whether a zero-write may fall back to writing is for the child to know (QEMU: a filter's
    supported_zero_flags are its child's).
    """

    def __init__(self, child: Node) -> None:
        super().__init__(child.length, read_only=child.read_only)
        self.growable = child.growable
        self.child = child

    async def _admit(self, kind: RequestType, offset: int, length: int) -> None:
        """Called before a request goes to the child: may wait, or raise OSError."""

    async def _preadv(self, request: TrackedRequest, offset: int, length: int) -> bytes:
        await self._admit(RequestType.READ, offset, length)
        return await self.child.preadv(offset, length)

    async def _pwritev(self, request: TrackedRequest, offset: int, buffers: Sequence[Buffer]) -> None:
        await self._admit(RequestType.WRITE, offset, sum(len(buffer) for buffer in buffers))
        await self.child.pwritev(offset, buffers, metadata=request.metadata)

    async def pwrite_zeroes(
        self, offset: int, length: int, *, unmap: bool = False, fallback: bool = True, metadata: bool = False
    ) -> None:
        """As any node's."""
        self._check(offset, length, extend=self.growable)
        self._check_writable()
        if length == 0:
            return
        with self.tracker.track(TrackedRequest(offset, length, RequestType.ZERO_WRITE, metadata=metadata)) as request:
            await self.tracker.wait_serialising(request)
            await self._admit(RequestType.ZERO_WRITE, offset, length)
            await self.child.pwrite_zeroes(offset, length, unmap=unmap, fallback=fallback, metadata=metadata)
            self._wrote(offset + length)

    async def pdiscard(self, offset: int, length: int) -> None:
        """As the child's."""
        await super().pdiscard(offset, length)
        with self.tracker.track(TrackedRequest(offset, length, RequestType.DISCARD)) as request:
            await self.tracker.wait_serialising(request)
            await self._admit(RequestType.DISCARD, offset, length)
            await self.child.pdiscard(offset, length)

    def known_zero(self, offset: int, length: int) -> bool:
        """As the child's."""
        return self.child.known_zero(offset, length)

    async def block_status(self, offset: int, length: int) -> BlockStatus:
        """As the child's."""
        return await self.child.block_status(offset, length)

    async def _flush(self) -> None:
        await self._admit(RequestType.FLUSH, 0, 0)
        await self.child.flush()

    async def _close(self) -> None:
        await self.child.close()
