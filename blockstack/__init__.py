"""blockstack: QEMU's qcow2 and file-posix drivers in Python, the driver under test. Usable as a library, without root.

    await blockstack.create("disk.qcow2", 10 << 30)
    async with blockstack.open("disk.qcow2", strategy="serialise") as disk:
        await disk.pwritev(0, [b"hello"])

Layers, as in QEMU: guest request -> qcow2 node -> file node (tracked requests, strategy) -> AIO engine -> system call.
"""

from blockstack.disk import Disk, create
from blockstack.disk import open_disk as open  # the library is used as blockstack.open, like QEMU's bdrv_open
from blockstack.errors import ImageError

__all__ = ["Disk", "ImageError", "create", "open"]
