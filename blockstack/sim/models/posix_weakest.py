"""`posix-weakest`: anything that the standard allows.

POSIX.1-2017, System Interfaces 2.9.7, has write(), pwrite() and ftruncate() atomic with respect to each other in what
they do to a regular file; fallocate(2) is not of POSIX and posix_fallocate() is not in that list. So a fallocate here
is no single moment at all: it looks at the size, zeroes one half and the other, and sets a size, with anything between.
An asynchronous write has no order to any other operation until it has completed: data and size come apart.
"""

from blockstack.fallocate.calls import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.sim.calls import Call, Step, Steps
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

    def write(self, inode: Inode, call: Call) -> Steps:
        """aio_write(): begin, data, size and completion."""
        yield Step("the write begins", WRITE_EDGE | SIZE_READ)
        call.begins(inode)
        yield Step("the write's data is in the file", content_written(call.offset, call.length))
        inode.put(call.offset, call.data)
        yield Step("the write raises the size, and completes", SIZE_MAX | WRITE_EDGE)
        call.applies(inode)
        inode.raise_size(call.behind)
        return call.length

    def fallocate(self, inode: Inode, call: Call) -> Steps:
        """Look at the size; zero one half and the other; set the size."""
        yield Step("fallocate begins, and looks at the size", SIZE_READ | FALLOCATE_EDGE)
        call.begins(inode)
        size = new_size(inode, call)
        if call.flags & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE):
            middle = call.offset + call.length // 2
            for start, end in ((call.offset, middle), (middle, call.behind)):
                yield Step(f"fallocate zeroes {end - start} bytes at {start}", content_written(start, end - start))
                inode.zero(start, end)
        if size is None:
            yield Step("fallocate ends", FALLOCATE_EDGE)
            return 0
        yield Step("fallocate sets the size", SIZE_SET | CONTENT | FALLOCATE_EDGE)
        call.applies(inode)
        inode.set_size(size)
        return 0

    def truncate(self, inode: Inode, call: Call) -> Steps:
        """ftruncate(): atomic."""
        yield Step("ftruncate", SIZE_READ | SIZE_SET | CONTENT | FALLOCATE_EDGE)
        call.begins(inode)
        call.applies(inode)
        inode.set_size(call.offset)
        return 0
