"""The C library's heap, which numpy's arrays are in."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed(size: int) -> None:
    """Have this process keep up to so many bytes that it has freed, for itself, also those of large arrays.

    Who makes and frees the same arrays all the time spends much of it on page faults else (mallopt(3)). With a libc
    that is not glibc nothing is done.
    """
    library = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        library.mallopt(_M_MMAP_THRESHOLD, size)
        library.mallopt(_M_TRIM_THRESHOLD, size)
