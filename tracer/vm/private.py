"""A machine's private directory: what its kernel's command line names, and its initramfs.

A run killed by SIGKILL leaves one behind (4 MB): the next boot sweeps it up. Each is locked by its owner, so that one
in use is known, however old it is.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PLACE = Path("/var/tmp")  # noqa: S108 - mkdtemp there: 0700, and a name that nobody can guess
_PREFIX = "eofrace-vm-"
_AGE_SECONDS = 60.0
"""A younger one may be about to be locked."""


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory of ours (0700) whose name a kernel's command line can carry, in a place that the guest sees."""
    sweep()
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def sweep() -> None:
    """Remove what killed runs of this user have left."""
    for path in _PLACE.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            about = os.fstat(descriptor)
            ours = about.st_uid == os.geteuid() and stat.S_IMODE(about.st_mode) == 0o700
            if ours and time.time() - about.st_mtime > _AGE_SECONDS:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # somebody's at work
        finally:
            os.close(descriptor)
