"""Cancellation that does not let go of what is still in flight.

A QEMU coroutine cannot be cancelled; an asyncio task can. A request that ended while its system call still runs would
leave its tracked request, its buffer and its newly allocated clusters to others, for the kernel to write into.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class Uncancellable(asyncio.Future[T]):
    """A future that a cancelled task goes on waiting for: the task is cancelled when the result is there.

    Task.cancel() asks the future that the task waits for to be cancelled; where that refuses, CancelledError is thrown
    when the future is done. asyncio.shield() comes to the same with two more futures and three callbacks a request.

    The task goes on at once when the result is set, as a coroutine of QEMU does that is entered by its completion, not
    in the next turn of the event loop, unless a task sets it: tasks do not run within each other.
    """

    _task: "tuple[Callable[[Uncancellable[T]], object], Context] | None" = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Refused."""
        return False

    def add_done_callback(
        self, fn: "Callable[[Uncancellable[T]], object]", /, *, context: Context | None = None
    ) -> None:
        """As any future's; the first with a context is the task that waits."""
        if self._task is None and context is not None and not self.done():
            self._task = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def set_result(self, result: T, /) -> None:
        """And let the task go on."""
        super().set_result(result)
        if self._task is not None:
            self._go_on(*self._task)

    def set_exception(self, exception: type | BaseException, /) -> None:
        """And let the task go on."""
        super().set_exception(exception)
        if self._task is not None:
            self._go_on(*self._task)

    def _go_on(self, wake: "Callable[[Uncancellable[T]], object]", context: Context) -> None:
        self._task = None
        if asyncio.current_task() is None:
            context.run(wake, self)
        else:
            super().add_done_callback(wake, context=context)


async def settled(future: "asyncio.Future[T]") -> T:
    """The result of `future`. A caller that is cancelled waits for its end all the same, and is cancelled then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            if cancelled is None:
                raise
    if cancelled is not None and not future.cancelled():
        future.exception()  # seen, so that the loop does not report it as lost
        raise cancelled
    return future.result()


async def uninterrupted(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`, run in the caller's own task, to its end also if that is cancelled.

    As `settled(ensure_future(coroutine))`, without a task of its own for each request: what the coroutine waits for
    is waited for through an uncancellable future, and a cancellation is raised when the coroutine has ended.
    """
    return await _drive(coroutine)


@types.coroutine
def _drive(coroutine: Coroutine[Any, Any, T]) -> Generator[Any, None, T]:
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            if cancelled is not None:
                raise cancelled from None
            result: T = stop.value
            return result
        except BaseException:
            if cancelled is not None:
                raise cancelled from None
            raise
        if awaited is not None and not isinstance(awaited, Uncancellable):
            awaited._asyncio_future_blocking = False
            awaited = _shadow(awaited)
            awaited._asyncio_future_blocking = True
        try:
            yield awaited
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S110
            # The future's own: the coroutine asks the future for its result when it goes on.
            pass


def _shadow(future: "asyncio.Future[Any]") -> "Uncancellable[None]":
    """Done when `future` is; whoever waits for `future` asks that for the result."""
    shadow: Uncancellable[None] = Uncancellable(loop=future.get_loop())
    future.add_done_callback(lambda _: shadow.set_result(None))
    return shadow
