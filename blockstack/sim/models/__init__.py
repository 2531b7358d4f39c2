"""File systems, small enough to be read beside the kernel's code: one a file, registered by name."""

from blockstack.sim.models.base import FileSystem
from blockstack.sim.models.posix_weakest import PosixWeakest
from blockstack.sim.models.xfs_fixed import XfsFixed
from blockstack.sim.models.xfs_pre_4_4 import XfsPre44
from blockstack.sim.models.xfs_pre_5_5 import XfsPre55
from blockstack.sim.models.zfs_11797 import Zfs11797

MODELS: dict[str, FileSystem] = {
    model.name: model for model in (XfsFixed(), XfsPre55(), XfsPre44(), Zfs11797(), PosixWeakest())
}
"""Every model by the name that `--model` takes. A model keeps nothing: all state is the inode's."""

__all__ = ["MODELS", "FileSystem"]
