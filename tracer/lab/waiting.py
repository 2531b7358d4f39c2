"""Where a thread of ours waits in the kernel, as /proc tells: seen, not assumed."""

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_ASLEEP = "SD"
_POLL = 0.01
_STEADY = 4
"""Times in a row that a thread has to be seen at one place before it counts as waiting there."""

UNKNOWN = "unknown place"

# Numbers of the system calls that are waited for here (asm/unistd.h).
_SYSCALLS = {
    "x86_64": {209: "io_submit", 285: "fallocate"},
    "aarch64": {2: "io_submit", 47: "fallocate"},
    "riscv64": {2: "io_submit", 47: "fallocate"},
    "ppc64le": {230: "io_submit", 309: "fallocate"},
    "s390x": {246: "io_submit", 314: "fallocate"},
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A thread asleep in a system call."""

    syscall: str  # its name; its number if that is none of interest here
    stack: tuple[str, ...]  # functions of the kernel, innermost first; empty if it cannot be read

    @property
    def where(self) -> str:
        """The function that it sleeps in (those of the scheduler are not shown by the kernel)."""
        return self.stack[0] if self.stack else UNKNOWN

    @property
    def place(self) -> str:
        """`where`, and who called it, in words."""
        if len(self.stack) > 1:
            return f"{self.stack[0]} (called from {self.stack[1]})"
        return self.where


def look(tid: int) -> Waiting | None:
    """Where the thread `tid` of this process sleeps right now; None if it runs, or has ended.

    The stack needs root and CONFIG_STACKTRACE; without it there is /proc/PID/wchan, one function.
    """
    task = Path(f"/proc/self/task/{tid}")
    try:
        # The name may hold anything, the state follows its closing bracket (proc_pid_stat(5)).
        if (task / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in _ASLEEP:
            return None
        syscall = (task / "syscall").read_text().split()[0]
    except (OSError, IndexError):
        return None
    if syscall == "running":
        return None
    return Waiting(_SYSCALLS.get(platform.machine(), {}).get(int(syscall), syscall), _stack(task))


def wait_blocked(
    tid: int, syscall: str, seconds: float, over: Callable[[], bool] = lambda: False
) -> tuple[Waiting | None, bool]:
    """Wait until `tid` is steadily asleep in that system call, or `over()`.

    Returns where it sleeps, None if it was not seen to for `seconds`; and whether it was over.
    """
    deadline = time.monotonic() + seconds
    last, times = None, 0
    while time.monotonic() < deadline:
        if over():
            return None, True
        seen = look(tid)
        times = times + 1 if seen is not None and seen == last else 1
        last = seen
        if seen is not None and seen.syscall == syscall and times >= _STEADY:
            return seen, False
        time.sleep(_POLL)
    return None, over()


def _stack(task: Path) -> tuple[str, ...]:
    with contextlib.suppress(OSError, IndexError):
        # "[<0>] inode_dio_wait+0x79/0xb0", and "[xfs]" behind that if it is a module's.
        frames = [line.split()[1].partition("+")[0] for line in (task / "stack").read_text().splitlines() if line]
        if frames:
            return tuple(frames)
    with contextlib.suppress(OSError):
        name = (task / "wchan").read_text()
        if name not in ("", "0"):
            return (name,)
    return ()
