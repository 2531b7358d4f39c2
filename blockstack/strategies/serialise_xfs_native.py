"""`serialise-xfs-native`: RFC option 1."""

from blockstack.requests import TrackedRequest
from blockstack.strategies.base import FileFacts, Strategy, serialise_to_infinity


class SerialiseXfsNative(Strategy):
    """Serialises post-EOF zero-writes on XFS with aio=native, and nowhere else."""

    name = "serialise-xfs-native"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        """Wait for everything behind, hold off everything behind, where the RFC saw the bug."""
        if file.is_xfs and file.linux_aio:
            await serialise_to_infinity(request, file)
