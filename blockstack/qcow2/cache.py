"""The cache of L2 tables and that of refcount blocks, which order each other's writes (QEMU: block/qcow2-cache.c).

What is on the disk must be consistent whenever the power fails: at worst, clusters are leaked. So an entry that points
to a cluster is written after the refcount of the cluster, and a refcount that falls after the entry that pointed there.
Each cache may depend on the other one, never both at once: before it writes a table, it writes everything of the other
and flushes the file. All of it runs under the image's metadata lock.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockstack.node import Node
from blockstack.qcow2.header import Header

MAX_L2_BYTES: Final = 32 << 20
"""Default of the L2 cache where the whole disk takes more (QEMU: DEFAULT_L2_CACHE_MAX_SIZE on Linux)."""
MIN_L2_TABLES: Final = 2
"""QEMU: MIN_L2_CACHE_SIZE."""
MIN_REFCOUNT_BLOCKS: Final = 4
"""QEMU: MIN_REFCOUNT_CACHE_SIZE."""

Entries = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(slots=True, eq=False)
class Table:
    """One L2 table or refcount block at host offset `offset`."""

    offset: int
    entries: Entries
    dirty: bool = False
    used: bool = True  # since eviction last came by


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Bytes of each cache, as they lie on the disk; None for QEMU's defaults (QEMU: l2-cache-size,
    refcount-cache-size).

    Too small a size is raised to the minimum, as in QEMU. Raises ValueError for a negative one.
    """

    l2: int | None = None
    refcounts: int | None = None

    def __post_init__(self) -> None:
        for what, size in (("L2", self.l2), ("refcount", self.refcounts)):
            if size is not None and size < 0:
                raise ValueError(f"{what} cache size {size} is negative")

    def l2_tables(self, header: Header) -> int:
        """L2 tables to keep: by default those of the whole disk, up to 32 MiB (QEMU: read_cache_sizes)."""
        size = min(MAX_L2_BYTES, header.l1_needed * header.cluster_size) if self.l2 is None else self.l2
        return max(MIN_L2_TABLES, size // header.cluster_size)

    def refcount_blocks(self, header: Header) -> int:
        """Refcount blocks to keep."""
        return max(MIN_REFCOUNT_BLOCKS, (self.refcounts or 0) // header.cluster_size)


DEFAULT_SIZES: Final = CacheSizes()


class Cache:
    """At most `limit` tables of one kind, each of which fills one cluster, by their index in the table above them.

    `barrier` makes stable what was written so far, where that is in more than `file`. A table that was got must not be
    changed behind an `await` of `add` to the same cache: it may be evicted there.
    """

    def __init__(
        self,
        file: Node,
        limit: int,
        pack: Callable[[Entries], bytes],
        barrier: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.limit = limit
        self.depends_on_flush = False  # what the tables rely on is written, and not stable yet (COW)
        self._file = file
        self._pack = pack
        self._barrier = barrier
        self._tables: dict[int, Table] = {}
        self._depends: Cache | None = None

    def __len__(self) -> int:
        return len(self._tables)

    def get(self, index: int) -> Table | None:
        """The table if it is cached."""
        table = self._tables.get(index)
        if table is not None:
            table.used = True
        return table

    async def add(self, index: int, table: Table) -> None:
        """Keep `table`, in place of an older one or of one that was not used lately. Raises OSError."""
        self._tables.pop(index, None)
        while len(self._tables) >= self.limit:
            await self._evict_one()
        self._tables[index] = table

    def forget(self, index: int) -> None:
        """Drop a table, its changes too."""
        self._tables.pop(index, None)

    def forget_from(self, first: int) -> None:
        """Drop the tables with an index of `first` and higher, their changes too."""
        for index in [index for index in self._tables if index >= first]:
            del self._tables[index]

    async def depend_on(self, other: "Cache") -> None:
        """Write `other` before anything that is dirty here from now on (QEMU: qcow2_cache_set_dependency).

        May have to write tables. Raises OSError.
        """
        if self._depends is other and other._depends is None:
            return
        if other._depends is not None:
            await other._flush_dependency()
        if self._depends is not None and self._depends is not other:
            await self._flush_dependency()
        self._depends = other

    async def write(self) -> None:
        """Write what is dirty, after what it depends on (QEMU: qcow2_cache_write). Raises OSError."""
        for table in [table for table in self._tables.values() if table.dirty]:
            await self._write(table)

    async def flush(self) -> None:
        """Write what is dirty and make it stable (QEMU: qcow2_cache_flush). Raises OSError."""
        await self.write()
        await self._make_stable()

    async def _make_stable(self) -> None:
        if self._barrier is None:
            await self._file.flush()
        else:
            await self._barrier()

    async def _flush_dependency(self) -> None:
        assert self._depends is not None
        await self._depends.flush()
        self._depends = None
        self.depends_on_flush = False

    async def _write(self, table: Table) -> None:
        """QEMU: qcow2_cache_entry_flush."""
        if self._depends is not None:
            await self._flush_dependency()
        elif self.depends_on_flush:
            await self._make_stable()
            self.depends_on_flush = False
        table.dirty = False
        try:
            await self._file.pwritev(table.offset, [self._pack(table.entries)], metadata=True)
        except BaseException:
            table.dirty = True
            raise

    async def _evict_one(self) -> None:
        """The oldest that was not used since this last came by: least recently used, without a list to keep in order
        at every hit.
        """
        while True:
            index, table = next(iter(self._tables.items()))
            if not table.used:
                break
            table.used = False
            self._tables[index] = self._tables.pop(index)
        if table.dirty:
            await self._write(table)
        del self._tables[index]
