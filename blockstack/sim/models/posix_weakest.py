"""`posix-weakest`: anything that the standard allows.

POSIX.1-2017, System Interfaces 2.9.7, has write(), pwrite() and ftruncate() atomic with respect to each other in what
they do to a regular file; fallocate(2) is not of POSIX and posix_fallocate() is not in that list. So a fallocate here
is no single moment at all: it looks at the size, zeroes one half and the other, and sets a size, with anything between.
An asynchronous write has no order to any other operation until it has completed: data and size come apart.
"""

from blockstack.fallocate.calls import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.sim.calls import Call, Step
from blockstack.sim.footprint import (
    CONTENT,
    FALLOCATE_EDGE,
    SIZE_MAX,
    SIZE_READ,
    SIZE_SET,
    WRITE_EDGE,
    content_written,
)
from blockstack.sim.inode import Inode
from blockstack.sim.models.base import FileSystem
from blockstack.sim.models.xfs_fixed import new_size


class PosixWeakest(FileSystem):
    """No lock, and nobody waits for anybody."""

    name = "posix-weakest"
    file_system = "posix"
    since = "no kernel in particular"

    def write(self, inode: Inode, call: Call) -> Step:
        """aio_write(): begin, data, size and completion."""
        return Step("the write begins", WRITE_EDGE, self._write)

    def _write(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        return Step("the write's data is in the file", content_written(call.offset, call.length), self._written)

    def _written(self, inode: Inode, call: Call) -> Step:
        inode.put(call.offset, call.data)
        return Step("the write raises the size, and completes", SIZE_MAX | WRITE_EDGE, self._complete)

    def _complete(self, inode: Inode, call: Call) -> int:
        call.applies(inode)
        inode.raise_size(call.behind)
        return call.length

    def fallocate(self, inode: Inode, call: Call) -> Step:
        """Look at the size; zero one half and the other; set the size."""
        return Step("fallocate begins, and looks at the size", SIZE_READ | FALLOCATE_EDGE, self._sampled)

    def _sampled(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        size = new_size(inode, call)
        if size is None:
            last = Step("fallocate ends", FALLOCATE_EDGE, lambda inode, call: 0)
        else:
            touch = SIZE_SET | CONTENT | FALLOCATE_EDGE
            last = Step("fallocate sets the size", touch, lambda inode, call: self._set(inode, call, size))
        if not call.flags & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE):
            return last
        middle = call.offset + call.length // 2
        return _zeroing(call.offset, middle, _zeroing(middle, call.behind, last))

    def _set(self, inode: Inode, call: Call, size: int) -> int:
        call.applies(inode)
        inode.set_size(size)
        return 0

    def truncate(self, inode: Inode, call: Call) -> Step:
        """ftruncate(): atomic."""
        return Step("ftruncate", SIZE_READ | SIZE_SET | CONTENT | FALLOCATE_EDGE, self._truncate)

    def _truncate(self, inode: Inode, call: Call) -> int:
        call.begins(inode)
        return self._set(inode, call, call.offset)


def _zeroing(start: int, end: int, then: Step) -> Step:
    def zero(inode: Inode, call: Call) -> Step:
        inode.zero(start, end)
        return then

    return Step(f"fallocate zeroes {end - start} bytes at {start}", content_written(start, end - start), zero)
