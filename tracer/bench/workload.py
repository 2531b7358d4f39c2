"""What a guest does while it is timed: workloads by name, and what may be changed in them."""

import dataclasses
import enum
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracer.errors import UsageError

KIB, MIB = 1 << 10, 1 << 20

CLUSTER = 64 * KIB
"""Of an image unless somebody says otherwise, in bytes; `WORKLOADS` are written for it, and scaled to others."""


class Image(enum.StrEnum):
    """What the disk is before the first request."""

    FRESH = "fresh"
    """Empty."""
    FILLED = "filled"
    """Every cluster has data."""
    PREALLOCATED = "preallocated"
    """Every cluster is allocated and has none (preallocation=falloc): nothing is zeroed, and the file has its size."""
    BACKED = "backed"
    """Empty, over a backing file full of data: a part of a cluster is copied up."""


class Kind(enum.IntEnum):
    """Of a request."""

    READ = 0
    WRITE = 1
    FLUSH = 2


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `allocates`: it is the first to a cluster of an image that has none of its own."""

    kind: Kind
    offset: int
    allocates: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one size, at offsets that step through the disk as QEMU's img_bench() does, or at random ones.

    Request n lies at `(start + n * step) % size`. Sizes in bytes.
    """

    name: str
    title: str
    length: int
    step: int
    start: int = 0
    image: Image = Image.FRESH
    count: int = 4_000
    depth: int = 32
    random: bool = False
    """In an order that the seed decides, instead."""
    reads: int = 0
    """Of a hundred requests, drawn by the seed."""
    flush_every: int = 0
    """Writes between two flushes; 0: there are none."""
    within: int = 0
    """Bytes after which places begin anew, as `qemu-img bench` has it: the size of the disk; 0: they never do."""

    @property
    def size(self) -> int:
        """Of the disk: every request has its place, in whole clusters of any size."""
        if self.within:
            return self.within
        return -(-(self.start + (self.count - 1) * self.step + self.length) // (2 * MIB)) * (2 * MIB)

    @property
    def qemu_can(self) -> bool:
        """Whether `qemu-img bench` can do the same: it knows neither random offsets nor a mix."""
        return not self.random and not 0 < self.reads < 100

    def requests(self, seed: int, cluster_size: int) -> Iterator[Request]:
        """All of them, in order; the same for a seed on every host."""
        chosen = random.Random(seed)
        numbers = list(range(self.count))
        if self.random:
            chosen.shuffle(numbers)
        fresh = self.image in (Image.FRESH, Image.BACKED)
        allocated: set[int] = set()
        writes = 0
        for number in numbers:
            offset = self.start + number * self.step
            if self.within:
                offset %= self.within
            if self.reads and chosen.random() * 100 < self.reads:
                yield Request(Kind.READ, offset)
                continue
            touched = range(offset // cluster_size, (offset + self.length - 1) // cluster_size + 1)
            yield Request(Kind.WRITE, offset, fresh and not allocated.issuperset(touched))
            allocated.update(touched)
            writes += 1
            if self.flush_every and writes % self.flush_every == 0:
                yield Request(Kind.FLUSH, 0)


def named(cluster_size: int = CLUSTER) -> dict[str, Workload]:
    """The workloads by name, for clusters of that size."""
    small = min(4 * KIB, cluster_size)
    found = (
        Workload("sequential", "whole clusters, one behind the other", cluster_size, cluster_size),
        Workload("sub-cluster", f"{small // KIB} KiB of each cluster, one behind the other", small, cluster_size),
        Workload(
            "random", f"{small // KIB} KiB of each cluster, in random order", small, cluster_size, random=True
        ),
        Workload(
            "straddling", "a cluster's length at 1 KiB, over two clusters each", cluster_size, cluster_size, KIB,
            depth=64,
        ),
        Workload("append", f"{small // KIB} KiB, one behind the other, on an image that grows", small, small),
        Workload(
            "overwrite", f"{small // KIB} KiB, one behind the other, where data is", small, small, image=Image.FILLED
        ),
        Workload(
            "backing", f"{small // KIB} KiB of each cluster, over a backing file", small, cluster_size,
            image=Image.BACKED,
        ),
        Workload(
            "preallocated", f"{small // KIB} KiB of each cluster, allocated before", small, cluster_size,
            image=Image.PREALLOCATED,
        ),
        Workload(
            "mixed", f"{small // KIB} KiB, 30 % reads, a flush after each 64 writes", small, cluster_size,
            random=True, reads=30, flush_every=64,
        ),
    )  # fmt: skip
    return {workload.name: workload for workload in found}


WORKLOADS = tuple(named())
"""Their names."""


def chosen(
    names: Sequence[str],
    cluster_size: int,
    *,
    count: int | None = None,
    depth: int | None = None,
    block_size: int | None = None,
    step: int | None = None,
    offset: int | None = None,
    read_mix: int | None = None,
    shuffled: bool = False,
) -> tuple[Workload, ...]:
    """The workloads of these names (all, if there is none), or one of the user's own; sizes and places in bytes.

    Raises UsageError for parameters that do not fit together.
    """
    if block_size is None and (shuffled or any(given is not None for given in (step, offset, read_mix))):
        raise UsageError("--step, --offset, --read-mix and --random describe a workload of your own: add --block-size")
    if block_size is not None and names:
        raise UsageError("--block-size makes a workload of your own and --workload names one: use one of them")
    if block_size is None:
        known = named(cluster_size)
        found = [known[name] for name in dict.fromkeys(names or WORKLOADS)]
    else:
        step = step or block_size
        if step < block_size:
            raise UsageError(f"--step {step} is less than --block-size: requests in flight would overlap")
        title = f"{block_size} bytes in each {step}{', in random order' if shuffled else ''}, {read_mix or 0} % reads"
        found = [Workload("own", title, block_size, step, offset or 0, random=shuffled, reads=read_mix or 0)]
    return tuple(dataclasses.replace(one, count=count or 2000, depth=depth or one.depth) for one in found)
