"""`auto`: the workaround only where it is needed, which was the thread's open wish.

Serialises, as `serialise` does, unless somebody has *shown* that the kernel orders a fallocate and the writes behind it
on this file system by itself. No knowledge, half of it, or that of another kernel means: serialise.
"""

from blockstack.requests import TrackedRequest
from blockstack.strategies.base import FileFacts
from blockstack.strategies.serialise import Serialise


class Auto(Serialise):
    """`known_safe`: names of file systems (`FileFacts.file_system`); None: nobody has looked."""

    name = "auto"

    def __init__(self, known_safe: frozenset[str] | None = None) -> None:
        self.known_safe = known_safe

    def relies_on_kernel(self, file_system: str) -> bool:
        """Whether zero-writes and AIO writes go unordered there."""
        return self.known_safe is not None and file_system in self.known_safe

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        """Wait for everything behind, hold off everything behind, unless the kernel is known to do that."""
        if not self.relies_on_kernel(file.file_system):
            await super().order_post_eof_zero_write(request, file)
