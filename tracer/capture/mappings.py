"""Files that processes can change by storing into memory, without a system call that a trace could show."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

MEMORY = ("tmpfs", "ramfs", "hugetlbfs")
"""File systems without blocks: nothing of them is ever on a disk."""

_NAMELESS = ("/memfd:", "/SYSV", "/dev/zero")
"""How the kernel names what lies on one that is mounted nowhere."""


def shared(pids: Iterable[int]) -> set[tuple[int, int]]:
    """(st_dev, inode) of the regular files that these processes have mapped now, shared and writable."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
            for place, path in filter(None, map(_writable, lines)):
                # The name may lead elsewhere by now, and in /proc/PID/maps btrfs has another device than in stat(2).
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/map_files/{place}")
                    if stat.S_ISREG(status.st_mode) and not path.startswith(_NAMELESS):
                        found.add((status.st_dev, status.st_ino))
    return found


def everybody() -> list[int]:
    """All processes there are."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def _writable(line: str) -> tuple[str, str] | None:
    """Addresses and path of a line of /proc/PID/maps (proc(5)), if stores there change a file."""
    fields = line.split(None, 5)
    return (fields[0], fields[5]) if len(fields) == 6 and fields[1][1::2] == "ws" else None
