"""Names of error numbers, which a system call's result is the negative of."""

import errno
import os


def errno_name(number: int) -> str:
    """`ENOSPC (No space left on device)`, or the number."""
    name = errno.errorcode.get(number)
    return f"error {number}" if name is None else f"{name} ({os.strerror(number)})"
