"""Names for files: the kernel's side tells the way up to the root of the file system, the mount table the rest."""

import os
import re
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


def mount_points(table: str) -> dict[int, str]:
    """st_dev -> where the whole of that file system is mounted, from the text of /proc/PID/mountinfo (proc(5)).

    Of several the last, which lies on top. Bind mounts of a directory are passed over.
    """
    found = {}
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[3] == "/":
            major, _, minor = fields[2].partition(":")
            if major.isdecimal() and minor.isdecimal():
                found[os.makedev(int(major), int(minor))] = _OCTAL.sub(lambda m: chr(int(m[1], 8)), fields[4])
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
        if any(dev not in self._mounts for dev, _ in fresh):
            self._mounts = _mounted()
        for file in fresh:
            path, whole = names[file]
            base = self._mounts.get(file[0])
            if not whole:
                self._known[file] = f".../{path}"
            elif base is None:
                self._known[file] = f"/{path} (of a file system that is not mounted here)"
            else:
                self._known[file] = f"{base.rstrip('/')}/{path}"

    def get(self, dev: int, ino: int) -> str | None:
        """The path, None where it was not told."""
        return self._known.get((dev, ino))


def _mounted() -> dict[int, str]:
    return mount_points(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
