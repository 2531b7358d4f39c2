"""`no-alloc-space`: RFC option 3, c8bb23cbdbe32f reverted."""

from blockstack.strategies.base import FileFacts, Strategy


class NoAllocSpace(Strategy):
    """handle_alloc_space() is gone, on every file system."""

    name = "no-alloc-space"

    def uses_alloc_space(self, file: FileFacts) -> bool:
        """Never."""
        return False
