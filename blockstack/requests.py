"""Tracked requests: which requests of a node are in flight, and which of them must wait for which.

This is QEMU's `BdrvTrackedRequest` and its rules (block/io.c, 4.2 to 9.2): a request waits for every overlapping one
where either of the two is serialising, skips one that is itself waiting (which would deadlock), and looks again after
each wait.
"""

import asyncio
import enum
import errno
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blockstack.journal import Entry, Journal, Kind, RequestFlag

MAX_LENGTH = 2**63 - 1
"""The largest file length, where a stretched request ends (QEMU: BDRV_MAX_LENGTH, up to alignment)."""


class RequestType(enum.Enum):
    """What a request does to its range."""

    READ = enum.auto()
    WRITE = enum.auto()
    ZERO_WRITE = enum.auto()
    FLUSH = enum.auto()
    TRUNCATE = enum.auto()
    DISCARD = enum.auto()


class TrackedRequest:
    """A request in flight on one node. Offsets and lengths in bytes."""

    __slots__ = (
        "counted",
        "entry",
        "id",
        "length",
        "metadata",
        "offset",
        "overlap_end",
        "overlap_offset",
        "serialising",
        "tracker",
        "type",
        "waiters",
        "waits_in",
    )

    def __init__(self, offset: int, length: int, type: RequestType, metadata: bool = False) -> None:
        self.offset = offset
        self.length = length
        self.type = type
        self.metadata = metadata
        self.id = 0
        self.serialising = False
        self.overlap_offset = offset
        self.overlap_end = offset + length
        self.waits_in: _Queue | None = None
        self.waiters: _Queue | None = None
        self.entry: Entry | None = None
        self.tracker: RequestTracker | None = None
        self.counted = False  # among its tracker's serialising requests

    @property
    def end(self) -> int:
        """First byte behind the range that was asked for."""
        return self.offset + self.length

    def __enter__(self) -> "TrackedRequest":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        assert self.tracker is not None
        result = 0
        if error is not None:
            result = -(error.errno or errno.EIO) if isinstance(error, OSError) else -errno.ECANCELED
        self.tracker.end(self, result)

    @property
    def waiting_for(self) -> "TrackedRequest | None":
        """The request whose end this one sleeps for."""
        return None if self.waits_in is None else self.waits_in.ahead

    def overlaps(self, other: "TrackedRequest") -> bool:
        """Whether the two overlap ranges share a byte (QEMU: tracked_request_overlaps)."""
        return self.overlap_offset < other.overlap_end and other.overlap_offset < self.overlap_end

    def conflicts(self, other: "TrackedRequest") -> bool:
        """Whether this request has to wait for `other`. Asked so often that `overlaps` is spelled out."""
        return (
            other.waits_in is None
            and (other.serialising or self.serialising)
            and other is not self
            and self.overlap_offset < other.overlap_end
            and other.overlap_offset < self.overlap_end
        )

    def stretch(self, end: int) -> None:
        """Let the overlap range reach to `end`, for a request whose effect goes beyond its own bytes."""
        self.overlap_end = max(self.overlap_end, end)

    def make_serialising(self, alignment: int) -> None:
        """From now on overlapping requests and this one wait for each other (QEMU: tracked_request_set_serialising)."""
        self.serialising = True
        self.overlap_offset -= self.overlap_offset % alignment
        if self.overlap_end < MAX_LENGTH:
            self.overlap_end += -self.overlap_end % alignment
        if self.tracker is not None and not self.counted:
            self.counted = True
            self.tracker.serialising += 1


@dataclass(eq=False, slots=True)
class _Waiter:
    """A request that sleeps until another one has ended; `again`: and then until nothing conflicts with it."""

    request: TrackedRequest
    done: "asyncio.Future[None]"
    again: bool
    entry: Entry | None = None
    woken_from: "_Queue | None" = None  # whose other waiters look when this one has gone on


class _Queue(deque[_Waiter]):
    """Those that sleep until `ahead` has ended, in order of arrival."""

    def __init__(self, ahead: TrackedRequest) -> None:
        super().__init__()
        self.ahead = ahead


