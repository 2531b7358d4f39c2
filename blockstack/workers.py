"""Threads for system calls that sleep (QEMU: util/thread-pool.c).

What comes back costs the event loop one turn for all calls that have ended by then. ThreadPoolExecutor with
run_in_executor() does the same with two futures, a lock and a condition for each call, and a wake-up for each result.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from blockstack.settled import Uncancellable

T = TypeVar("T")

_Job = tuple[Callable[..., Any], tuple[Any, ...], "Uncancellable[Any]"]


class Workers:
    """At most `count` threads, started as they are needed."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._ended: list[tuple[Uncancellable[Any], Any, BaseException | None]] = []
        self._lock = threading.Lock()

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """The result of `call`, or what it raises. A caller that is cancelled waits for its end all the same."""
        loop = asyncio.get_running_loop()
        future: Uncancellable[T] = Uncancellable(loop=loop)
        self._busy += 1
        if self._busy > len(self._threads) < self._count:
            # A daemon: a system call that never returns must not keep the process from ending.
            thread = threading.Thread(
                target=self._work, args=(loop,), name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        # At the end of this turn of the event loop, as the asynchronous engines send their batch: else a fallocate is
        # over before the writes that came with it reach the kernel, on a slow machine always.
        loop.call_soon(self._jobs.put, (call, arguments, future))
        return await future

    def close(self) -> None:
        """End the threads; called with nothing in flight."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            call, arguments, future = job
            result, error = None, None
            try:
                result = call(*arguments)
            except BaseException as caught:
                error = caught
            with self._lock:
                first = not self._ended
                self._ended.append((future, result, error))
            del job, call, arguments, future, result, error
            if first:
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        self._busy -= len(ended)
        for future, result, error in ended:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
