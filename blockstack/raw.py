"""Raw images: the file node itself is the disk, of a fixed length."""

import os
from pathlib import Path

from blockstack.errors import ImageError
from blockstack.requests import MAX_LENGTH


def create(path: Path, size: int) -> None:
    """Make a sparse file of `size` bytes, mode 0600 if it is new. Raises ImageError for an impossible size, OSError."""
    if not 0 <= size <= MAX_LENGTH:
        raise ImageError(f"impossible disk size {size}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
