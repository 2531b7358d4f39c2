"""Scratch file systems: a place to put files under test, gone without a trace when its holder ends.

Two kinds, one interface: a freshly made file system on a loop device (needs root), and a directory of
whatever file system is there (needs nothing). Both hand out files that have no name.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import UnsupportedError, UsageError
from tracer.lab import children, loop, namespace, zfs

MIB = 1 << 20


def default_directory() -> Path:
    """Where scratch files go unless somebody says otherwise: $TMPDIR, /var/tmp, /tmp.

    Not /tmp first: it is a tmpfs on many hosts, which has no direct I/O and whose space is memory.
    """
    named = os.environ.get("TMPDIR")
    if named:
        if not os.path.isdir(named):
            raise UsageError(f"TMPDIR names {named}, which is no directory: set it to one, or unset it")
        return Path(named)
    lasting = Path("/var/tmp")  # noqa: S108 - files there have no name
    return lasting if lasting.is_dir() else Path("/tmp")  # noqa: S108


@dataclass(frozen=True, slots=True)
class Kind:
    """How one file system is made and mounted."""

    mkfs: tuple[str, ...]
    minimum: int  # bytes: the least that its mkfs takes
    options: str = ""  # of mount(2)
    named: bool = False  # its mkfs wants a device with a name: a file without one does not do
    on_device: Callable[[Path], contextlib.AbstractContextManager[str]] | None = None
    """For what has no mkfs that takes a file: makes it on the disk, and gives the source for mount(2)."""
    prime: Callable[[int], None] | None = None
    """What an empty file (descriptor) needs so that a direct write to it goes to the disk by itself."""


KINDS = {
    # 300 MiB: mkfs.xfs of xfsprogs 5.19 and later refuses less. -K: the file is sparse already, nothing to
    # discard.
    "xfs": Kind(("mkfs.xfs", "-q", "-f", "-K"), 300 * MIB),
    # noinit_itable: the lazy initialisation would write behind the back of the workload.
    "ext4": Kind(("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1"), 16 * MIB, "noinit_itable"),
    "btrfs": Kind(("mkfs.btrfs", "-q", "-f", "-K"), 128 * MIB),
    "f2fs": Kind(("mkfs.f2fs", "-q", "-f", "-t", "0"), 64 * MIB),
    "vfat": Kind(("mkfs.vfat", "-F", "32"), 64 * MIB),
    # local and lock_nolock: without a cluster; the code paths of a node that holds all locks.
    "ocfs2": Kind(("mkfs.ocfs2", "-q", "-F", "-M", "local", "-N", "1"), 256 * MIB, named=True),
    "gfs2": Kind(("mkfs.gfs2", "-q", "-O", "-K", "-p", "lock_nolock", "-j", "1", "-J", "8"), 128 * MIB, named=True),
    "zfs": Kind(("zpool",), 128 * MIB, on_device=zfs.pool, prime=zfs.prime),
}
"""The file systems that can be made here."""

# linux/magic.h and the file systems' own headers. ext2, ext3 and ext4 share theirs: one driver serves all
# three.
_MAGIC = {
    0x58465342: "xfs",
    0xEF53: "ext4",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x794C7630: "overlay",
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x01021997: "9p",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x4D44: "vfat",
    0x2011BAB0: "exfat",
    0x5346544E: "ntfs",
    0x7366746E: "ntfs3",
    0x00C36400: "ceph",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
    0xF15F: "ecryptfs",
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class AnonymousFile:
    """An open file without a name. `path` serves this process and its children while it is open here."""

    fd: int
    path: Path
    dev: int  # st_dev as stat(2) returns it
    ino: int

    @property
    def size(self) -> int:
        """Its size now, in bytes."""
        return os.fstat(self.fd).st_size


@dataclass(frozen=True, slots=True)
class Scratch:
    """A directory to put files under test in."""

    path: Path
    fs: str  # as `filesystem_of` names it
    dev: int  # st_dev as stat(2) returns it

    @property
    def free_bytes(self) -> int:
        """What may still be written, in bytes."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    @contextlib.contextmanager
    def new_file(self) -> Iterator[AnonymousFile]:
        """An empty file of mode 0600; its space is free again when the last descriptor of it is closed.

        Raises `UsageError` where the directory takes no file.
        """
        try:
            descriptor = loop.unnamed_file(self.path)
        except OSError as error:
            raise loop.directory_error(self.path, error) from error
        try:
            status = os.fstat(descriptor)
            path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
            yield AnonymousFile(descriptor, path, status.st_dev, status.st_ino)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def loop_scratch(fs: str, size: int, backing_dir: Path) -> Iterator[Scratch]:
    """A fresh file system `fs` of `size` bytes, mounted for this process and its children alone.

    Its backing store is a sparse file without a name in `backing_dir`. At the end the file system is
    unmounted and its loop device cleared, once no file on it is open any more.

    Raises `UsageError` for what the caller can choose (file system, size, directory) and `UnsupportedError`
    for what the host lacks (privilege, loop devices, the file system, its mkfs).
    """
    kind = kind_of(fs, size)
    # What needs a privilege comes first: mkfs takes most of the time.
    namespace.enter_private_namespace()
    children.find(kind.mkfs[0])
    with contextlib.ExitStack() as stack:
        backing = loop.backing_file(backing_dir, size)
        stack.callback(os.close, backing)
        make_file_system(kind, backing)
        with loop.loop_device(backing) as device:
            stack.callback(loop.wait_cleared, device, backing)
            made = stack.enter_context(mounted(fs, kind, device))
        yield made


