"""What goes on in spite of a cancellation: futures, coroutines in the caller's own task, calls in threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from blockstack.settled import Uncancellable, settled, uninterrupted
from blockstack.workers import Workers
from tests.blockstack.support import run, turns


async def _work(log: list[str], lock: asyncio.Lock, future: "asyncio.Future[None]") -> str:
    async with lock:
        log.append("begun")
        await future
        await asyncio.sleep(0)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        log.append("ended")
    return "result"


def _in_a_task(log: list[str], lock: asyncio.Lock, future: "asyncio.Future[None]") -> Awaitable[str]:
    return settled(asyncio.ensure_future(_work(log, lock, future)))


def _in_place(log: list[str], lock: asyncio.Lock, future: "asyncio.Future[None]") -> Awaitable[str]:
    return uninterrupted(_work(log, lock, future))


def _plain(log: list[str], lock: asyncio.Lock, future: "asyncio.Future[None]") -> Awaitable[str]:
    return _work(log, lock, future)


Start = Callable[[list[str], asyncio.Lock, "asyncio.Future[None]"], Awaitable[str]]


@pytest.mark.parametrize("start", [_in_a_task, _in_place, _plain])
@pytest.mark.parametrize("uncancellable", [True, False])
@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("times", [0, 1, 3])
def test_cancelled_it_ends_all_the_same(
    start: Start, uncancellable: bool, locked: bool, fails: bool, times: int
) -> None:
    """`_plain` is the control: it lets go."""

    async def main() -> None:
        log: list[str] = []
        lock = asyncio.Lock()
        future: asyncio.Future[None] = Uncancellable() if uncancellable else asyncio.Future()

        async def caller() -> str:
            return await start(log, lock, future)

        if locked:
            await lock.acquire()
        task = asyncio.create_task(caller())
        for _ in range(times):
            await turns(3)
            task.cancel()
        await turns()
        if times and start is _plain and (locked or not uncancellable):
            assert task.done()
            assert log == ([] if locked else ["begun"])
            return
        assert not task.done()
        if locked:
            lock.release()
            await turns()
        assert log == ["begun"]
        if fails:
            future.set_exception(OSError(5, "broken"))
        else:
            future.set_result(None)
        await turns()
        assert task.done()
        if times and start is not _plain:
            assert task.cancelled()
        if not (start is _plain and times):
            assert log == (["begun"] if fails else ["begun", "ended"])
        if not times and fails:
            with pytest.raises(OSError, match="broken"):
                await task
        elif not times:
            assert await task == "result"
        assert not lock.locked()

    run(main(), seconds=5)


@pytest.mark.parametrize("in_a_task", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_task_goes_on_at_once_unless_a_task_sets_the_result(in_a_task: bool, fails: bool) -> None:
    async def main() -> None:
        log: list[str] = []
        future: Uncancellable[str] = Uncancellable()

        async def waits() -> None:
            try:
                log.append(await future)
            except OSError:
                log.append("it has")

        def end() -> None:
            if fails:
                future.set_exception(OSError(5, "broken"))
            else:
                future.set_result("it has")
            log.append("set")

        task = asyncio.create_task(waits())
        await turns()
        if in_a_task:
            end()
        else:
            asyncio.get_running_loop().call_soon(end)
        await task
        assert log == (["set", "it has"] if in_a_task else ["it has", "set"])

    run(main(), seconds=5)


def test_whoever_else_waits_for_it_is_told_too() -> None:
    async def main() -> None:
        future: Uncancellable[int] = Uncancellable()

        async def waits() -> int:
            return await future

        tasks = [asyncio.create_task(waits()) for _ in range(3)]
        await turns()
        asyncio.get_running_loop().call_soon(future.set_result, 7)
        assert await asyncio.gather(*tasks, asyncio.shield(future)) == [7] * 4

    run(main(), seconds=5)


def test_workers_run_side_by_side_and_deliver_results_and_errors() -> None:
    async def main() -> None:
        pool, together = Workers(4, "test"), threading.Barrier(4)

        def call(number: int) -> int:
            together.wait(10)
            if number % 2:
                raise OSError(number, "odd")
            return number

        results = await asyncio.gather(*(pool.run(call, number) for number in range(64)), return_exceptions=True)
        assert results[::2] == list(range(0, 64, 2))
        assert [error.errno for error in results if isinstance(error, OSError)] == list(range(1, 64, 2))
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("test-")]
        assert len(names) == 4
        pool.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-")]

    run(main())


def test_a_cancelled_call_is_waited_for() -> None:
    async def main() -> None:
        pool, release = Workers(1, "test"), threading.Event()
        task = asyncio.create_task(pool.run(release.wait, 10))
        await turns()
        task.cancel()
        await turns()
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        pool.close()

    run(main())
