"""Knows which write owns every sector of the guest's disk, and counts every byte that reads back otherwise."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from blockstack.guest.stamp import WORD, decode, stamp

SECTOR = 512
"""Granularity of ownership, in bytes: guest writes are multiples of it."""

ANYTHING = 2**32 - 1
"""Owner of a sector whose content the guest has given up."""


@dataclass(slots=True)
class Damage:
    """Bytes that did not read back as written, by what was found in their place."""

    zero_bytes: int = 0  # nothing where data was acknowledged
    stale_bytes: int = 0  # an earlier write's data at its own place
    misplaced_bytes: int = 0  # data stamped for another place
    foreign_bytes: int = 0  # no stamp at all
    clusters: set[int] = field(default_factory=set)  # guest clusters with any of these
    ranges: list[tuple[int, int]] = field(default_factory=list)  # guest ranges [start, end), ascending, in bytes

    @property
    def bytes(self) -> int:
        """All wrong bytes."""
        return self.zero_bytes + self.stale_bytes + self.misplaced_bytes + self.foreign_bytes


class Oracle:
    """The content that the guest is entitled to, cluster by cluster."""

    def __init__(self, cluster_size: int) -> None:
        self.cluster_size = cluster_size
        self._owners: dict[int, npt.NDArray[np.uint32]] = {}

    @property
    def clusters(self) -> list[int]:
        """Guest clusters with acknowledged data, ascending."""
        return sorted(self._owners)

    def acknowledge(self, number: int, offset: int, length: int) -> None:
        """Write `number` was acknowledged, or a zero-write if that is 0; offset and length in bytes, multiples of
        SECTOR.
        """
        at, end = offset, offset + length
        while at < end:
            cluster, within = divmod(at, self.cluster_size)
            count = min(end - at, self.cluster_size - within)
            owners = self._owners.get(cluster)
            if owners is None:
                owners = self._owners[cluster] = np.zeros(self.cluster_size // SECTOR, dtype=np.uint32)
            owners[within // SECTOR : (within + count) // SECTOR] = number
            at += count

    def forget(self, offset: int, length: int) -> None:
        """A discard was acknowledged, or sent and not answered: any content is right from now on."""
        self.acknowledge(ANYTHING, offset, length)

    def compare_cluster(self, cluster: int, content: bytes, damage: Damage) -> None:
        """Add to `damage` what differs in one guest cluster from what must be there: zeroes, where nobody wrote."""
        data = np.frombuffer(content, dtype=np.uint8)
        start = cluster * self.cluster_size
        sectors = self._owners.get(cluster)
        if sectors is None:
            sectors = np.zeros(self.cluster_size // SECTOR, dtype=np.uint32)
        owners = np.repeat(sectors.astype(np.uint64), SECTOR // WORD)
        wrong = (data != stamp(owners, start)) & np.repeat(sectors != ANYTHING, SECTOR)
        if not wrong.any():
            return
        damage.clusters.add(cluster)
        numbers, places = decode(data)
        expected = np.uint64(start) + np.arange(len(owners), dtype=np.uint64) * np.uint64(WORD)
        zero = data == 0
        stale = np.repeat((numbers != 0) & (places == expected), WORD)
        misplaced = np.repeat((numbers != 0) & (places != expected), WORD)
        damage.zero_bytes += int(np.count_nonzero(wrong & zero))
        damage.stale_bytes += int(np.count_nonzero(wrong & stale))
        damage.misplaced_bytes += int(np.count_nonzero(wrong & misplaced))
        damage.foreign_bytes += int(np.count_nonzero(wrong & ~zero & ~stale & ~misplaced))
        edges = np.flatnonzero(np.diff(wrong, prepend=False, append=False))
        damage.ranges.extend((start + int(a), start + int(b)) for a, b in edges.reshape(-1, 2))

    def predict(self, cluster: int, start: int, end: int, damage: Damage) -> None:
        """Count the guest's bytes in [start, end) of a cluster as gone, as if zeroes were read there."""
        owners = self._owners.get(cluster)
        if owners is None:
            return
        content = np.repeat((owners != 0) & (owners != ANYTHING), SECTOR)
        content[:start] = content[end:] = False
        count = int(np.count_nonzero(content))
        if count:
            damage.zero_bytes += count
            damage.clusters.add(cluster)
            edges = np.flatnonzero(np.diff(content, prepend=False, append=False)) + cluster * self.cluster_size
            damage.ranges.extend((int(a), int(b)) for a, b in edges.reshape(-1, 2))
