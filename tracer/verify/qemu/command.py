"""What `verify --driver qemu` needs and refuses, before anything is set up."""

from collections.abc import Sequence
from pathlib import Path

from tracer.errors import UsageError
from tracer.verify.qemu.cell import FALLOCATE
from tracer.verify.qemu.client import import_libnbd
from tracer.verify.qemu.daemon import Build, builds


def look(paths: tuple[Path, ...], fallocates: Sequence[str], evidence: str, *, held: bool) -> tuple[Build, ...]:
    """The builds to judge. Raises UsageError, UnsupportedError.

    Their evidence has to be the kernel's: QEMU says nothing of its system calls.
    """
    if held:
        raise UsageError("--held stops the driver in the middle of a zero-write, which QEMU has no place for: leave it")
    if evidence == "driver":
        raise UsageError("--evidence driver is blockstack's own clock, and QEMU has none: leave it out")
    if any(name != FALLOCATE for name in fallocates):
        raise UsageError(f"QEMU makes its system calls itself: only --fallocate {FALLOCATE} can be judged")
    import_libnbd()
    return builds(paths)
