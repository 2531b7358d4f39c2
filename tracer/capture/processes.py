"""The processes that are traced: those named by number or by command name, a command of our own, and their children."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracer.attach import Probes
from tracer.errors import UnsupportedError, UsageError
from tracer.lab import children
from tracer.report.escape import printable

COMM_BYTES = 15
"""What the kernel keeps of a command name (TASK_COMM_LEN without the NUL)."""

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO of linux/proc_ns.h."""

END_SECONDS = 5.0
"""From SIGTERM to SIGKILL for a command that still runs."""


def check_namespace() -> None:
    """Raise UnsupportedError in a PID namespace of a container's, whose numbers are not the kernel's own."""
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
        raise UnsupportedError(
            "processes cannot be followed in a PID namespace of its own: run it on the host, or trace a file (--path)"
        )


def check_pid(pid: int) -> None:
    """Raise UsageError where there is no such process, or `pid` is only a thread of one."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        raise UsageError(f"there is no process {pid}: `pgrep -a NAME` lists those of a name") from None
    process = next((int(line.split()[1]) for line in lines if line.startswith("Tgid:")), pid)
    if process != pid:
        raise UsageError(f"{pid} is a thread of process {process}: trace that")


def follow_with_children(probes: Probes, pid: int) -> None:
    """Follow a process and all that descend from it."""
    if pid == os.getpid():
        return
    probes.follow(pid)
    # What is forked from now on, the kernel's side follows; what was forked before is found here.
    waiting = [pid]
    while waiting:
        for child in _children(waiting.pop()):
            if child != os.getpid():
                probes.follow(child)
                waiting.append(child)


def sweep(probes: Probes) -> int:
    """Forget processes that have ended, also those that nobody has waited for; returns how many are followed."""
    living = 0
    for pid in probes.followed():
        try:
            ended = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            ended = True
        if ended:
            probes.unfollow(pid)
        else:
            living += 1
    return living


def follow_named(probes: Probes, name: str) -> list[int]:
    """Follow every process called `name`, those that run and those that come; returns the former."""
    probes.follow_comm(name)
    wanted = os.fsencode(name)[:COMM_BYTES]
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if Path(entry.path, "comm").read_bytes().rstrip(b"\n") == wanted:
                    found.append(int(entry.name))
    for pid in found:
        follow_with_children(probes, pid)
    return found


@contextlib.contextmanager
def command(probes: Probes, words: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command with our standard streams, followed from its first instruction.

    At the end of the block it gets SIGTERM if it still runs, and SIGKILL after five seconds. Raises UsageError where it
    cannot be started.
    """
    # A child is followed if its parent is, and it has to be from before its exec.
    probes.follow(os.getpid())
    try:
        process = subprocess.Popen(list(words))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot start {printable(words[0])}: {reason}") from error
    finally:
        probes.unfollow(os.getpid())
    try:
        yield process
    finally:
        children.end(process, END_SECONDS)


def _children(pid: int) -> list[int]:
    """Of all its threads; empty for a process that is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found
