"""The side that is timed: blockstack with so many requests in flight on one image, in a process of its own.

As `qemu-img bench` times itself: from the first request to the last completion, without start, open and close. Requests
in flight together touch different places, but for flushes, which wait for nothing here, as a guest's would not.
"""

import asyncio
import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import blockstack
from blockstack.journal import Journal
from blockstack.journal import Kind as Mark
from tracer.bench.workload import Image, Kind, Request, Workload
from tracer.taskstats import BlockDelays, block_io_delay

PERCENTILES = (50, 99, 99.9)


@dataclass(frozen=True, slots=True)
class Job:
    """What the process is told."""

    image: str
    aio: str
    strategy: str
    cluster_size: int
    seed: int
    workload: Workload
    marks: bool = False
    """Keep a journal, and say how long requests waited for each other: a run that is not timed."""

    def encode(self) -> str:
        """As a word of the command line."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def decode(text: str) -> "Job":
        """From such a word."""
        fields = json.loads(text)
        workload = fields.pop("workload")
        return Job(workload=Workload(**{**workload, "image": Image(workload["image"])}), **fields)


def name_of(request: Request) -> str:
    """Its class: latencies of different ones are told apart."""
    return "allocating write" if request.allocates else request.kind.name.lower()


async def drive(job: Job) -> dict[str, Any]:
    """Do it. Returns the figures of the run. Raises OSError, ImageError."""
    workload = job.workload
    requests = list(workload.requests(job.seed, job.cluster_size))
    data = [bytes(workload.length)]
    taken: list[tuple[Request, int]] = []
    journal = Journal() if job.marks else None
    async with blockstack.open(job.image, "qcow2", aio=job.aio, strategy=job.strategy, journal=journal) as disk:
        waiting = iter(requests)

        async def worker(requests: Iterator[Request]) -> None:
            for request in requests:
                begin = time.perf_counter_ns()
                if request.kind is Kind.WRITE:
                    await disk.pwritev(request.offset, data)
                elif request.kind is Kind.READ:
                    await disk.preadv(request.offset, workload.length)
                else:
                    await disk.flush()
                taken.append((request, time.perf_counter_ns() - begin))

        before = _delays() if job.marks else BlockDelays(None)
        used = resource.getrusage(resource.RUSAGE_SELF)
        begin = time.perf_counter()
        await asyncio.gather(*(worker(waiting) for _ in range(workload.depth)))
        seconds = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_SELF)
        waited = _delays().since(before) if job.marks else before
    return {
        "seconds": seconds,
        "user": after.ru_utime - used.ru_utime,
        "system": after.ru_stime - used.ru_stime,
        "latency": _latencies(taken),
        **({} if journal is None else _waits(journal) | {"block_io_delay_ns": waited.delays, "note": waited.note}),
    }


def _delays() -> BlockDelays:
    return block_io_delay(map(int, os.listdir("/proc/self/task")))


def _latencies(taken: list[tuple[Request, int]]) -> dict[str, dict[str, float]]:
    """Class -> its latencies. What each request is called is asked when no time is taken any more."""
    times: dict[str, list[int]] = {}
    for request, nanoseconds in taken:
        times.setdefault(name_of(request), []).append(nanoseconds)
    return {name: _latency(spent) for name, spent in sorted(times.items())}


def _latency(times: list[int]) -> dict[str, float]:
    """Count, mean and percentiles, in us."""
    spent = np.array(times) / 1000
    points = np.percentile(spent, PERCENTILES)
    return {"count": len(times), "mean": float(spent.mean())} | {
        f"p{point:g}": float(value) for point, value in zip(PERCENTILES, points, strict=True)
    }


def _waits(journal: Journal) -> dict[str, Any]:
    """How many tracked requests waited for others, and how long all of them together, in ns."""
    waits = [entry for entry in journal.entries if entry.kind is Mark.WAIT and entry.t_end]
    return {
        "requests": sum(entry.kind is Mark.REQUEST for entry in journal.entries),
        "waited": len({entry.request for entry in waits}),
        "waited_ns": sum(entry.t_end - entry.t_begin for entry in waits),
    }


def main() -> None:
    """argv: the job. Prints the figures as JSON."""
    job = Job.decode(sys.argv[1])
    print(json.dumps(asyncio.run(drive(job))))


if __name__ == "__main__":
    main()
