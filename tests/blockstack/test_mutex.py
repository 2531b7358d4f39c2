"""The metadata lock: one at a time, no convoy, nobody forgotten."""

import asyncio

from blockstack.mutex import Mutex


def test_one_at_a_time_in_order_of_arrival() -> None:
    async def main() -> list[int]:
        lock, inside, order = Mutex(), [0], []

        async def work(number: int) -> None:
            async with lock:
                inside[0] += 1
                assert inside[0] == 1
                await asyncio.sleep(0.001 if number % 2 else 0)
                inside[0] -= 1
                order.append(number)

        await asyncio.gather(*(work(number) for number in range(8)))
        assert not lock.locked()
        return order

    assert sorted(asyncio.run(main())) == list(range(8))


def test_those_who_waited_take_no_turn_of_the_loop_each() -> None:
    """The control is asyncio.Lock, with which each of them does."""

    async def turns(lock: Mutex | asyncio.Lock) -> int:
        loop = asyncio.get_running_loop()
        counted = 0
        ended = False

        def count() -> None:
            nonlocal counted
            counted += 1
            if not ended:
                loop.call_soon(count)

        async def work() -> None:
            async with lock:
                pass

        async def first() -> None:
            async with lock:
                await asyncio.sleep(0.01)
                loop.call_soon(count)

        tasks = [asyncio.create_task(first()), *(asyncio.create_task(work()) for _ in range(64))]
        await asyncio.gather(*tasks)
        ended = True
        return counted

    assert asyncio.run(turns(Mutex())) < 8
    assert asyncio.run(turns(asyncio.Lock())) >= 64


def test_one_that_is_cancelled_holds_up_nobody() -> None:
    async def main() -> None:
        lock = Mutex()

        async def work() -> bool:
            async with lock:
                return True

        async with lock:
            waiting = [asyncio.create_task(work()) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [True, True]
        assert not lock.locked()

    asyncio.run(main())


def test_an_error_lets_go_of_it() -> None:
    async def main() -> bool:
        lock = Mutex()
        try:
            async with lock:
                raise OSError
        except OSError:
            return lock.locked()

    assert asyncio.run(main()) is False
