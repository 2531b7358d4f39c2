"""What a run with a TMPDIR of its own has left on the host, where others have loop devices and processes, too."""

import os
import time
from pathlib import Path


def loop_files() -> set[str]:
    """Backing files of all loop devices now."""
    found = set()
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.add(entry.read_text().strip())
        except OSError:
            continue
    return found


def left_behind(directory: Path) -> list[str]:
    """Loop devices over files in `directory`, processes with files in it or with it as TMPDIR, and its mounts."""
    found = [f"a loop device over {name}" for name in loop_files() if name.startswith(str(directory))]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if f"TMPDIR={directory}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(f"{process}: {(process / 'comm').read_text().strip()}")
            targets = [os.readlink(entry) for entry in (process / "fd").iterdir()]
        except OSError:
            continue  # it has ended
        found += [f"{process} -> {target}" for target in targets if target.startswith(str(directory))]
    return found


def what_stays(directory: Path, seconds: float = 20.0) -> list[str]:
    """What is still there after some time: the kernel clears a loop device when its last user is gone."""
    deadline = time.monotonic() + seconds
    while (found := left_behind(directory)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
