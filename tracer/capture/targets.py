"""What is traced or watched, and until when: processes, names, files, a command, in one place for both."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.attach import Probes
from tracer.capture import mappings, processes
from tracer.capture.paths import Paths
from tracer.errors import UsageError
from tracer.hooks import Selection
from tracer.lab import children
from tracer.report.escape import printable

Command = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Targets:
    """Whose operations on what, for how long. At least one of the first four is given."""

    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    command: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def selection(self) -> Selection:
        """Operations of the processes on the files, where both are given."""
        return Selection(by_file=bool(self.files), by_process=bool(self.pids or self.comms or self.command))

    def check(self) -> None:
        """Raise UsageError for a process that is not there, UnsupportedError where none can be followed."""
        if self.selection.by_process:
            processes.check_namespace()
        for pid in self.pids:
            processes.check_pid(pid)

    @contextlib.contextmanager
    def followed(self, probes: Probes, paths: Paths) -> Iterator[Command | None]:
        """Follow all of it until the block ends; yields the command. Raises UsageError for what is not there."""
        with contextlib.ExitStack() as stack:
            for path in self.files:
                descriptor = _opened(path)
                stack.callback(os.close, descriptor)
                paths.add(probes.watch_file(descriptor), str(path), descriptor)
            for pid in self.pids:
                processes.follow_with_children(probes, pid)
            for name in self.comms:
                processes.follow_named(probes, name)
            yield stack.enter_context(processes.command(probes, self.command)) if self.command else None

    def processes(self, probes: Probes) -> Iterable[int]:
        """Those that may do what is to be seen."""
        return probes.followed() if self.selection.by_process else mappings.everybody()

    def ended(self, probes: Probes, command: Command | None) -> dict[str, str]:
        """End the command; what went on of it when it had ended, as a gap."""
        if command is None:
            return {}
        children.end(command, processes.END_SECONDS)
        left = processes.sweep(probes)
        if not left or self.pids or self.comms:  # they may be those
            return {}
        return {"processes": f"{left} of the command's processes went on when it had ended"}

    def over(self, stopped: Sequence[int], command: Command | None, started: float, followed: int) -> str | None:
        """Why it is time to stop, None if it is not.

        `stopped` has the signals that came, `started` is time.monotonic() of the begin, `followed` the number of
        processes as of the last look.
        """
        if stopped:
            return signal.Signals(stopped[0]).name
        if command is not None and command.poll() is not None:
            return "the command has ended"
        if self.seconds is not None and time.monotonic() - started >= self.seconds:
            return "its time is over"
        if self.pids and not self.comms and command is None and not followed:
            return "the processes have ended"
        return None


def age() -> float:
    """Seconds since this process was started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _opened(path: Path) -> int:
    """A descriptor of the file, by which it is watched. Raises UsageError."""
    shown = printable(str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UsageError(f"{shown}: cannot open the file to be traced: {error.strerror}") from error
    if not os.path.isfile(f"/proc/self/fd/{descriptor}"):
        os.close(descriptor)
        raise UsageError(f"{shown}: no regular file: name a file, or a process with -p")
    return descriptor
