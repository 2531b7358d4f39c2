"""Coverage-guided search for hostile images (atheris, libFuzzer), for an hour, from the top of the checkout:

    .venv/bin/pip install -e '.[fuzz]' && .venv/bin/python -m tests.fuzz.target -max_total_time=3600

An input is a program for `tests.fuzz.mutate`. What is wrong with one is printed and ends the run; `crash-*` holds it:
`python -m tests.fuzz save crash-... NAME WHY` makes an entry of the corpus of it. libFuzzer's own options follow, and
directories where it keeps what it learns.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["blockstack"]):
    import blockstack  # noqa: F401
    from blockstack.qcow2 import check, compressed, snapshots  # noqa: F401

from tests.fuzz import trial
from tests.fuzz.__main__ import planted
from tests.fuzz.mutate import mutate

_DIRECTORY = "EOFRACE_FUZZ_DIRECTORY"
_QUICK = Path("/dev/shm")
"""Where an fdatasync costs nothing."""


class HostileImageError(Exception):
    """An image did what none may."""


def fuzz(directory: Path) -> None:
    """Fuzz in `directory` until libFuzzer ends the process."""
    sown = planted()

    def one(program: bytes) -> None:
        wrong = trial.judge(mutate(sown, program), directory, trial.Summary())
        if wrong:
            raise HostileImageError("\n".join(wrong))

    # libFuzzer's own memory grows; what an image takes is judged by the trial.
    atheris.Setup([*sys.argv, "-max_len=96", "-rss_limit_mb=4096", "-timeout=120"], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz in a process of its own: libFuzzer ends it with _exit(2), and somebody has to clean up."""
    if _DIRECTORY in os.environ:
        fuzz(Path(os.environ[_DIRECTORY]))
    with tempfile.TemporaryDirectory(dir=_QUICK if _QUICK.is_dir() else None) as directory:
        command = [sys.executable, "-m", "tests.fuzz.target", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, _DIRECTORY: directory}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
