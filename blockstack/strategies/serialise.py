"""`serialise`: the reply's last question, and QEMU 4.2 to today (292d06b925b2)."""

from blockstack.requests import TrackedRequest
from blockstack.strategies.base import FileFacts, Strategy, serialise_to_infinity


class Serialise(Strategy):
    """Serialises post-EOF zero-writes on every file system and in every AIO mode."""

    name = "serialise"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        """Wait for everything behind, hold off everything behind."""
        await serialise_to_infinity(request, file)
