"""Signals at a moment that suits: work that must not be cut in two, and event loops that must end by themselves.

Python runs a signal's handler between any two bytecodes of the main thread, and the exception it raises goes wherever
that happens to be. In a callback from C (bcc has some) it is printed and lost, in C that clears an error which it takes
for its own (of an `import`, say) it is lost without a word; in an event loop it ends the loop with requests in flight.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOST_AFTER = 0.2
"""Seconds from an exception to the look whether somebody has dropped it."""


class Terminated(SystemExit):
    """SIGTERM or SIGHUP, as an exception, so that every context manager is left on the way out."""


@contextmanager
def as_exceptions() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt in the main thread, SIGTERM and SIGHUP `Terminated`, until the block ends.

    One that the caller ignores (nohup) stays ignored. An exception that is neither being handled after a while nor
    said to be `delivered()` was lost: it is raised again.
    """
    last = 0

    def throw(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal last
        last = number
        signal.setitimer(signal.ITIMER_REAL, _LOST_AFTER)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)

    def look(number: int, frame: FrameType | None) -> None:
        if _on_its_way():
            signal.setitimer(signal.ITIMER_REAL, _LOST_AFTER)
        else:
            signal.raise_signal(last)  # to whatever handles it now: it may have to wait

    before: dict[int, Any] = {}
    with suppress(ValueError):  # not in the main thread: no signals arrive here
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, look)
        for number in _SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, throw)
    try:
        yield
    finally:
        if before:
            delivered()
        for changed, handler in before.items():
            signal.signal(changed, handler)


def delivered() -> None:
    """The exception of the last signal has come to where it ends."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _on_its_way() -> bool:
    """Whether the code that a signal's handler interrupts is unwinding from a signal before."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__context__
    return error is not None


@contextmanager
def _caught(note: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Have SIGINT, SIGTERM and SIGHUP, those that anybody handles, call `note`; yields what ends that early."""
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in _SIGNALS:
        if callable(signal.getsignal(number)):
            before[number] = signal.signal(number, lambda number, _: note(number))
    try:
        yield restore
    finally:
        restore()


@contextmanager
def deferred() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP wait until the block has ended. It should be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    try:
        with _caught(arrived.append):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def collected() -> Iterator[list[int]]:
    """The first of SIGINT, SIGTERM and SIGHUP that arrives in the block, in a list; a second one acts as usual."""
    arrived: list[int] = []

    def note(number: int) -> None:
        arrived.append(number)
        restore()

    with _caught(note) as restore:
        yield arrived


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, where signals cancel the coroutine, and reach their handlers when the loop has ended."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(coroutine)
    arrived: list[int] = []
    runner = asyncio.Runner()
    loop = runner.get_loop()
    task: asyncio.Task[T] | None = None

    def cancel(number: int) -> None:
        arrived.append(number)
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    async def main() -> T:
        nonlocal task
        task = asyncio.current_task()
        if arrived:
            raise asyncio.CancelledError
        return await coroutine

    try:
        with _caught(cancel):
            try:
                return runner.run(main())
            finally:
                coroutine.close()
                runner.close()
    finally:
        if arrived:
            signal.raise_signal(arrived[0])
