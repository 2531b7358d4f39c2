"""fallocate(2) as on a file system that does not have FALLOC_FL_ZERO_RANGE: the driver takes the next best way.

QEMU then punches a hole and allocates (handle_aiocb_write_zeroes() in block/file-posix.c), so that a plain fallocate
goes where a ZERO_RANGE went. A file system may order the one against writes and not the other: OpenZFS 2.3 does.
"""

import errno
import os

from blockstack.fallocate.calls import FALLOC_FL_ZERO_RANGE
from blockstack.fallocate.kernel import KernelFallocate


class NoZeroRange(KernelFallocate):
    """Passes on every mode but ZERO_RANGE."""

    async def fallocate(self, mode: int, offset: int, length: int, request: int) -> None:
        """One fallocate(2) in the thread pool. Raises OSError, EOPNOTSUPP for ZERO_RANGE."""
        if mode & FALLOC_FL_ZERO_RANGE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        await super().fallocate(mode, offset, length, request)
