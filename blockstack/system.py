"""What the file node asks of the system: an open file, its system calls, and an engine for its reads and writes.

`HOST` is the kernel that runs. Another one can stand in its place (`blockstack.sim`), and the driver does not know.
"""

import errno
import mmap
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from blockstack import filesystem
from blockstack.aio import ENGINES, Engine
from blockstack.fallocate.calls import FileCalls
from blockstack.journal import Journal


class OpenFile(Protocol):
    """A regular file, open. Sizes in bytes."""

    size: int
    """i_size when it was opened."""
    identity: tuple[int, int]
    """Device and inode."""
    request_alignment: int
    """Smallest block that is read or written."""
    is_xfs: bool
    file_system: str
    calls: FileCalls
    engine: Engine

    def close(self) -> None:
        """Release everything; called with nothing in flight."""
        ...


class System(Protocol):
    """Opens files."""

    def open(self, path: Path, *, aio: str, read_only: bool, direct: bool, journal: Journal | None) -> OpenFile:
        """Open `path`. Raises OSError: ENOENT, EACCES, EINVAL where O_DIRECT is refused, ENOTSUP for no file."""
        ...


class _HostFile:
    def __init__(self, path: Path, aio: str, read_only: bool, direct: bool, journal: Journal | None) -> None:
        access = os.O_RDONLY if read_only else os.O_RDWR
        with ExitStack() as resources:
            # Not blocking: the name in a hostile image may be a FIFO's.
            fd = os.open(path, access | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
            resources.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ENOTSUP, "not a regular file", str(path))
            os.set_blocking(fd, True)
            self.size = status.st_size
            self.identity = status.st_dev, status.st_ino
            self.request_alignment = _probe_alignment(fd) if direct else 1
            self.is_xfs = filesystem.is_xfs(fd)
            self.file_system = filesystem.name(fd)
            self.calls = FileCalls(fd, journal)
            resources.callback(self.calls.close)
            self.engine: Engine = ENGINES[aio](fd, journal)
            resources.callback(self.engine.close)
            self._resources = resources.pop_all()

    def close(self) -> None:
        self._resources.close()


class _Host:
    def open(self, path: Path, *, aio: str, read_only: bool, direct: bool, journal: Journal | None) -> OpenFile:
        return _HostFile(path, aio, read_only, direct, journal)


HOST: System = _Host()
"""The running kernel."""


def _probe_alignment(fd: int) -> int:
    """Smallest block that O_DIRECT reads, in bytes (QEMU: raw_probe_alignment tries reads of growing size)."""
    with mmap.mmap(-1, 4096) as area, memoryview(area) as view:
        for alignment in (512, 1024, 2048):
            try:
                with view[:alignment] as part:
                    os.preadv(fd, [part], 0)
                    # At the end of file no alignment is checked: only a read that could return data tells.
                    if os.fstat(fd).st_size >= alignment:
                        return alignment
            except OSError:
                continue
    return 4096