class RequestTracker:
    """The requests in flight on one node, in order of arrival."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.in_flight: dict[TrackedRequest, None] = {}  # a set in order of arrival
        self.serialising = 0  # of them (QEMU: serialising_in_flight): with none, nobody has to look for conflicts
        self.counted = 0  # what is in flight beside them, or in several of them
        self.waits = 0  # how often a request had to wait
        self._journal = journal
        self._idle: list[asyncio.Future[None]] = []

    def track(self, request: TrackedRequest) -> TrackedRequest:
        """`request` is in flight from now on (QEMU: tracked_request_begin). As a context it ends, and wakes those that
        wait for it.
        """
        journal = self._journal
        if journal is not None:
            request.id = journal.next_request()
            request.entry = journal.begin(
                Kind.REQUEST, request.offset, request.length, request=request.id, flags=_flags(request)
            )
        request.tracker = self
        if request.serialising:
            request.counted = True
            self.serialising += 1
        self.in_flight[request] = None
        return request

    def conflicting(self, request: TrackedRequest) -> TrackedRequest | None:
        """The first request that `request` has to wait for (QEMU: bdrv_find_conflicting_request)."""
        if not (self.serialising or request.serialising):
            return None
        for other in self.in_flight:
            # Most of them wait themselves, if any does.
            if other.waits_in is None and request.conflicts(other):
                return other
        return None

    async def wait_serialising(self, request: TrackedRequest) -> bool:
        """Return when nothing in flight conflicts with `request` (QEMU: bdrv_wait_serialising_requests_locked).

        Whether it had to wait: then the node may have another length than before.
        """
        other = self.conflicting(request)
        if other is None:
            return False
        while other is not None:
            await self._wait(request, other, again=True)
            # Since it was woken others have gone on: whoever ended went first, as in QEMU, where the woken run when the
            # waker yields (aio_co_wake). A zero-write's own data write comes before the next zero-write.
            other = self.conflicting(request)
        return True

    async def wait_for(self, request: TrackedRequest, other: TrackedRequest) -> None:
        """Let `request` sleep until `other` has ended, whatever else there is."""
        await self._wait(request, other, again=False)

    async def drain(self) -> None:
        """Return when nothing is in flight (QEMU: bdrv_drain)."""
        while self.in_flight or self.counted:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    async def _wait(self, request: TrackedRequest, other: TrackedRequest, *, again: bool) -> None:
        waiter = _Waiter(request, asyncio.get_running_loop().create_future(), again)
        if self._journal is not None:
            waiter.entry = self._journal.begin(Kind.WAIT, request.offset, request.length, request=request.id)
        self._sleep(waiter, other)
        try:
            await waiter.done
        finally:
            if request.waits_in is not None:  # cancelled
                self._slept(waiter)
            if waiter.woken_from is not None:
                asyncio.get_running_loop().call_soon(self._wake, waiter.woken_from, request)

    def _sleep(self, waiter: _Waiter, other: TrackedRequest) -> None:
        self.waits += 1
        if other.waiters is None:
            other.waiters = _Queue(other)
        other.waiters.append(waiter)
        waiter.request.waits_in = other.waiters

    def _slept(self, waiter: _Waiter) -> None:
        other = waiter.request.waiting_for
        waiter.request.waits_in = None
        if self._journal is not None and waiter.entry is not None and other is not None:
            self._journal.end(waiter.entry, other.id)

    def end(self, request: TrackedRequest, result: int) -> None:
        """`request` has ended with 0 or -errno (QEMU: tracked_request_end)."""
        del self.in_flight[request]
        self.serialising -= request.counted
        if self._journal is not None and request.entry is not None:
            if request.serialising:
                request.entry.flags |= RequestFlag.SERIALISING
            self._journal.end(request.entry, result)
        if request.waiters:
            self._wake(request.waiters, None)
        if self._idle:
            self._look_idle()

    @contextmanager
    def count(self) -> Iterator[None]:
        """A context that is in flight as a whole, whatever it tracks (QEMU: bdrv_inc_in_flight)."""
        self.counted += 1
        try:
            yield
        finally:
            self.counted -= 1
            self._look_idle()

    def _look_idle(self) -> None:
        if self._idle and not self.in_flight and not self.counted:
            for idle in self._idle:
                if not idle.done():
                    idle.set_result(None)
            self._idle.clear()

    def _wake(self, queue: _Queue, last: TrackedRequest | None) -> None:
        """Those that waited for a request that has ended look again, in order, until one may go on (QEMU:
        qemu_co_queue_restart_all). `last` is the one that went on before.

        They look here, not in their own tasks: of many zero-writes stretched to infinity one can go on, and to wake the
        others would cost each of them a turn of the event loop for every one that ends. The others look when it has
        done its next step, in which it may turn serialising.
        """
        other = last
        while queue:
            waiter = queue[0]
            if waiter.done.done():  # cancelled
                queue.popleft()
                continue
            # What held the one before is likely to hold this one, too.
            if other is None or other not in self.in_flight or not (waiter.again and waiter.request.conflicts(other)):
                other = self.conflicting(waiter.request) if waiter.again else None
            if other is None:
                queue.popleft()
                self._slept(waiter)
                waiter.woken_from = queue
                waiter.done.set_result(None)
                return
            if all(waiter.again and waiter.request.conflicts(other) for waiter in queue):
                self._pass_on(queue, other)
                return
            queue.popleft()
            self._sleep(waiter, other)

    def _pass_on(self, queue: _Queue, other: TrackedRequest) -> None:
        """All of `queue` wait for `other` now, as by `_sleep` of each, at the cost of one. Their waits in the journal
        go on. They stay before those that came to wait for `other` since: in QEMU all of them look at once.
        """
        self.waits += len(queue)
        if other.waiters is not None:
            for waiter in other.waiters:
                if not waiter.done.done():  # cancelled
                    waiter.request.waits_in = queue
            queue.extend(other.waiters)
        queue.ahead = other
        other.waiters = queue


def _flags(request: TrackedRequest) -> int:
    flags = RequestFlag(0)
    if request.type is RequestType.ZERO_WRITE:
        flags |= RequestFlag.ZERO_WRITE
    if request.type is RequestType.READ:
        flags |= RequestFlag.READ
    if request.metadata:
        flags |= RequestFlag.METADATA
    return int(flags)
