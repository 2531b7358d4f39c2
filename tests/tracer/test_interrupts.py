"""Signals become exceptions, and one that somebody drops comes again."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tracer import interrupts

ENDS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, interrupts.Terminated)]


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Handlers and timer are as before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # a bytecode, at which the handler runs


@pytest.mark.parametrize(("number", "error"), ENDS)
def test_one_that_is_dropped_comes_again(number: int, error: type[BaseException]) -> None:
    with interrupts.as_exceptions():
        for _ in range(2):
            with contextlib.suppress(error):  # as a callback from C does
                send(number)
        with pytest.raises(error):
            time.sleep(10)


@pytest.mark.parametrize(("number", "error"), ENDS)
def test_one_on_its_way_does_not_come_again(number: int, error: type[BaseException]) -> None:
    cleaned = []

    def unwind() -> None:
        try:
            send(number)
        finally:
            try:
                raise OSError
            except OSError:
                time.sleep(3 * interrupts._LOST_AFTER)
            time.sleep(3 * interrupts._LOST_AFTER)
            cleaned.append(True)

    with interrupts.as_exceptions():
        with pytest.raises(error):
            unwind()
        interrupts.delivered()
        time.sleep(2 * interrupts._LOST_AFTER)
    assert cleaned


def test_one_that_was_dropped_waits_for_what_must_not_be_cut_in_two() -> None:
    with interrupts.as_exceptions():
        with contextlib.suppress(interrupts.Terminated):
            send(signal.SIGTERM)
        began = time.monotonic()
        with pytest.raises(interrupts.Terminated), interrupts.deferred():
            time.sleep(3 * interrupts._LOST_AFTER)
        assert time.monotonic() - began >= 3 * interrupts._LOST_AFTER


@pytest.mark.parametrize(("number", "error"), ENDS)
def test_a_coroutine_is_cancelled_first(number: int, error: type[BaseException]) -> None:
    ended = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(2 * interrupts._LOST_AFTER)
            ended.append(True)
            raise

    with interrupts.as_exceptions(), pytest.raises(error):
        interrupts.run(work())
    assert ended
