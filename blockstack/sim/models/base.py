"""What a file-system model is, and what all of them do alike."""

from abc import ABC, abstractmethod

from blockstack.sim.calls import Call, CallKind, Step, Steps
from blockstack.sim.footprint import (
    DIO_BEGIN,
    DIO_END,
    SIZE_READ,
    SYNC,
    content_read,
)
from blockstack.sim.inode import Inode


class FileSystem(ABC):
    """System calls on one inode, as steps. A step is atomic; between two of them anybody else may run."""

    name = ""
    file_system = ""
    """What the driver is told the file lies on (`blockstack.filesystem`)."""
    racy = True
    """Whether the control must lose data on it."""
    since = ""
    """Which kernels do so, for people."""

    @property
    def is_xfs(self) -> bool:
        """What strategies that are for XFS alone go by."""
        return self.file_system == "xfs"

    def steps(self, inode: Inode, call: Call) -> Steps:
        """The steps of any call."""
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

    def read(self, inode: Inode, call: Call) -> Steps:
        """pread(2), O_DIRECT: one moment at which it sees the file. It counts as direct I/O in flight, so that a size
        change waits for it; that moment is the whole of it here.
        """
        yield Step("read", SIZE_READ | DIO_BEGIN | DIO_END | content_read(call.offset, call.length))
        call.begins(inode)
        call.data = inode.get(call.offset, call.length)
        return len(call.data)

    def sync(self, inode: Inode, call: Call) -> Steps:
        """fdatasync(2): what has completed by then is stable."""
        yield Step("fdatasync", SYNC)
        call.begins(inode)
        inode.sync()
        return 0

    @abstractmethod
    def write(self, inode: Inode, call: Call) -> Steps:
        """A direct write through io_submit(2), to its completion."""

    @abstractmethod
    def fallocate(self, inode: Inode, call: Call) -> Steps:
        """fallocate(2) in a thread."""

    @abstractmethod
    def truncate(self, inode: Inode, call: Call) -> Steps:
        """ftruncate(2) to `call.offset` bytes, in a thread."""
