"""Which file system a file lies on."""

import ctypes
import os

XFS_SUPER_MAGIC = 0x58465342

# linux/magic.h. ext2, ext3 and ext4 share theirs, and on any recent host a driver.
_NAMES = {XFS_SUPER_MAGIC: "xfs", 0xEF53: "ext4", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs"}

_libc = ctypes.CDLL(None, use_errno=True)


def magic(fd: int) -> int:
    """`f_type` of fstatfs(2). Raises OSError."""
    # struct statfs begins with f_type, a long on every 64-bit Linux; the rest is at most 120 bytes.
    buffer = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, ctypes.byref(buffer)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(buffer[0]) & 0xFFFFFFFF


def is_xfs(fd: int) -> bool:
    """Whether the open file lies on XFS (QEMU's RFC: platform_test_xfs_fd)."""
    return magic(fd) == XFS_SUPER_MAGIC


def name(fd: int) -> str:
    """What the open file lies on, as in /proc/filesystems; the magic number of one that is not known here."""
    number = magic(fd)
    return _NAMES.get(number, hex(number))
