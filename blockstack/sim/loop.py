"""An event loop in which time does not pass and nothing happens by itself.

What blockstack asks of asyncio is callbacks in the order in which they were scheduled (which asyncio promises), futures
and tasks. `run_ready` runs callbacks until none is left; what is waited for then can only come from outside, by the
choice of whoever drives the simulation.
"""

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, cast


class SimLoop:
    """As much of an event loop as tasks and futures need; `self` is cast to one."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Context, Callable[..., object], tuple[Any, ...]]] = deque()
        self.failures: list[BaseException] = []
        """What callbacks raised, and tasks that nobody waits for: a bug of the driver, or of the simulation."""

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> None:
        """As any loop's, without a handle: nobody here takes a callback back."""
        self._ready.append((copy_context() if context is None else context, callback, args))

    def create_future(self) -> "asyncio.Future[Any]":
        """A future of this loop."""
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        """A task of this loop."""
        return asyncio.Task(coro, loop=cast(asyncio.AbstractEventLoop, self), name=name, context=context)

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whenever anybody asks."""
        return True

    def time(self) -> float:
        """Time does not pass."""
        return 0.0

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what went wrong."""
        self.failures.append(context.get("exception") or RuntimeError(context.get("message")))

    def run_now(self, callback: Callable[[], object]) -> None:
        """Run `callback`, and what becomes ready, in order, until nothing is."""
        self.call_soon(callback)
        self.run_ready()

    def run_ready(self) -> None:
        """Run what is ready, in order, until nothing is."""
        ready = self._ready
        outer = events._get_running_loop()
        events._set_running_loop(cast(asyncio.AbstractEventLoop, self))
        try:
            while ready:
                context, callback, arguments = ready.popleft()
                try:
                    context.run(callback, *arguments)
                except Exception as error:
                    self.failures.append(error)
        finally:
            events._set_running_loop(outer)
