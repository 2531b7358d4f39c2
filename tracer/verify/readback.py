"""What is on the disk, compared with the oracle byte by byte: through blockstack, and through qemu-img."""

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import blockstack
from blockstack.guest import Damage, Oracle
from blockstack.qcow2 import Qcow2
from tracer.lab import children
from tracer.lab.scratch import Scratch

QEMU_SECONDS = 600.0
"""Time limit of one qemu-img run."""


@dataclass(slots=True)
class Readback:
    """Both comparisons, and qemu-img's check of the image. None: there is no qemu-img."""

    driver: Damage
    qemu: Damage | None = None
    check: dict[str, int] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def worst(self) -> Damage:
        """The comparison that found more."""
        return max((self.driver, self.qemu or self.driver), key=lambda damage: damage.bytes)

    @property
    def check_errors(self) -> int:
        """Errors and leaks that qemu-img check found."""
        return sum((self.check or {}).values())


async def read_back(image: Path, oracle: Oracle, aio: str, *, direct: bool) -> Damage:
    """Compare through a fresh read-only blockstack. Raises OSError, ImageError."""
    size = oracle.cluster_size
    async with blockstack.open(image, "qcow2", aio=aio, direct=direct, read_only=True) as disk:
        node = disk.node
        assert isinstance(node, Qcow2)
        mapped = {guest for guest, *_ in await node.mapping.extents()}
        damage = Damage()
        for cluster in sorted(mapped | set(oracle.clusters)):
            data = await disk.preadv(cluster * size, size)
            oracle.compare_cluster(cluster, data, damage)
    return damage


def read_back_with_qemu(
    image: Path, oracle: Oracle, scratch: Scratch, into: Readback, *, format: str = "qcow2"
) -> None:
    """Compare through `qemu-img convert`, and have `qemu-img check` look at the image. Adds to `into`.

    Raises UnsupportedError where there is no qemu-img, ChildError where it fails.
    """
    with scratch.new_file() as raw:
        # Without it QEMU has XFS allocate 1 MiB at a time (5.1, file-posix: extent_size_hint), for each cluster here.
        options = ["-o", "extent_size_hint=0"]
        words = ["qemu-img", "convert", "-f", format, "-O", "raw", *options, str(image), str(raw.path)]
        children.run(words, seconds=QEMU_SECONDS)
        into.qemu = _compare_raw(raw.fd, oracle)
    if format == "raw":
        return  # nothing in it could be wrong
    words = ["qemu-img", "check", "-f", format, "--output=json", str(image)]
    # 2: errors, 3: leaks (qemu-img(1)); both print their report.
    finished = children.run(words, seconds=QEMU_SECONDS, accept=(0, 2, 3))
    report = json.loads(finished.stdout)
    names = ("corruptions", "leaks", "check-errors")
    into.check = {name: int(report.get(name, 0)) for name in names}


def _compare_raw(fd: int, oracle: Oracle) -> Damage:
    damage = Damage()
    size = oracle.cluster_size
    for cluster in sorted(set(oracle.clusters) | _clusters_with_data(fd, size)):
        data = os.pread(fd, size, cluster * size)
        oracle.compare_cluster(cluster, data.ljust(size, b"\0"), damage)
    return damage


def _clusters_with_data(fd: int, size: int) -> set[int]:
    """Clusters of a sparse file that are not holes: whatever the oracle knows nothing of has to be zero."""
    found: set[int] = set()
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind `at`
                return found
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.update(range(start // size, -(-at // size)))
