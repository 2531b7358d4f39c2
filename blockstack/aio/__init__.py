"""AIO engines: how reads and writes reach the kernel. One engine a file, behind one protocol, chosen by QEMU's
names.
"""

from collections.abc import Callable
from typing import Protocol

from blockstack.aio.io_uring import IoUring
from blockstack.aio.linux_aio import LinuxAio
from blockstack.aio.threads import ThreadPool
from blockstack.buffers import AlignedBuffer
from blockstack.journal import Journal


class Engine(Protocol):
    """Reads and writes whole aligned buffers of one file."""

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        """Read into `buffer`. Returns the bytes read, fewer only at the end of the file. Raises OSError."""
        ...

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        """Write `length` bytes of `buffer`; `request` names the tracked request in traces. Raises OSError."""
        ...

    def close(self) -> None:
        """Release what the engine holds; called with nothing in flight."""
        ...


ENGINES: dict[str, Callable[[int, Journal | None], Engine]] = {
    "native": LinuxAio,
    "threads": ThreadPool,
    "io_uring": IoUring,
}
"""Constructors by the name `--aio` takes; the arguments are the file descriptor and the journal."""

__all__ = ["ENGINES", "Engine", "IoUring", "LinuxAio", "ThreadPool"]
