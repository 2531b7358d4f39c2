"""Loop devices that clear themselves, over backing files without a name.

LOOP_CONFIGURE (Linux 5.8, commit 3448914e8cc5) sets a device up in one step, so that no moment exists in
which it is bound but would not be cleared; older kernels get LOOP_SET_FD and LOOP_SET_STATUS64.
LO_FLAGS_AUTOCLEAR (2.6.25) unbinds the device when its last opener closes it, which the mount on it also is.
"""

import contextlib
import errno
import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tracer.errors import EofraceError, UnsupportedError, UsageError

# linux/loop.h
LOOP_SET_FD = 0x4C00
LOOP_CLR_FD = 0x4C01
LOOP_SET_STATUS64 = 0x4C04
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_AUTOCLEAR = 4

LOOP_CONTROL = Path("/dev/loop-control")

_INFO64 = struct.Struct("=QQQQQIIII64s64s32sQQ")
"""struct loop_info64: device, inode, rdevice, offset, sizelimit, number, cipher, key size, flags, names."""

_HOW = "--dir of the commands that have it, else TMPDIR"
"""How a user names a directory: `bench` has no option for it."""

_CONFIG_PAD = 8 * 8
_TRIES = 64
_CLEAR_SECONDS = 5.0


def backing_file(directory: Path, size: int) -> int:
    """A descriptor of a sparse file of `size` bytes in `directory` that has no name (O_TMPFILE, Linux 3.11).

    Where the file system has no O_TMPFILE the file is created and unlinked at once. Raises `UsageError` for a
    directory that is missing or read-only, `UnsupportedError` for too little space.
    """
    with _directory_errors(directory):
        descriptor = unnamed_file(directory)
        try:
            free = _free_bytes(descriptor)
            # A loop device over a backing store that runs out of space answers EIO: data would be lost for a
            # reason that is not the one under test.
            if free < size:
                raise UnsupportedError(
                    f"{directory}: {size >> 20} MiB are needed for a scratch file system, {free >> 20} MiB "
                    f"are free: name a directory with more space ({_HOW})"
                )
            os.ftruncate(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def unnamed_file(directory: Path) -> int:
    """A read-write descriptor of a new, nameless file of mode 0600 in `directory`. Raises `OSError`."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # Kernels before 3.11 see O_DIRECTORY|O_RDWR and say EISDIR; file systems without it (NFS, 9p, exFAT;
        # FUSE and overlayfs before 6.1) say EOPNOTSUPP.
        if error.errno not in (errno.EISDIR, errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL):
            raise
        if not directory.is_dir():
            raise
    descriptor, name = tempfile.mkstemp(prefix=".eofrace-", dir=directory)
    os.unlink(name)
    return descriptor


@contextlib.contextmanager
def loop_device(backing: int) -> Iterator[Path]:
    """Bind the file `backing` (descriptor) to a free loop device, and give its path.

    Whoever wants to keep the device, such as a mount, opens it within this context: at its end it clears
    itself as soon as nobody has it open. Raises `UnsupportedError`.
    """
    descriptor, path = _bind(backing)
    try:
        yield path
    finally:
        os.close(descriptor)


def wait_cleared(device: Path, backing: int, seconds: float = _CLEAR_SECONDS) -> bool:
    """Wait until `device` no longer holds the file `backing`; False if it still does after `seconds`.

    The unmount is task work of the last close(2); the clearing comes after it, on some kernels in a worker.
    """
    name = _backing_name(device)
    ours = os.readlink(f"/proc/self/fd/{backing}")
    deadline = time.monotonic() + seconds
    while name is not None and name == ours:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
        name = _backing_name(device)
    return True


def _bind(backing: int) -> tuple[int, Path]:
    try:
        control = os.open(LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _no_loop(error) from error
    try:
        for _ in range(_TRIES):
            try:
                path = Path(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}")
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise _no_loop(error) from error
            try:
                _configure(descriptor, backing)
            except BaseException as error:
                os.close(descriptor)
                # GET_FREE reserves nothing: another process may have been quicker.
                if isinstance(error, OSError) and error.errno == errno.EBUSY:
                    continue
                if isinstance(error, OSError):
                    raise _no_loop(error) from error
                raise
            return descriptor, path
    finally:
        os.close(control)
    raise UnsupportedError(f"no loop device could be had in {_TRIES} tries, others take them: see losetup -a")


def _configure(descriptor: int, backing: int) -> None:
    info = _INFO64.pack(0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, b"eofrace", b"", b"", 0, 0)
    try:
        fcntl.ioctl(descriptor, LOOP_CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(_CONFIG_PAD))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
    else:
        return
    fcntl.ioctl(descriptor, LOOP_SET_FD, backing)
    try:
        fcntl.ioctl(descriptor, LOOP_SET_STATUS64, info)
    except BaseException:
        fcntl.ioctl(descriptor, LOOP_CLR_FD)
        raise


def _backing_name(device: Path) -> str | None:
    try:
        return Path(f"/sys/block/{device.name}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def _free_bytes(descriptor: int) -> int:
    status = os.fstatvfs(descriptor)
    return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def _directory_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise directory_error(directory, error) from error


def directory_error(directory: Path, error: OSError) -> EofraceError:
    """What is wrong with a directory that files were to be made in, in one line."""
    match error.errno:
        case errno.ENOENT if directory.is_dir():
            # procfs, sysfs and their like take no new name.
            return UsageError(f"{directory}: takes no files: name another directory ({_HOW})")
        case errno.ENOENT:
            return UsageError(f"{directory}: no such directory: create it or name another one ({_HOW})")
        case errno.ENOTDIR:
            return UsageError(f"{directory}: not a directory: name a directory ({_HOW})")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return UsageError(f"{directory}: not writable ({error.strerror}): name one that is ({_HOW})")
        case errno.ENOSPC | errno.EDQUOT:
            return UnsupportedError(f"{directory}: {error.strerror}: free some, or name another directory ({_HOW})")
        case errno.EFBIG:
            return UsageError(f"{directory}: its files cannot be as large: name another directory ({_HOW})")
        case _:
            return UsageError(f"{directory}: {error.strerror}: name another directory ({_HOW})")


def _no_loop(error: OSError) -> UnsupportedError:
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return UnsupportedError(
            f"no loop devices here ({LOOP_CONTROL}: {error.strerror}): load them (modprobe loop), or in a "
            "container, pass the devices in"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UnsupportedError(f"loop devices are refused ({error.strerror}): run it as root on the host")
    return UnsupportedError(f"a loop device cannot be set up: {error.strerror}")
