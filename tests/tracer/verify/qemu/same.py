"""One guest history through blockstack and through a qemu-storage-daemon: what each did to its file, compared.

Depth 1: each request of the guest ends before the next one begins, so that every operation belongs to one.
"""

import asyncio
import os
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

import blockstack
from blockstack.node import Buffer
from blockstack.qcow2 import Qcow2
from tracer.attach import Probes
from tracer.lab import children
from tracer.lab.scratch import AnonymousFile, Scratch
from tracer.operations import Op, Operations
from tracer.recorder import Recorder
from tracer.verify.qemu.client import connected
from tracer.verify.qemu.daemon import Build, served

SECTOR = 512
_SIZE = 64 << 20
"""Of the disk, in bytes; but for small clusters, whose L2 tables map little of it."""


OTHER_FILE = "FILE"
"""In an option of qemu-img create's: the path of the external data file, or of a raw backing file."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A difference that is not one, and why; docs/same-system-calls.md has the same rows."""

    what: str
    why: str


ALLOWED = (
    Allowed(
        "who carries a write: io_submit(2) or a thread's pwritev(2)",
        "QEMU leaves a write whose memory is not aligned to its thread pool (raw_co_prw), such as all that it pads;"
        " blockstack copies every write into an aligned buffer",
    ),
    Allowed(
        "the order of operations on different clusters within one guest request",
        "the parts of a request run side by side in both (qcow2_add_task, asyncio): neither promises one",
    ),
    Allowed(
        "everything behind the first refcount block",
        "blockstack puts a new block first in what it counts, QEMU behind the clusters that it was needed for"
        " (alloc_refcount_block): from there on they have other places, so the histories end before",
    ),
    Allowed(
        "what is no operation of the trace: reads, fdatasync(2), how many writes one io_submit(2) carries",
        "they move no data and no size; barriers are tested by power failures (tests/blockstack/test_cache.py)",
    ),
)


class Disk(Protocol):
    """What both drivers offer the guest."""

    async def pwritev(self, offset: int, buffers: Sequence[Buffer]) -> None: ...
    async def pwrite_zeroes(self, offset: int, length: int, unmap: bool = False) -> None: ...
    async def pdiscard(self, offset: int, length: int) -> None: ...
    async def flush(self) -> None: ...


class Request(NamedTuple):
    """One request of the guest; bytes."""

    kind: str  # write, zero, unmap, discard, flush
    offset: int = 0
    length: int = 0


class Call(NamedTuple):
    """One operation on the image, or on its external data file: its `kind` says so. `mode` is fallocate's."""

    kind: str
    offset: int
    length: int
    mode: int


@dataclass(frozen=True, slots=True)
class Course:
    """What a driver did. `steps` has the calls of opening, of each request, and of closing, in order of their begin."""

    steps: list[list[Call]]
    metadata: frozenset[int]  # offsets of the clusters that hold it, at the end
    cluster_size: int


