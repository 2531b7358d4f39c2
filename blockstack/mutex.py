"""A lock that costs those who waited no turn of the event loop each (QEMU: CoMutex, which hands over at once)."""

import asyncio
from types import TracebackType


class Mutex:
    """As asyncio.Lock, but its release wakes all that wait, and they take it in turn.

    asyncio.Lock wakes one, in the next turn of the loop, and lets nobody overtake: once 32 requests have waited for a
    table to be read, each turn serves one of them, although none of them waits for anything any more, and what the
    turn sends to the kernel is a batch of one.
    """

    def __init__(self) -> None:
        self._locked = False
        self._waiting: list[asyncio.Future[None]] = []

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self._locked

    async def __aenter__(self) -> None:
        while self._locked:
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken
        self._locked = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locked = False
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for woken in waiting:
                if not woken.done():  # cancelled
                    woken.set_result(None)
