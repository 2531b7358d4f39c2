"""Files that somebody names, opened to be read."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from tracer.errors import UsageError
from tracer.report.escape import printable

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read. Raises OSError, and UsageError for what is no regular file: it is named as what it is.

    A FIFO would wait for its writer for ever, and a device would never end.
    """
    _check_regular(path, path.stat().st_mode)
    # Looked at again when it is open, and opened without waiting: somebody may have put another one there meanwhile.
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except UsageError:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UsageError(f"{printable(str(path))}: {kind}, not a regular file")
