"""The Parallels expandable image format (QEMU: block/parallels.c, docs/interop/parallels.txt): a header, a block
allocation table (BAT), clusters in the order of their allocation.
"""

from blockstack.parallels.create import DEFAULT_CLUSTER_SIZE, create
from blockstack.parallels.header import MAGICS, Header
from blockstack.parallels.image import Parallels, PreallocMode

__all__ = ["DEFAULT_CLUSTER_SIZE", "MAGICS", "Header", "Parallels", "PreallocMode", "create"]
