"""A process that ends with its parent: killed together, and not started at all if that is gone already."""

import os
import signal
import subprocess
import sys
import time

START = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
CHILD = "import sys, time; from tracer.parent import die_with; {}; print('ready', flush=True); time.sleep(60)"


def left_of(child: str) -> bool:
    """Whether a process of that code is there a while after its parent was killed."""
    words = [sys.executable, "-c", START, child]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(50):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return False
        except FileNotFoundError:
            return False
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return True


def test_it_is_killed_with_its_parent() -> None:
    assert not left_of(CHILD.format("die_with(int(sys.argv[1]))"))
    assert left_of(CHILD.format("None"))


def test_it_ends_if_its_parent_has_gone_before() -> None:
    """The process that is said to be its parent is none of it: that has another number by then."""
    code = "from tracer.parent import die_with; die_with(1 << 22); print('here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (137, b"")
