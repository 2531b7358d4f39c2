"""Which file system a file lies on."""

import ctypes
import os

XFS_SUPER_MAGIC = 0x58465342

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
