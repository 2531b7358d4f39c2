"""A process of its own that destroys a scratch pool when whoever holds its standard input has ended, however that was.

Arguments: path of zpool(8), name of the pool. Imports nothing of eofrace: it is started by its path.
"""

import signal
import subprocess
import sys
import time

SECONDS = 30.0
"""The file system may stay mounted for as long as one of its files is open."""


def main() -> int:
    """0 if the pool is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    zpool, name = sys.argv[1:]
    sys.stdin.buffer.read()
    deadline = time.monotonic() + SECONDS
    while not _destroyed(zpool, name):
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.05)
    return 0


def _destroyed(zpool: str, name: str) -> bool:
    try:
        return _run(zpool, "destroy", "-f", name) == 0 or _run(zpool, "list", "-H", name) != 0
    except subprocess.TimeoutExpired:
        return False


def _run(*words: str) -> int:
    none = subprocess.DEVNULL
    return subprocess.run(words, stdin=none, stdout=none, stderr=none, timeout=SECONDS, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
