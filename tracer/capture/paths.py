"""Names for files: the kernel's side tells the way up to the root of the file system, the mount table the rest."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A file system as this process sees it."""

    kind: str  # "xfs", "ext4", ...
    root: str | None
    """Where the whole of it is mounted; None where only a part is."""


def mounts(table: str) -> dict[int, Mounted]:
    """st_dev -> file system, from the text of /proc/PID/mountinfo (proc(5)). Of several mounts the last, on top."""
    found: dict[int, Mounted] = {}
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        major, _, minor = parts[2].partition(":") if len(parts) > 4 else ("", "", "")
        if major.isdecimal() and minor.isdecimal():
            dev = os.makedev(int(major), int(minor))
            whole = _OCTAL.sub(lambda m: chr(int(m[1], 8)), parts[4]) if parts[3] == "/" else None
            if whole is not None or dev not in found:
                found[dev] = Mounted(rest.partition(" ")[0], whole)
    return found


class Paths:
    """Paths of files by (st_dev, inode), as they were when each was first met."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}
        self._mounts = _mounted()

    def add(self, file: tuple[int, int], path: str) -> None:
        """What the user called a file."""
        self._known[file] = path

    def learn(self, names: dict[tuple[int, int], tuple[str, bool]]) -> None:
        """Take over what `Probes.names` has."""
        fresh = names.keys() - self._known.keys()
        self._know_mounts(dev for dev, _ in fresh)
        for file in fresh:
            self._known[file] = self._path(file[0], *names[file])

    def resolve(self, dev: int, name: tuple[str, bool]) -> str:
        """The path of a file from what `Probes.name` has of it; it is not kept."""
        self._know_mounts([dev])
        return self._path(dev, *name)

    def get(self, dev: int, ino: int) -> str | None:
        """The path, None where it was not told."""
        return self._known.get((dev, ino))

    def kind(self, dev: int) -> str | None:
        """The file system of a device, None where it is not mounted here."""
        mounted = self._mounts.get(dev)
        return None if mounted is None else mounted.kind

    def _know_mounts(self, devs: Iterable[int]) -> None:
        if any(dev not in self._mounts for dev in devs):
            self._mounts |= _mounted()

    def _path(self, dev: int, path: str, whole: bool) -> str:
        mounted = self._mounts.get(dev)
        if not whole:
            return f".../{path}"
        if mounted is None or mounted.root is None:
            return f"/{path} (of a file system that is not mounted here)"
        return f"{mounted.root.rstrip('/')}/{path}"


def _mounted() -> dict[int, Mounted]:
    return mounts(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
