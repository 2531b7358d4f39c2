"""What stands behind the zero-write: one case each, of which every round draws fresh writes.

| case | the write W behind the zero-write F |
|---|---|
| `data` | guest data in the next cluster |
| `far` | guest data with many clusters in between, which other guest writes have taken |
| `l2-table` | a new L2 table |
| `refcount-block` | a new refcount block |

A held write is known by how it begins. Guest data is stamped; of metadata it is predictable: an L2 table is first
written empty (QEMU: l2_allocate), and a new refcount block counts nothing but itself (QEMU: alloc_refcount_block).
"""

import enum
from dataclasses import dataclass

import blockstack
from blockstack.guest import GuestWrite
from blockstack.qcow2 import Qcow2
from tracer.verify.held.guest import PREFIX, Guest, prefix


class Order(enum.StrEnum):
    """Which of the two comes first."""

    ZERO_WRITE_FIRST = "zero-write-first"  # F stands before its fallocate(2): W has to be held off
    WRITE_FIRST = "write-first"  # W is in flight at the disk: F has to wait for it
    WRITE_FAILS_FIRST = "write-fails-first"  # F waits for a write that fails, and another one got past it meanwhile


@dataclass(frozen=True, slots=True)
class Rule:
    """Which writes the disk holds (`HeldDisk.hold`)."""

    prefix: bytes
    length: int | None = None  # bytes, as they reach the disk
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The guest writes of one round, in the order in which their clusters are allocated."""

    zero: GuestWrite  # needs a zero-write
    between: tuple[GuestWrite, ...]  # take clusters, and are kept back until the round is over
    write: GuestWrite  # full clusters: causes W and no zero-write
    rule: Rule  # that holds W


class Case:
    """Guest data in the next cluster; the other cases differ in one thing each."""

    name = "data"
    cluster_size = 65536
    size = 1 << 30
    orders: tuple[Order, ...] = tuple(Order)
    guest_data = True
    """Whether W is the guest's own data, so that the oracle misses it if it is cut off."""

    async def prepare(self, disk: blockstack.Disk, guest: Guest) -> None:
        """Bring the image to where a round begins, with nothing in flight. Raises OSError."""

    def script(self, guest: Guest) -> Script:
        """The writes of one round."""
        zero = self._zero(guest)
        write = guest.fresh(self.cluster_size)
        return Script(zero, (), write, Rule(prefix(write)))

    def _zero(self, guest: Guest) -> GuestWrite:
        return guest.fresh(self.cluster_size // 8)


class Far(Case):
    """With `_CLUSTERS` clusters in between."""

    name = "far"
    orders = (Order.ZERO_WRITE_FIRST, Order.WRITE_FIRST)

    _CLUSTERS = 64  # 4 MiB

    def script(self, guest: Guest) -> Script:
        """The writes of one round."""
        zero = self._zero(guest)
        between = tuple(guest.fresh(self.cluster_size // 16) for _ in range(self._CLUSTERS))
        write = guest.fresh(self.cluster_size)
        return Script(zero, between, write, Rule(prefix(write)))


class L2Table(Case):
    """A write to a region of the guest's disk that has no L2 table yet."""

    name = "l2-table"
    size = 2 << 30
    orders = (Order.ZERO_WRITE_FIRST, Order.WRITE_FIRST)
    guest_data = False

    def script(self, guest: Guest) -> Script:
        """The writes of one round."""
        zero = self._zero(guest)
        return Script(zero, (), guest.fresh_region(), Rule(bytes(PREFIX), self.cluster_size, 1))


class RefcountBlock(Case):
    """A write for which the last refcount block has no cluster left."""

    name = "refcount-block"
    cluster_size = 4096  # a block counts 2048 clusters: 8 MiB
    size = 64 << 20
    orders = (Order.ZERO_WRITE_FIRST, Order.WRITE_FIRST)
    guest_data = False

    async def prepare(self, disk: blockstack.Disk, guest: Guest) -> None:
        """Fill the image up to the last cluster that the last refcount block counts."""
        node = disk.node
        assert isinstance(node, Qcow2)
        per_block = self.cluster_size // 2
        # Everything so far was allocated one behind the other and written in full: the file ends where the next one
        # goes.
        following = -(-disk.file.length // self.cluster_size)
        while await node.refcounts.get(following * self.cluster_size):
            following += 1
        room = per_block - 1 - following % per_block
        while room > 1:
            clusters = min(room - 1, guest.per_region)  # and one for the L2 table
            await guest.write(guest.fresh_region(clusters))
            room -= clusters + 1
        if room:
            await guest.write(guest.fresh(self.cluster_size))
        await disk.flush()

    def script(self, guest: Guest) -> Script:
        """The writes of one round."""
        zero = self._zero(guest)
        write = guest.fresh(self.cluster_size)
        alone = (1).to_bytes(2, "big").ljust(PREFIX, b"\0")
        return Script(zero, (), write, Rule(alone, self.cluster_size, 1))


CASES: tuple[Case, ...] = (Case(), Far(), L2Table(), RefcountBlock())
"""In the order in which they are run."""
