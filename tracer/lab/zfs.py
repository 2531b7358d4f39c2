"""ZFS on a scratch disk: a pool of one device and one data set, gone with whoever asked for it.

OpenZFS has no mkfs: zpool create makes the pool and imports it in one step, and libzfs wants a path that means the same
to the kernel, which /proc/self/fd/N does not (it resolves the link). So the pool is made on the loop device, not on the
file below it. libzfs partitions what it takes for a whole disk (zfs_dev_is_whole_disk()); loop devices it does not.

A pool outlives its maker. A guard (`zfs_guard`) destroys it when our end of a pipe is closed, which SIGKILL does too.
What no guard can mend: a pool whose device fails is *suspended*, and all that waits for it waits until the machine is
restarted (zio_suspend()). Use ZFS in a machine made for it (`eofrace vm run --with zfs`).
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tracer.errors import UnsupportedError
from tracer.lab import children

CONTROL = Path("/dev/zfs")
RECORD = 65536
"""recordsize, bytes: as a cluster of qcow2, so that the write of one goes to the disk by itself.

ZFS writes whole records past its cache if O_DIRECT asks for it (dmu_write_uio_dnode(), since 2.3: pull request 10018);
parts of one, and every write that makes the file's block size grow, go to the cache, whatever is asked (zfs_write()).
"""

_GUARD = Path(__file__).with_name("zfs_guard.py")
_POOL = ("cachefile=none", "ashift=12")
_DATA_SET = ("mountpoint=legacy", "compression=off", "atime=off", f"recordsize={RECORD}")
"""compression=off: a held write is known by how its payload begins. All else is as ZFS has it."""
_STOP_SECONDS = 40.0


@contextlib.contextmanager
def pool(device: Path) -> Iterator[str]:
    """Make a pool on `device`, and give its name, which mount(2) takes as the source of a file system zfs.

    Unmount it before the block ends: then the pool is destroyed. Raises `UnsupportedError`, `ChildError`.
    """
    if not CONTROL.exists():
        raise UnsupportedError("this kernel has no zfs: load it (modprobe zfs), or use eofrace vm run --with zfs")
    zpool = children.find("zpool")
    name = f"eofrace-{secrets.token_hex(8)}"
    with _guard(zpool, name):
        words = ["zpool", "create", "-f"]
        for option in _POOL:
            words += ["-o", option]
        for option in _DATA_SET:
            words += ["-O", option]
        children.run([*words, name, str(device)])
        yield name


def prime(descriptor: int) -> None:
    """Give an empty file the block size of a large one, and leave it empty. Raises OSError."""
    os.pwrite(descriptor, bytes(RECORD), 0)
    os.ftruncate(descriptor, 0)


@contextlib.contextmanager
def _guard(zpool: str, name: str) -> Iterator[None]:
    # A session of its own: Ctrl-C is for us, the pool has to outlive the mount.
    guard = subprocess.Popen(
        [sys.executable, "-I", str(_GUARD), zpool, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        if guard.stdin is not None:
            guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(_STOP_SECONDS)
