"""How fallocate(2) behaves under the driver: as this kernel does it, or as a racy one did. One behaviour a file."""

from collections.abc import Callable
from typing import Protocol

from blockstack.fallocate.calls import FileCalls
from blockstack.fallocate.kernel import KernelFallocate
from blockstack.fallocate.legacy_xfs import LegacyXfsFallocate
from blockstack.fallocate.no_zero_range import NoZeroRange


class FallocateBehaviour(Protocol):
    """Stands between the driver and fallocate(2), and sees every write come and go."""

    emulates_xfs: bool
    """Whether a file under this behaviour is to be taken for one on XFS."""

    async def begin_write(self) -> None:
        """Called before a write is submitted; may hold it off."""
        ...

    def end_write(self) -> None:
        """Called when a write has completed or failed."""
        ...

    async def fallocate(self, mode: int, offset: int, length: int, request: int) -> None:
        """fallocate(2) for the tracked request with that id. Raises OSError."""
        ...


BEHAVIOURS: dict[str, Callable[[FileCalls], "FallocateBehaviour"]] = {
    "kernel": KernelFallocate,
    "legacy-xfs": LegacyXfsFallocate,
    "no-zero-range": NoZeroRange,
}
"""Constructors by the name `--fallocate` takes; the argument is the file's system calls."""

DEFAULT = ("kernel", "legacy-xfs")
"""What is run unless somebody asks for another one."""

RACY = frozenset({"legacy-xfs"})
"""Behaviours that lose data on every kernel, unless the driver keeps the operations apart."""

__all__ = [
    "BEHAVIOURS",
    "DEFAULT",
    "RACY",
    "FallocateBehaviour",
    "FileCalls",
    "KernelFallocate",
    "LegacyXfsFallocate",
    "NoZeroRange",
]
