"""Kernel images: what a file says about itself."""

import struct
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import UsageError
from tracer.report.escape import printable

_MAGIC = b"HdrS"
_MAGIC_AT = 0x202
_VERSION_AT = 0x20E


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted.

    `name` is what the user calls it; `image` the bzImage; `modules` its directory of modules (the one that has
    modules.dep), None if it has none; `release` what uname -r will say.
    """

    name: str
    image: Path
    release: str
    modules: Path | None


def release_of(image: Path) -> str:
    """The release of an x86 bzImage: the first word of its version string.

    Documentation/arch/x86/boot.rst: "HdrS" at 0x202, and at 0x20e the offset, less 0x200, of the version string.
    Raises `UsageError` for any other file.
    """
    name = printable(str(image))
    try:
        with image.open("rb") as stream:
            head = stream.read(0x10000)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}: name a bzImage, a vmlinuz or a linux-image .deb") from error
    if head[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise UsageError(f"{name}: not an x86 bzImage: name arch/x86/boot/bzImage, a vmlinuz or a linux-image .deb")
    at = struct.unpack_from("<H", head, _VERSION_AT)[0] + 0x200
    words = head[at : head.find(b"\0", at)].split() if at != 0x200 else []
    release = words[0].decode("ascii", "replace") if words else ""
    if not release or "/" in release or not release.isprintable() or release in (".", ".."):
        raise UsageError(f"{name}: its header names no release: rebuild it")
    return release
