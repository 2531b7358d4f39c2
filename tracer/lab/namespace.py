"""A private mount namespace, and mounts in it that live exactly as long as a file descriptor.

Nothing that is mounted here is ever seen by another process, while what the host mounts or unmounts meanwhile comes
here, too (mount_namespaces(7), MS_SLAVE): else its mounts would stay, and their devices in use, for as long as we
run. Where the host's mounts are private, as without systemd, they do stay: nothing propagates from them.

Nothing has to be unmounted by anybody: a mount is detached (`MNT_DETACH`) as soon as a directory of it is open, so
the descriptor alone keeps it. When the last descriptor goes, for whatever reason, SIGKILL included, the kernel
unmounts. No mount point is created either: the mount covers an existing directory between mount(2) and umount2(2), in
our namespace only.

unshare(CLONE_NEWNS) works on the calling *thread*: threads started afterwards share the namespace, older ones
do not. Call `enter_private_namespace()` early, from the main thread.
"""

import ctypes
import errno
import os
import threading
from pathlib import Path

from tracer.errors import UnsupportedError

CLONE_NEWNS = 0x00020000
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

SAFE_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC
"""A scratch file system holds data, never programs or devices."""

TRACEFS = Path("/sys/kernel/tracing")

# Covered for an instant, so these are directories that no thread of ours has business in: one that opened a
# file below the covered directory in that instant would find the scratch file system.
_COVERS = ("/srv", "/media", "/mnt", "/opt", "/home")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]

_lock = threading.RLock()
_ours: set[str] = set()


def enter_private_namespace() -> None:
    """Move the calling thread (and what it starts from now on) to a mount namespace of its own. Idempotent.

    Raises `UnsupportedError` where that needs a privilege which is not there.
    """
    with _lock:
        if _namespace() in _ours:
            return
        if _libc.unshare(CLONE_NEWNS) != 0:
            raise _refused("a private mount namespace (unshare CLONE_NEWNS)", ctypes.get_errno())
        # systemd makes / shared: without this every mount of ours would propagate to the whole host. Nothing does so
        # from a slave. What the host mounts on a directory that we cover goes below our mount (4.11, 1064f874abc0).
        if _libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) != 0:
            number = ctypes.get_errno()
            if number == errno.EINVAL:
                raise UnsupportedError(
                    "cannot keep the mounts to ourselves, / is not a mount point: run it outside of the chroot"
                )
            raise _refused("mounts of our own (mount --make-rslave /)", number)
        _ours.add(_namespace())


def in_private_namespace() -> bool:
    """Whether the calling thread is in a namespace that this module made."""
    return _namespace() in _ours


def mount_detached(source: str, fstype: str, *, flags: int = 0, data: str = "") -> int:
    """Mount `source` as `fstype` where nobody sees it, and return a descriptor of its root directory.

    The mount lives as long as this descriptor or a file opened below it. For this process and its children
    its path is /proc/<pid>/fd/<descriptor>. The descriptor is not inherited (close-on-exec). `flags` are
    MS_*, `data` the file system's own options.

    Raises `UnsupportedError` for a missing privilege or file system, and `OSError` with mount(2)'s errno for
    anything that is wrong with `source` or `data`.
    """
    enter_private_namespace()
    place = cover()
    with _lock:
        _mount(source, place, fstype, flags, data)
        try:
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            if _libc.umount2(place.encode(), MNT_DETACH) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), place)


def cover() -> str:
    """An existing directory to mount over, in a namespace of one's own. Raises `UnsupportedError`."""
    for name in _COVERS:
        if Path(name).is_dir():
            return name
    raise UnsupportedError(f"none of {', '.join(_COVERS)} exists to mount over: create one of them")


def ensure_tracefs() -> None:
    """Have tracefs at /sys/kernel/tracing, in the private namespace if need be.

    tracefs has had that place of its own since Linux 4.1; many hosts mount it there at boot, minimal ones and
    containers do not. Here the mount stays attached: it goes with the namespace, that is, with the last of
    our processes. Raises `UnsupportedError`.
    """
    if (TRACEFS / "events").is_dir():
        return
    if not TRACEFS.is_dir():
        raise UnsupportedError(f"no {TRACEFS}: boot a kernel that has tracefs (CONFIG_FTRACE), or mount sysfs at /sys")
    enter_private_namespace()
    with _lock:
        try:
            _mount("nodev", str(TRACEFS), "tracefs", SAFE_FLAGS, "")
        except OSError as error:
            raise UnsupportedError(
                f"cannot mount tracefs at {TRACEFS} ({error.strerror}): mount -t tracefs nodev {TRACEFS}"
            ) from error


def _namespace() -> str:
    # /proc/self would name the main thread's namespace, whichever thread asks.
    return os.readlink("/proc/thread-self/ns/mnt")


def _mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    if _libc.mount(source.encode(), target.encode(), fstype.encode(), flags, data.encode() or None) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.ENODEV:
        raise UnsupportedError(f"this kernel has no {fstype}: load it (modprobe {fstype}) or boot a kernel that has it")
    if number in (errno.EPERM, errno.EACCES):
        raise _refused(f"mounting {fstype}", number)
    raise OSError(number, os.strerror(number), source)


def _refused(what: str, number: int) -> UnsupportedError:
    if number == errno.EPERM and os.geteuid() != 0:
        return UnsupportedError(f"{what} needs root: run it as root (sudo)")
    if number in (errno.EPERM, errno.EACCES):
        return UnsupportedError(
            f"{what} is refused ({os.strerror(number)}) although this is root: a container or sandbox "
            "holds it back; give it CAP_SYS_ADMIN or run on the host"
        )
    if number == errno.ENOSPC:
        return UnsupportedError(f"{what}: the limit is reached: raise the sysctl user.max_mnt_namespaces")
    return UnsupportedError(f"{what} failed: {os.strerror(number)}")
