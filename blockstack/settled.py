"""Cancellation that does not let go of what is still in flight.

A QEMU coroutine cannot be cancelled; an asyncio task can. A request that ended while its system call still runs would
leave its tracked request, its buffer and its newly allocated clusters to others, for the kernel to write into.
"""

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


class Uncancellable(asyncio.Future[T]):
    """A future that a cancelled task goes on waiting for: the task is cancelled when the result is there.

    Task.cancel() asks the future that the task waits for to be cancelled; where that refuses, CancelledError is thrown
    when the future is done. asyncio.shield() comes to the same with two more futures and three callbacks a request.
    """

    def cancel(self, msg: Any | None = None) -> bool:
        """Refused."""
        return False


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
