"""The rows of the table: what is done, on what image, and how fast it has to be."""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class Workload:
    """What `qemu-img bench` takes. Sizes in bytes.

    Request n lies at `(start + n * step) % size`, as in QEMU's img_bench(), so that both sides do the same.
    """

    name: str
    title: str
    write: bool
    count: int
    length: int
    step: int
    size: int  # of the disk
    start: int = 0
    depth: int = 32
    filled: bool = False  # every cluster has data before it begins; else the image is fresh in each round
    at_least: float = 1.0  # ratio to qemu-img bench

    def scaled(self, part: float) -> "Workload":
        """The same with a part of the requests."""
        return Workload(
            self.name,
            self.title,
            self.write,
            max(self.depth, int(self.count * part)),
            self.length,
            self.step,
            self.size,
            self.start,
            self.depth,
            self.filled,
            self.at_least,
        )

    @property
    def offsets(self) -> list[int]:
        """Of every request, in order."""
        return [(self.start + number * self.step) % self.size for number in range(self.count)]


WORKLOADS = (
    Workload(
        "allocate",
        "4 KiB writes, each allocating a fresh 64 KiB cluster",
        write=True,
        count=8_000,
        length=4 * KIB,
        step=64 * KIB,
        size=8_000 * 64 * KIB,
    ),
    Workload(
        "overwrite",
        "4 KiB sequential overwrites",
        write=True,
        count=50_000,
        length=4 * KIB,
        step=4 * KIB,
        size=256 * MIB,
        filled=True,
        at_least=0.5,
    ),
    # qemu-img bench knows no random offsets. A step that has no divisor in common with the number of blocks comes by
    # every block once, 96 MiB and a block from the one before.
    Workload(
        "random-read",
        "4 KiB random reads (the same permutation of all blocks for both)",
        write=False,
        count=50_000,
        length=4 * KIB,
        step=96 * MIB + 4 * KIB,
        size=256 * MIB,
        filled=True,
        at_least=0.5,
    ),
    Workload(
        "unaligned",
        "64 KiB writes at offset 1 KiB, fresh image (-d 64 -o 1k -s 64k)",
        write=True,
        count=50_000,
        length=64 * KIB,
        step=64 * KIB,
        size=50_001 * 64 * KIB,
        start=KIB,
        depth=64,
    ),
)
"""Issue 4's rows."""
