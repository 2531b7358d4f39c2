"""The gate of a chosen schedule: keeps the zero-write of one guest request back until it is to go on."""

import asyncio

from blockstack.gate import Point
from blockstack.journal import guest_request


class ChosenGate:
    """Open for everybody but those that it was closed for. Guest requests by their number."""

    def __init__(self) -> None:
        self._closed: set[tuple[Point, int]] = set()
        self._arrived: set[tuple[Point, int]] = set()
        self._opened = asyncio.Event()

    async def reached(self, point: Point) -> None:
        """See `blockstack.gate.Gate`."""
        here = (point, guest_request.get())
        self._arrived.add(here)
        while here in self._closed:
            # A fresh event for each opening: one that stays set would make this a busy loop.
            await self._opened.wait()

    def close(self, point: Point, number: int) -> None:
        """Keep that guest request's zero-write back at `point`."""
        self._closed.add((point, number))

    def open(self, point: Point, number: int) -> None:
        """Let it go on."""
        self._closed.discard((point, number))
        self._wake()

    def open_all(self) -> None:
        """Let all go on."""
        self._closed.clear()
        self._wake()

    def arrived(self, point: Point, number: int) -> bool:
        """Whether it has come to `point`."""
        return (point, number) in self._arrived

    def _wake(self) -> None:
        before, self._opened = self._opened, asyncio.Event()
        before.set()
