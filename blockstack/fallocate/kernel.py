"""fallocate(2) as the running kernel does it."""

from blockstack.fallocate.calls import FileCalls


class KernelFallocate:
    """Passes everything on: what happens is the kernel's doing."""

    emulates_xfs = False

    def __init__(self, calls: FileCalls) -> None:
        self._calls = calls

    async def begin_write(self) -> None:
        """Writes go straight to the kernel."""

    def end_write(self) -> None:
        """Nothing is kept."""

    async def fallocate(self, mode: int, offset: int, length: int, request: int) -> None:
        """One fallocate(2) in the thread pool. Raises OSError."""
        await self._calls.run(lambda: self._calls.fallocate(mode, offset, length, request))
