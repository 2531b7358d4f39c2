"""When a signal to a command has something to end."""

import signal
import time
from pathlib import Path


def wait_until_begun(pid: int) -> None:
    """Return when the process catches SIGTERM: before that the interpreter starts, on a busy machine for seconds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} does not catch SIGTERM")