def kind_of(fs: str, size: int) -> Kind:
    """How a scratch file system `fs` of `size` bytes is made. Raises `UsageError`."""
    kind = KINDS.get(fs)
    if kind is None:
        raise UsageError(f"{fs}: no such scratch file system: choose one of {', '.join(KINDS)}")
    if size < kind.minimum:
        raise UsageError(f"{fs} needs at least {kind.minimum // MIB} MiB: ask for more than {size} bytes")
    return kind


def make_file_system(kind: Kind, backing: int) -> None:
    """Format the file that is open as `backing`, if that is done on a file. Raises `UnsupportedError`, `ChildError`."""
    if kind.named or kind.on_device is not None:
        return
    children.run([*kind.mkfs, f"/proc/self/fd/{backing}"], pass_fds=(backing,))


@contextlib.contextmanager
def mounted(fs: str, kind: Kind, device: Path) -> Iterator[Scratch]:
    """Mount what is on `device`, until the block has ended and no file on it is open any more."""
    with contextlib.ExitStack() as stack:
        if kind.named:
            children.run([*kind.mkfs, str(device)])
        source = stack.enter_context(kind.on_device(device)) if kind.on_device is not None else str(device)
        try:
            root = namespace.mount_detached(source, fs, flags=namespace.SAFE_FLAGS, data=kind.options)
        except OSError as error:
            raise UnsupportedError(
                f"the kernel does not mount the {fs} that {kind.mkfs[0]} made ({error.strerror}): see "
                "dmesg; use a mkfs of the kernel's age"
            ) from error
        stack.callback(os.close, root)
        yield _scratch(root)


@contextlib.contextmanager
def directory_scratch(directory: Path) -> Iterator[Scratch]:
    """`directory` itself, on whatever file system it lies. Nothing with a name is ever created in it.

    Raises `UsageError` if it is missing, not a directory, or takes no files.
    """
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise loop.directory_error(directory, error) from error
    try:
        try:
            os.close(loop.unnamed_file(directory))
        except OSError as error:
            raise loop.directory_error(directory, error) from error
        yield _scratch(root)
    finally:
        os.close(root)


def filesystem_of(where: int | Path) -> str:
    """The name of the file system that a descriptor or path lies on, as in /proc/filesystems.

    One that is not known by its magic number (statfs(2), f_type) is named by that: "0x1234". Raises
    `OSError`.
    """
    buffer = ctypes.create_string_buffer(256)
    path = f"/proc/self/fd/{where}" if isinstance(where, int) else where
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(where))
    # f_type is a long everywhere but on s390x, where it is an unsigned int (asm/statfs.h).
    width = ctypes.c_uint if platform.machine() == "s390x" else ctypes.c_ulong
    magic = width.from_buffer(buffer).value & 0xFFFFFFFF
    return _MAGIC.get(magic, hex(magic))


def _scratch(root: int) -> Scratch:
    return Scratch(Path(f"/proc/{os.getpid()}/fd/{root}"), filesystem_of(root), os.fstat(root).st_dev)


__all__ = [
    "KINDS",
    "AnonymousFile",
    "Scratch",
    "default_directory",
    "directory_scratch",
    "filesystem_of",
    "loop_scratch",
]
