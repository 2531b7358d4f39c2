"""The blockstack side: `depth` requests in flight on one image, as img_bench() of QEMU's qemu-img.c does it.

A process of its own (`python -m bench.driver`), so that it is measured as qemu-img bench is: from the first request to
the last completion, without start, open and close. Under `python -m cProfile -m bench.driver` it is profiled.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator

import blockstack
from bench.workload import Workload


async def drive(image: str, workload: Workload, aio: str) -> float:
    """Seconds that the requests took. Raises OSError, ImageError."""
    data = [bytes(workload.length)]
    async with blockstack.open(image, "qcow2", aio=aio) as disk:
        offsets = iter(workload.offsets)

        async def worker(offsets: Iterator[int]) -> None:
            if workload.write:
                for offset in offsets:
                    await disk.pwritev(offset, data)
            else:
                for offset in offsets:
                    await disk.preadv(offset, workload.length)

        begin = time.perf_counter()
        await asyncio.gather(*(worker(offsets) for _ in range(workload.depth)))
        return time.perf_counter() - begin


def main() -> None:
    """argv: image, AIO engine, workload as JSON."""
    image, aio, fields = sys.argv[1:]
    seconds = asyncio.run(drive(image, Workload(**json.loads(fields)), aio))
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
