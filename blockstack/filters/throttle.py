"""`throttle`: limits requests and bytes a second (QEMU: block/throttle.c, util/throttle.c)."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from blockstack.filters.base import Filter
from blockstack.node import Node
from blockstack.requests import RequestType

_RESOLUTION = 1e-9
"""Seconds; a shorter wait is none (QEMU counts in ns)."""


class Bucket:
    """A bucket that leaks `rate` units a second and takes `burst` units (QEMU: LeakyBucket, avg and max)."""

    def __init__(self, rate: float, burst: float) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError("a limit is above zero")
        self._rate = rate
        self._burst = burst
        self._level = 0.0
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds from `now` until another request fits (QEMU: throttle_compute_wait)."""
        if self._at is not None:
            self._level = max(0.0, self._level - (now - self._at) * self._rate)
        self._at = now
        seconds = (self._level - self._burst) / self._rate
        return seconds if seconds > _RESOLUTION else 0.0

    def put(self, units: float) -> None:
        """Account for a request that goes on (QEMU: throttle_account)."""
        self._level += units


class Throttle(Filter):
    """At most `iops` requests and `bps` bytes a second, reads and writes together; None: no limit.

    A request goes on while the bucket is not above a tenth of a second's worth, whatever its own size (QEMU:
    throttle_compute_wait), and those that have to wait go on in their order. Flushes are not counted.
    """

    def __init__(
        self,
        child: Node,
        *,
        iops: float | None = None,
        bps: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(child)
        self.waits = 0  # requests that had to wait
        self._requests = None if iops is None else Bucket(iops, max(1.0, iops / 10))
        self._bytes = None if bps is None else Bucket(bps, bps / 10)
        self._turn = asyncio.Lock()
        self._clock = clock
        self._sleep = sleep

    async def _admit(self, kind: RequestType, offset: int, length: int) -> None:
        if kind is RequestType.FLUSH:
            return
        limits = [(bucket, units) for bucket, units in ((self._requests, 1), (self._bytes, length)) if bucket]
        if not limits:
            return
        async with self._turn:
            waited = False
            while (seconds := max(bucket.wait(self._clock()) for bucket, _ in limits)) > 0:
                waited = True
                await self._sleep(seconds)
            self.waits += waited
            for bucket, units in limits:
                bucket.put(units)
