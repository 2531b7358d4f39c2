"""Signals at a moment that suits: work that must not be cut in two, and event loops that must end by themselves.

Python runs a signal's handler between any two bytecodes of the main thread, and the exception it raises goes wherever
that happens to be. In a callback from C (bcc has some) it is printed and lost; in an event loop it ends the loop
with requests in flight.
"""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def deferred() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP wait until the block has ended. It should be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    handlers = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, where SIGTERM and SIGHUP cancel the coroutine, and reach their handlers when the loop has ended.

    asyncio.run does that for SIGINT by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(coroutine)
    arrived: list[int] = []
    runner = asyncio.Runner()
    loop = runner.get_loop()
    task: asyncio.Task[T] | None = None

    def cancel(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    async def main() -> T:
        nonlocal task
        task = asyncio.current_task()
        if arrived:
            raise asyncio.CancelledError
        return await coroutine

    handlers = {
        number: signal.signal(number, cancel)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if callable(signal.getsignal(number))
    }
    try:
        return runner.run(main())
    finally:
        coroutine.close()
        runner.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