def history(seed: int, count: int, cluster_size: int) -> tuple[int, list[Request]]:
    """A disk's size, and `count` requests: every kind of write, in crowded clusters and in new L2 regions."""
    draw = random.Random(seed)
    size = min(_SIZE, 4 * cluster_size * (cluster_size // 8))
    clusters, sectors = size // cluster_size, cluster_size // SECTOR
    most = max(1, sectors // 2)  # sectors of a partial write
    requests = []
    for _ in range(count):
        start = draw.randrange(min(64, clusters) if draw.random() < 0.6 else clusters) * cluster_size
        inside = SECTOR * draw.randrange(sectors)
        part = SECTOR * draw.randint(1, most)
        request = draw.choices(
            [
                Request("write", start + inside, part),  # sub-cluster, or over the edge
                Request("write", start, draw.randint(1, 3) * cluster_size),  # whole clusters
                Request("write", start + 1024, cluster_size),  # straddling
                Request("write", start + draw.randrange(cluster_size), draw.randint(1, 3 * cluster_size // 2)),
                Request("zero", start + draw.choice((0, inside)), draw.choice((cluster_size, 2 * cluster_size, part))),
                Request("unmap", start + draw.choice((0, inside)), draw.choice((cluster_size, 2 * cluster_size, part))),
                Request("discard", start + draw.choice((0, inside)), draw.choice((cluster_size, 3 * cluster_size))),
                Request("flush"),
            ],
            (25, 15, 12, 10, 8, 8, 12, 10),
        )[0]
        offset = min(request.offset, size - SECTOR)
        requests.append(Request(request.kind, offset, min(request.length, size - offset)))
    return size, requests


async def _play(disk: Disk, requests: list[Request]) -> list[int]:
    """The times (ns) at which each began, and the last one's end."""
    times = []
    for number, (kind, offset, length) in enumerate(requests):
        times.append(time.monotonic_ns())
        if kind == "write":
            await disk.pwritev(offset, [bytes([number % 255 + 1]) * length])
        elif kind == "discard":
            await disk.pdiscard(offset, length)
        elif kind == "flush":
            await disk.flush()
        else:
            await disk.pwrite_zeroes(offset, length, kind == "unmap")
    return [*times, time.monotonic_ns()]


class Stage:
    """A watched scratch file system to play on."""

    def __init__(self, scratch: Scratch, probes: Probes, recorder: Recorder) -> None:
        self._scratch = scratch
        self._probes = probes
        self._recorder = recorder

    def blockstack(
        self, seed: int, count: int, cluster_size: int, option: str = "", strategy: str = "serialise"
    ) -> Course:
        """The history through blockstack, aio=native. `option`: one more of qemu-img create's."""

        async def main(image: AnonymousFile, requests: list[Request]) -> list[int]:
            how = blockstack.open(image.path, "qcow2", aio="native", strategy=strategy, discard=True)
            async with how as disk:
                return await _play(disk, requests)

        def drive(image: AnonymousFile, requests: list[Request]) -> tuple[list[int], int]:
            return asyncio.run(main(image, requests)), os.getpid()

        return self._record(seed, count, cluster_size, option, drive)

    def qemu(self, build: Build, seed: int, count: int, cluster_size: int, option: str = "") -> Course:
        """The history through a qemu-storage-daemon, aio=native, cache.direct=on, discard=unmap."""

        def drive(image: AnonymousFile, requests: list[Request]) -> tuple[list[int], int]:
            async def main() -> list[int]:
                async with connected(daemon) as disk:
                    return await _play(disk, requests)

            with served(build, image.path, aio="native", direct=True) as daemon:
                times = asyncio.run(main())
                daemon.stop()
            return times, daemon.pid

        return self._record(seed, count, cluster_size, option, drive)

    def _record(self, seed: int, count: int, cluster_size: int, option: str, drive: "Drive") -> Course:
        size, requests = history(seed, count, cluster_size)
        with self._scratch.new_file() as image, self._scratch.new_file() as data:
            options = ",".join(
                filter(None, [f"cluster_size={cluster_size}", option.replace(OTHER_FILE, str(data.path))])
            )
            if option.startswith("backing_file"):
                os.pwrite(data.fd, bytes([171]) * (size // 2 + SECTOR), 0)
            children.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image.path), str(size)])
            for file in (image, data):
                self._probes.watch_file(file.fd)
            times, pid = drive(image, requests)
            ops = self._recorder.take()
            for file in (image, data):
                self._probes.unwatch(file.dev, file.ino)
            lost = {
                **self._recorder.dropped_by,
                "program skipped": 0,
            }  # the whole host's; here it would be a difference
            assert not any(lost.values())
            assert self._recorder.unfinished == 0
            metadata = asyncio.run(_metadata(image))
        mine = ops[np.isin(ops["ino"], (image.ino, data.ino)) & (ops["pid"] == pid)]
        return Course(_steps(mine, data.ino, times), metadata, cluster_size)


class Drive(Protocol):
    """Plays the requests on the image: the times of `_play`, and the process that worked on the file."""

    def __call__(self, image: AnonymousFile, requests: list[Request], /) -> tuple[list[int], int]: ...


def _steps(ops: Operations, data_file: int, times: list[int]) -> list[list[Call]]:
    steps: list[list[Call]] = [[] for _ in range(len(times) + 1)]
    for op in ops[np.argsort(ops["seq_begin"])]:
        assert op["result"] >= 0
        kind = Op(int(op["op"]))
        mode = int(op["flags"]) if kind is Op.FALLOCATE else 0
        label = "write" if kind in (Op.AIO_WRITE, Op.DIRECT_WRITE) else kind.label
        label = f"{label} to the data file" if op["ino"] == data_file else label
        steps[bisect_right(times, int(op["t_begin"]))].append(Call(label, int(op["offset"]), int(op["length"]), mode))
    return steps


async def _metadata(image: AnonymousFile) -> frozenset[int]:
    """Offsets of the clusters with metadata in a closed image."""
    async with blockstack.open(image.path, "qcow2", read_only=True) as disk:
        node = disk.node
        assert isinstance(node, Qcow2)
        await node.refcounts.load()
        header, size = node.header, node.header.cluster_size
        table = range(
            header.refcount_table_offset, header.refcount_table_offset + header.refcount_table_clusters * size
        )
        l1 = range(header.l1_offset, header.l1_offset + header.l1_entries * 8)
        found = [0, *table[::size], *l1[::size]]
        found += [*node.mapping.table_offsets.tolist(), *node.refcounts.block_offsets.tolist()]
        assert len(node.refcounts.block_offsets) == 1, "the history is too long for what is compared"
        return frozenset(found)


def differences(one: Course, other: Course) -> list[str]:
    """What `ALLOWED` does not cover, a line each."""
    found = []
    if one.metadata != other.metadata:
        found.append(f"metadata lies at {sorted(one.metadata ^ other.metadata)} in one of the two")
    for number, (left, right) in enumerate(zip(one.steps, other.steps, strict=True)):
        mine, theirs = Counter(left), Counter(right)
        found += [f"step {number}: only the first has {call}" for call in (mine - theirs).elements()]
        found += [f"step {number}: only the second has {call}" for call in (theirs - mine).elements()]
        if mine == theirs:
            found += [f"step {number}: {a} is before {b} in the first only" for a, b in _swapped(left, right, one)]
    return found


def _swapped(left: list[Call], right: list[Call], course: Course) -> list[tuple[Call, Call]]:
    """Pairs of one request's calls whose order differs, although there is one."""
    places: dict[Call, list[int]] = {}
    for place, call in enumerate(right):
        places.setdefault(call, []).append(place)
    at = [places[call].pop(0) for call in left]
    several = sum(call.kind.startswith("write") and not _is_metadata(call, course) for call in left) > 1
    return [
        (left[i], left[j])
        for i in range(len(left))
        for j in range(i + 1, len(left))
        if at[i] > at[j] and _ordered(left[i], left[j], course, several)
    ]


def _ordered(a: Call, b: Call, course: Course, several: bool) -> bool:
    """Whether `a` and `b` have an order: what touches has one, and all metadata; data and metadata where the request
    has but one part, whose metadata that must be.
    """
    if _in_data_file(a) == _in_data_file(b) and a.offset < b.offset + b.length and b.offset < a.offset + a.length:
        return True
    metadata = _is_metadata(a, course) + _is_metadata(b, course)
    return metadata == 2 or (metadata == 1 and not several)


def _in_data_file(call: Call) -> bool:
    return call.kind.endswith(" to the data file")


def _is_metadata(call: Call, course: Course) -> bool:
    return not _in_data_file(call) and call.offset - call.offset % course.cluster_size in course.metadata
