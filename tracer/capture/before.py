"""What had begun before recording did: which threads are in a system call by then. bpf/before.c tells of their ends."""

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tracer.attach import Probes
from tracer.hooks import CHANGING_CALLS, system_calls

_ATTEMPTS = 3
"""To find a thread at rest: one that runs does not say what it is in."""

_FD_ARGUMENT = {"copy_file_range": 2, "splice": 2}
"""Which argument of a call is the descriptor of the file that it changes; else the first."""

_OF_PATHS = ("open", "openat", "openat2", "creat", "open_by_handle_at", "truncate")


@dataclass(frozen=True, slots=True)
class _Call:
    """A system call that a thread was in, as /proc/PID/task/TID/syscall has it (proc(5))."""

    pid: int
    tid: int
    text: str

    @property
    def number(self) -> int | None:
        """None: the thread runs, or nobody can tell."""
        first = self.text.partition(" ")[0]
        return int(first) if first.lstrip("-").isdecimal() else None

    @property
    def arguments(self) -> list[int]:
        """All six."""
        return [int(word, 16) for word in self.text.split()[1:7]]

    def goes_on(self) -> bool:
        """Whether the thread is still there."""
        return _read(self.pid, self.tid) == self.text


class Before:
    """Operations that had begun when recording did. Made when everything is followed and watched."""

    def __init__(self, probes: Probes, pids: Iterable[int]) -> None:
        self._probes = probes
        self._calls: list[_Call] = []
        names = {number: name for name, number in system_calls().items()}
        for pid in set(pids) - {os.getpid()}:
            for context in _contexts(pid):
                probes.expect_context(context, pid)
            for tid in _threads(pid):
                call = _call(pid, tid)
                name = names.get(call.number) if call.number is not None else None
                if call.number is None:
                    probes.expect_exit(pid, tid)
                elif name == "io_submit":
                    probes.expect_submission(pid, tid, call.arguments[1], call.arguments[2])
                elif name in CHANGING_CALLS and self._is_of_interest(call, name):
                    probes.expect_exit(pid, tid)
                    self._calls.append(call)

    def gaps(self) -> dict[str, str]:
        """What has not ended since, as a gap."""
        count = sum(call.goes_on() for call in self._calls)
        if not count:
            return {}
        return {"what had begun before": f"{count} system calls of before the recording have not ended"}

    def _is_of_interest(self, call: _Call, name: str) -> bool:
        if name in _OF_PATHS:
            return True
        try:
            status = os.stat(f"/proc/{call.pid}/fd/{call.arguments[_FD_ARGUMENT.get(name, 0)] & 0xFFFFFFFF}")
        except OSError:
            return True  # closed meanwhile: nobody knows
        return stat.S_ISREG(status.st_mode) and self._probes.may_record(status.st_dev, status.st_ino)


def _call(pid: int, tid: int) -> _Call:
    call = _Call(pid, tid, _read(pid, tid))
    for _ in range(_ATTEMPTS):
        if call.number is not None:
            break
        call = _Call(pid, tid, _read(pid, tid))
    return call


def _read(pid: int, tid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().strip()
    except OSError:
        return ""


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in os.scandir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _contexts(pid: int) -> list[int]:
    """Addresses of the rings of its io_submit contexts, which are their numbers (aio_setup_ring())."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        return [int(line.partition("-")[0], 16) for line in lines if " /[aio]" in line]
    return []
