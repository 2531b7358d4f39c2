"""Tracked requests: which requests of a node are in flight, and which of them must wait for which.

This is QEMU's `BdrvTrackedRequest` and its rules (block/io.c, 4.2 to 9.2): a request waits for every overlapping one
where either of the two is serialising, skips one that is itself waiting (which would deadlock), and looks again after
each wait.
"""

import asyncio
import enum
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from blockstack.journal import Entry, Journal, Kind, RequestFlag

MAX_LENGTH = 2**63 - 1
"""The largest file length, where a stretched request ends (QEMU: BDRV_MAX_LENGTH, up to alignment)."""


class RequestType(enum.Enum):
    """What a request does to its range."""

    READ = enum.auto()
    WRITE = enum.auto()
    ZERO_WRITE = enum.auto()
    FLUSH = enum.auto()


@dataclass(eq=False, slots=True)
class TrackedRequest:
    """A request in flight on one node. Offsets and lengths in bytes."""

    offset: int
    length: int
    type: RequestType
    metadata: bool = False
    id: int = 0
    serialising: bool = False
    overlap_offset: int = 0
    overlap_end: int = 0
    waiting_for: "TrackedRequest | None" = None
    waiters: list["asyncio.Future[None]"] = field(default_factory=list)
    entry: Entry | None = None

    def __post_init__(self) -> None:
        self.overlap_offset = self.offset
        self.overlap_end = self.offset + self.length

    @property
    def end(self) -> int:
        """First byte behind the range that was asked for."""
        return self.offset + self.length

    def overlaps(self, other: "TrackedRequest") -> bool:
        """Whether the two overlap ranges share a byte (QEMU: tracked_request_overlaps)."""
        return self.overlap_offset < other.overlap_end and other.overlap_offset < self.overlap_end

    def stretch(self, end: int) -> None:
        """Let the overlap range reach to `end`, for a request whose effect goes beyond its own bytes."""
        self.overlap_end = max(self.overlap_end, end)

    def make_serialising(self, alignment: int) -> None:
        """From now on overlapping requests and this one wait for each other (QEMU: tracked_request_set_serialising)."""
        self.serialising = True
        self.overlap_offset -= self.overlap_offset % alignment
        if self.overlap_end < MAX_LENGTH:
            self.overlap_end += -self.overlap_end % alignment


class RequestTracker:
    """The requests in flight on one node, in order of arrival."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.in_flight: list[TrackedRequest] = []
        self.waits = 0  # how often a request had to wait
        self._journal = journal
        self._idle: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def track(self, request: TrackedRequest) -> AsyncIterator[TrackedRequest]:
        """Keep `request` in the list while the body runs; wake those that wait for it afterwards."""
        journal = self._journal
        if journal is not None:
            request.id = journal.next_request()
            request.entry = journal.begin(
                Kind.REQUEST, request.offset, request.length, request=request.id, flags=_flags(request)
            )
        self.in_flight.append(request)
        result = -errno.ECANCELED
        try:
            yield request
            result = 0
        except OSError as error:
            result = -(error.errno or errno.EIO)
            raise
        finally:
            self.in_flight.remove(request)
            if journal is not None and request.entry is not None:
                if request.serialising:
                    request.entry.flags |= RequestFlag.SERIALISING
                journal.end(request.entry, result)
            _wake(request.waiters)
            if not self.in_flight:
                _wake(self._idle)

    def conflicting(self, request: TrackedRequest) -> TrackedRequest | None:
        """The first request that `request` has to wait for (QEMU: bdrv_find_conflicting_request)."""
        for other in self.in_flight:
            if other is request or not (other.serialising or request.serialising):
                continue
            if request.overlaps(other) and other.waiting_for is None:
                return other
        return None

    async def wait_serialising(self, request: TrackedRequest) -> None:
        """Return when nothing in flight conflicts with `request` (QEMU: bdrv_wait_serialising_requests_locked)."""
        while (other := self.conflicting(request)) is not None:
            await self.wait_for(request, other)

    async def wait_for(self, request: TrackedRequest, other: TrackedRequest) -> None:
        """Let `request` sleep until `other` has ended."""
        self.waits += 1
        entry = None
        if self._journal is not None:
            entry = self._journal.begin(Kind.WAIT, request.offset, request.length, request=request.id)
        done = asyncio.get_running_loop().create_future()
        other.waiters.append(done)
        request.waiting_for = other
        try:
            await done
        finally:
            request.waiting_for = None
            if self._journal is not None and entry is not None:
                self._journal.end(entry, other.id)

    async def drain(self) -> None:
        """Return when nothing is in flight (QEMU: bdrv_drain)."""
        while self.in_flight:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle


def _flags(request: TrackedRequest) -> int:
    flags = RequestFlag(0)
    if request.type is RequestType.ZERO_WRITE:
        flags |= RequestFlag.ZERO_WRITE
    if request.type is RequestType.READ:
        flags |= RequestFlag.READ
    if request.metadata:
        flags |= RequestFlag.METADATA
    return int(flags)


def _wake(waiters: list["asyncio.Future[None]"]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()
