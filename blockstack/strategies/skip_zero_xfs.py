"""`skip-zero-xfs`: RFC option 2."""

from blockstack.strategies.base import FileFacts, Strategy


class SkipZeroXfs(Strategy):
    """qcow2 never calls handle_alloc_space() on XFS; copy-on-write areas get real zero buffers there."""

    name = "skip-zero-xfs"

    def uses_alloc_space(self, file: FileFacts) -> bool:
        """Not on XFS."""
        return not file.is_xfs
