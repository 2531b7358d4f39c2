"""Loads with a known number of operations: a script that other processes run.

python tests/tracer/capture/load.py guest STRATEGY   blockstack's guest workload on a scratch XFS
python tests/tracer/capture/load.py waits FILE       a line of input for each turn; a child that does the same first
python tests/tracer/capture/load.py writes FILE N    N buffered writes of 4 KiB
python tests/tracer/capture/load.py race FILE N      N rounds: a post-EOF fallocate, a direct write behind it
python tests/tracer/capture/load.py aio FILE N       the same, with a write by io_submit(2) that is buffered
python tests/tracer/capture/load.py crowd            threads that fallocate and write the same file on a scratch XFS
python tests/tracer/capture/load.py frozen           two post-EOF fallocates in flight together, on two files
"""

import fcntl
import itertools
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h


def guest(strategy: str) -> None:
    import asyncio

    import blockstack
    from blockstack.guest import make_plan, run
    from tracer.lab import scratch

    async def main(path: Path) -> None:
        plan = make_plan(1, 400)
        await blockstack.create(path, plan.size)
        async with blockstack.open(path, strategy=strategy) as disk:
            await run(disk, plan)

    with scratch.loop_scratch("xfs", 320 << 20, scratch.default_directory()) as place, place.new_file() as file:
        asyncio.run(main(file.path))


def waits(path: str) -> None:
    child = None
    if len(sys.argv) == 3:
        child = subprocess.Popen([sys.executable, *sys.argv, "child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    print("ready", flush=True)
    for line in sys.stdin:
        os.pwrite(descriptor, line.encode(), 0)
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(b"child\n")
            child.stdin.flush()
            child.stdout.readline()
        print("done", flush=True)


def writes(path: str, count: str) -> None:
    with open(path, "wb", buffering=0) as file:
        for _ in range(int(count)):
            file.write(bytes(4096))


def race(path: str, rounds: str) -> None:
    # Direct, so that the size is raised only when the write ends.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    data = mmap.mmap(-1, 1 << 20)
    meet(descriptor, int(rounds), lambda: os.pwrite(descriptor, data, 1 << 20))


def aio(path: str, rounds: str) -> None:
    from tests.tracer.test_recorder import Aio

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    queue = Aio()
    offsets = itertools.count(1 << 20, 4096)  # one that nobody else has tells each write

    def write() -> None:
        queue.submit(descriptor, [(next(offsets), 1 << 20, 1)])
        queue.results(1)

    meet(descriptor, int(rounds), write)


def meet(descriptor: int, rounds: int, write: Callable[[], object]) -> None:
    barrier = threading.Barrier(2)

    def fallocate() -> None:
        for _ in range(rounds):
            barrier.wait()
            os.posix_fallocate(descriptor, 0, 65536)
            barrier.wait()

    thread = threading.Thread(target=fallocate)
    thread.start()
    for _ in range(rounds):
        os.ftruncate(descriptor, 0)
        barrier.wait()
        write()
        barrier.wait()
    thread.join()


def crowd() -> None:
    from tracer.lab import scratch

    numbers = itertools.count()
    data = mmap.mmap(-1, 1 << 16)

    def fallocate(descriptor: int) -> None:
        for _ in range(300):
            os.posix_fallocate(descriptor, next(numbers) << 17, 1 << 16)

    def write(descriptor: int) -> None:
        for _ in range(300):
            os.pwrite(descriptor, data, next(numbers) << 17)

    with scratch.loop_scratch("xfs", 2 << 30, scratch.default_directory()) as place:
        descriptor = os.open(place.path / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        threads = [threading.Thread(target=run, args=[descriptor]) for run in (fallocate, write) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(descriptor)


def frozen() -> None:
    from tracer.lab import scratch

    with scratch.loop_scratch("xfs", 320 << 20, scratch.default_directory()) as place:
        descriptors = [os.open(place.path / name, os.O_RDWR | os.O_CREAT) for name in ("one", "two")]
        threads = [threading.Thread(target=os.posix_fallocate, args=[fd, 0, 1 << 16]) for fd in descriptors]
        fcntl.ioctl(descriptors[0], FIFREEZE, 0)
        try:
            for thread in threads:
                thread.start()
            time.sleep(1)
        finally:
            fcntl.ioctl(descriptors[0], FITHAW, 0)
        for thread in threads:
            thread.join()
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["guest", strategy]:
            guest(strategy)
        case ["waits", path, *_]:
            waits(path)
        case ["writes", path, count]:
            writes(path, count)
        case ["race", path, rounds]:
            race(path, rounds)
        case ["aio", path, rounds]:
            aio(path, rounds)
        case ["crowd"]:
            crowd()
        case ["frozen"]:
            frozen()
