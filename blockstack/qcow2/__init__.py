"""The qcow2 driver: header, refcounts, two-level mapping, cluster allocation and copy-on-write (QEMU:
block/qcow2*.c).
"""

from blockstack.qcow2.create import create
from blockstack.qcow2.data_file import data_path, refuse_shared
from blockstack.qcow2.extended import driver
from blockstack.qcow2.header import Header
from blockstack.qcow2.image import Qcow2

__all__ = ["Header", "Qcow2", "create", "data_path", "driver", "refuse_shared"]
