"""The image that every schedule begins with, and an independent reader that says what the guest would find in a file.

The reader knows the format and nothing of the driver: what blockstack remembers in memory, or gets wrong when it reads,
must not hide that data is gone.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import blockstack
from blockstack.guest.oracle import SECTOR
from blockstack.qcow2.header import OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_ZERO
from blockstack.sim.driver import LiveDriver, Setting
from blockstack.sim.inode import BLOCK, ZEROES
from blockstack.sim.models import MODELS
from blockstack.sim.world import World
from blockstack.strategies import STRATEGIES
from tracer import interrupts

_HEADER = struct.Struct(">4sIQIIQIIQQ")
_REGIONS = 3
"""L2 tables of the disk."""


@dataclass(frozen=True, slots=True)
class Image:
    """A file's blocks that are not zero, and its size in bytes."""

    blocks: dict[int, bytes]
    size: int
    cluster_size: int

    @property
    def region(self) -> int:
        """Clusters that one L2 table maps."""
        return self.cluster_size // 8


@cache
def prepared(cluster_size: int, *, tight: bool) -> Image:
    """A small image with its first L2 table; of a `tight` one the refcount block has room for one more cluster.

    Clusters 6 and up of the first L2 table are in use in a tight image; cluster 16 in any.
    """
    region = cluster_size // 8
    with open(os.memfd_create("image"), "rb") as file:  # a worker is killed wherever it is, and must leave nothing
        size = _REGIONS * region * cluster_size
        path = f"/proc/self/fd/{file.fileno()}"
        interrupts.run(blockstack.create(path, size, cluster_size=cluster_size, refcount_bits=64))
        raw = file.read()
    blocks = {index: raw[index * BLOCK :][:BLOCK] for index in range(len(raw) // BLOCK)}
    # Header, refcount table and block, L1 and L2 table take 5; one is left.
    first, count = (6, region - 6) if tight else (16, 1)
    setting = Setting(
        STRATEGIES["no-alloc-space"],
        MODELS["xfs-fixed"],
        _without_zeroes(blocks),
        len(raw),
        (
            lambda disk: disk.pwritev(first * cluster_size, [bytes(count * cluster_size)]),
            lambda disk: disk.flush(),
        ),
    )
    world = World(setting, LiveDriver(setting), [(), (0,)])
    while enabled := world.enabled():
        world.take(enabled[0])
    assert world.ended == {0: 0, 1: 0}
    return Image(_without_zeroes(world.inode.blocks), world.inode.size, cluster_size)


def _without_zeroes(blocks: Mapping[int, bytes]) -> dict[int, bytes]:
    return {index: data for index, data in blocks.items() if data != ZEROES}


class Reader:
    """Reads a guest's sectors from the blocks of a qcow2 file that ends at `size` bytes. Raises nothing: what a table
    points to beyond the end reads as zeroes, as it does through the driver.
    """

    def __init__(self, blocks: Mapping[int, bytes], size: int, cluster_size: int) -> None:
        self._blocks = blocks
        self._size = size
        self._cluster_size = cluster_size
        self._hosts: dict[int, int | None] = {}
        fields = _HEADER.unpack_from(self._get(0))
        self._l1_offset, self._refcount_table = fields[8], fields[9]

    def sector(self, number: int) -> bytes:
        """Guest sector `number`."""
        cluster, within = divmod(number * SECTOR, self._cluster_size)
        host = self.host(cluster)
        return ZEROES if host is None else self._get((host + within) // BLOCK)

    def host(self, cluster: int) -> int | None:
        """Host offset of a guest cluster, None where it reads as zeroes."""
        if cluster not in self._hosts:
            self._hosts[cluster] = self._host(cluster)
        return self._hosts[cluster]

    def _host(self, cluster: int) -> int | None:
        index, within = divmod(cluster, self._cluster_size // 8)
        table = self.word(self._l1_offset + 8 * index) & OFFSET_MASK
        entry = self.word(table + 8 * within) if table else 0
        return entry & OFFSET_MASK if entry & OFFSET_MASK and not entry & (OFLAG_ZERO | OFLAG_COMPRESSED) else None

    def tables(self) -> list[int]:
        """Host offsets of the L2 tables."""
        offsets = [self.word(self._l1_offset + 8 * index) & OFFSET_MASK for index in range(_REGIONS)]
        return [offset for offset in offsets if offset]

    @property
    def magic(self) -> bytes:
        """The first four bytes."""
        return self._get(0)[:4]

    @property
    def entries(self) -> int:
        """Entries of an L2 table."""
        return self._cluster_size // 8

    def refcount(self, offset: int) -> int:
        """References to the cluster at `offset` of the file; of 64 bits each, as `prepared` makes them."""
        index, within = divmod(offset // self._cluster_size, self._cluster_size // 8)
        block = self.word(self._refcount_table + 8 * index)
        return self.word(block + 8 * within) if block else 0

    def word(self, offset: int) -> int:
        """The big-endian 64-bit word at `offset` of the file."""
        return int.from_bytes(self._get(offset // BLOCK)[offset % BLOCK :][:8], "big")

    def _get(self, index: int) -> bytes:
        if (index + 1) * BLOCK > self._size:
            return self._blocks.get(index, ZEROES)[: max(0, self._size - index * BLOCK)].ljust(BLOCK, b"\0")
        return self._blocks.get(index, ZEROES)
