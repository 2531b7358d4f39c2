"""Lazy refcounts: a dirty bit in the header instead of refcounts that are right at any time (QEMU: qcow2_mark_dirty,
qcow2_mark_clean).

While the bit is set, L2 tables do not wait for refcounts. Who opens the image for writing after a crash repairs them.
"""

from blockstack.node import Node
from blockstack.qcow2.header import INCOMPAT_DIRTY, INCOMPATIBLE, Header, rewrite


class DirtyBit:
    """The bit of one open image. `is_set` says whether this driver has set it; a read-only one never does."""

    def __init__(self, header: Header, file: Node, *, read_only: bool) -> None:
        self.lazy = header.lazy_refcounts and not read_only
        self.is_set = False
        self._header = header
        self._file = file

    async def set(self) -> None:
        """Make the bit stable before the first entry that does without a refcount. Raises OSError."""
        if not self.is_set:
            incompatible = self._header.incompatible | INCOMPAT_DIRTY
            await self._file.pwritev(INCOMPATIBLE, [incompatible.to_bytes(8, "big")], metadata=True)
            await self._file.flush()
            self._header.incompatible = incompatible
            self.is_set = True

    async def clear(self) -> None:
        """Take the bit back; the refcounts must be stable. Raises OSError."""
        if self.is_set:
            incompatible = self._header.incompatible & ~INCOMPAT_DIRTY
            await rewrite(self._file, self._header, INCOMPATIBLE, incompatible)
            self._header.incompatible = incompatible
            self.is_set = False
