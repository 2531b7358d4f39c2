"""What a file-system model is, and what all of them do alike."""

import errno
from abc import ABC, abstractmethod

from blockstack.sim.calls import Call, CallKind, Step
from blockstack.sim.footprint import DIO_BEGIN, DIO_END, LOCK_SHARED, SIZE_READ, SYNC, WRITE_EDGE, content_read
from blockstack.sim.inode import Inode


class FileSystem(ABC):
    """System calls on one inode, as steps. A step is atomic; between two of them anybody else may run.

    `write`, `fallocate` and the others return the first step, and each step the one behind it: a model keeps nothing,
    all state is the inode's, the call's, or in the step that comes next.
    """

    name = ""
    file_system = ""
    """What the driver is told the file lies on (`blockstack.filesystem`)."""
    since = ""
    """Which kernels do so, for people."""

    @property
    def is_xfs(self) -> bool:
        """What strategies that are for XFS alone go by."""
        return self.file_system == "xfs"

    def begin(self, inode: Inode, call: Call) -> Step:
        """The first step of any call."""
        match call.kind:
            case CallKind.READ:
                return self.read(inode, call)
            case CallKind.WRITE:
                return self.write(inode, call)
            case CallKind.FALLOCATE:
                return self.fallocate(inode, call)
            case CallKind.TRUNCATE:
                return self.truncate(inode, call)
            case CallKind.SYNC:
                return self.sync(inode, call)
            case CallKind.YIELD:
                raise ValueError("no system call")

    def read(self, inode: Inode, call: Call) -> Step:
        """pread(2), O_DIRECT. It is direct I/O in flight, too; the moment at which it sees the file is all of it."""
        return Step("read", SIZE_READ | DIO_BEGIN | DIO_END | content_read(call.offset, call.length), self._read)

    def _read(self, inode: Inode, call: Call) -> int:
        call.begins(inode)
        call.data = inode.get(call.offset, call.length)
        return len(call.data)

    def sync(self, inode: Inode, call: Call) -> Step:
        """fdatasync(2): what has completed by then is stable."""
        return Step("fdatasync", SYNC, self._sync)

    def _sync(self, inode: Inode, call: Call) -> int:
        call.begins(inode)
        inode.sync()
        return 0

    def failing_write(self, inode: Inode, call: Call) -> Step:
        """A direct write that is in flight until the device fails it (EIO)."""
        return Step("io_submit", DIO_BEGIN | WRITE_EDGE | LOCK_SHARED, self._fail, inode.unlocked)

    def _fail(self, inode: Inode, call: Call) -> Step:
        call.begins(inode)
        inode.dio += 1
        return Step("the device fails, inode_dio_end", DIO_END | WRITE_EDGE, self._failed)

    def _failed(self, inode: Inode, call: Call) -> int:
        inode.dio -= 1
        return -errno.EIO

    @abstractmethod
    def write(self, inode: Inode, call: Call) -> Step:
        """A direct write through io_submit(2), to its completion."""

    @abstractmethod
    def fallocate(self, inode: Inode, call: Call) -> Step:
        """fallocate(2) in a thread."""

    @abstractmethod
    def truncate(self, inode: Inode, call: Call) -> Step:
        """ftruncate(2) to `call.offset` bytes, in a thread."""
