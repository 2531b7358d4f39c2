"""Names for files: the kernel's side tells the way up to the root of the file system, the mount table the rest."""

import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tracer.attach import Name
from tracer.report.escape import printable

_OCTAL = re.compile(r"\\([0-7]{3})")

Inode = tuple[int, int]
"""(st_dev, inode number)"""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A file system as this process sees it."""

    kind: str  # "xfs", "ext4", ...
    points: dict[str, str]
    """Directory of the file system -> where it is mounted, "/" for the whole. Of several places the last, on top."""

    def name(self, path: str) -> str | None:
        """Where that path from the root of the file system is; None where no mount has it."""
        way = f"/{path}"
        for root in sorted(self.points, key=len, reverse=True):
            inside = root.rstrip("/") + "/"
            if way.startswith(inside):
                return f"{self.points[root].rstrip('/')}/{way[len(inside) :]}"
        return None


def mounts(table: str) -> dict[int, Mounted]:
    """st_dev -> file system, from the text of /proc/PID/mountinfo (proc(5))."""
    found: dict[int, Mounted] = {}
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        dev = _device(parts)
        if dev is not None:
            root, point = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), part) for part in parts[3:5])
            mounted = found.setdefault(dev, Mounted(rest.partition(" ")[0], {}))
            mounted.points[root] = point
    return found


class Paths:
    """Paths of files by (st_dev, inode), as they were when each was first met.

    An inode number may be another file's by and by: then there are several, in the order in which they were met.
    """

    def __init__(self) -> None:
        self._named: dict[Inode, str] = {}
        self._opened: dict[str, int] = {}
        """What the user calls a file -> a descriptor of it."""
        self._met: dict[Inode, dict[int, str]] = {}
        self._mounted: dict[int, int] = {}
        """st_dev of a file -> that of its file system, where they differ."""
        self._mounts = _mounted()

    def add(self, file: Inode, path: str, descriptor: int) -> None:
        """What the user calls a file, and a descriptor of it, which stays open until recording ends."""
        self._named[file] = path
        self._opened[path] = descriptor
        mounted = _mounted_on(descriptor)
        if mounted is not None:
            self._mounted[file[0]] = mounted

    def learn(self, names: Iterable[Name]) -> None:
        """Take over what `Probes.names` has."""
        fresh = [name for name in names if name.generation not in self._met.get(name.file, {})]
        self._know_mounts(name.mounted for name in fresh)
        for name in fresh:
            if name.mounted != name.file[0]:
                self._mounted[name.file[0]] = name.mounted
            self._met.setdefault(name.file, {})[name.generation] = self._path(name)

    def resolve(self, name: Name) -> str:
        """The path of a file from what `Probes.names` has of it; it is not kept."""
        self._know_mounts([name.mounted])
        return self._path(name)

    def retain(self, files: Container[Inode]) -> None:
        """Forget the names of all other files, but for what the user called them."""
        self._met = {file: names for file, names in self._met.items() if file in files}

    def get(self, dev: int, ino: int) -> str | None:
        """The path, of the last file with that number; None where it was not told."""
        file = (dev, ino)
        return self._named.get(file) or next(reversed(self._met.get(file, {}).values()), None)

    def earlier(self, dev: int, ino: int) -> list[str]:
        """Paths of the files that had that number before, the first one first."""
        return [] if (dev, ino) in self._named else list(self._met.get((dev, ino), {}).values())[:-1]

    def replaced(self) -> dict[str, str]:
        """What the user's names no longer are the names of, but of other files, as gaps."""
        return {
            f"{printable(path)} since it was replaced": (
                "it is another file now, as far as can be seen, and the one of the begin was followed: run this again, "
                "or follow the processes that write to it (-p, --comm)"
            )
            for path, is_same in self._are_same()
            if is_same is False
        }

    def gone(self) -> list[str]:
        """The user's names that no file has any more, as notes: nobody can write by them, but may have meanwhile."""
        return [
            f"{printable(path)}: deleted or renamed meanwhile; of files that had its name after that nothing was seen"
            for path, is_same in self._are_same()
            if is_same is None
        ]

    def _are_same(self) -> Iterator[tuple[str, bool | None]]:
        """Each of the user's names, and whether it is seen to be that of the file that was opened; None: of none."""
        for path, descriptor in self._opened.items():
            try:
                # Both now: what number a file has may change while it is open (overlayfs, which copies it up).
                yield path, os.path.samestat(os.stat(path), os.fstat(descriptor))
            except (FileNotFoundError, NotADirectoryError):
                yield path, None
            except OSError:  # nobody knows
                yield path, False

    def kind(self, dev: int) -> str | None:
        """The file system of a device, None where it is not mounted here."""
        mounted = self._mounts.get(self._mounted.get(dev, dev))
        return None if mounted is None else mounted.kind

    def _know_mounts(self, devs: Iterable[int]) -> None:
        if any(dev not in self._mounts for dev in devs):
            self._mounts |= _mounted()

    def _path(self, name: Name) -> str:
        mounted = self._mounts.get(name.mounted)
        if not name.whole:
            return f".../{name.path}"
        path = mounted.name(name.path) if mounted is not None else None
        return path or f"/{name.path} (of a file system that is not mounted here)"


def _device(parts: list[str]) -> int | None:
    """st_dev that a line of mountinfo names."""
    major, _, minor = parts[2].partition(":") if len(parts) > 4 else ("", "", "")
    return os.makedev(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _table() -> str:
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")


def _mounted() -> dict[int, Mounted]:
    return mounts(_table())


def _mounted_on(descriptor: int) -> int | None:
    """st_dev of the file system on which an open file is, as mountinfo has it; None where that does not say."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    mount = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
    return next((_device(parts) for line in _table().splitlines() if (parts := line.split(" "))[0] == mount), None)
