"""Executes commands of the documents in a directory that has all that they name."""

import contextlib
import glob
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.docs.blocks import ROOT
from tests.tracer.bench import made as cost
from tests.tracer.report.made import control, exposed, run, stored

CAMPAIGN = """\
campaign = "nightly"

[explore]
strategy = "serialise"
model = "xfs-pre-5.5"
guest = "sub@0 full@1"
"""

FIO = """\
#!/bin/sh
exec dd if=/dev/zero of="$1.data" bs=64k count=4 oflag=direct status=none
"""
"""In place of fio, which hardly any host has: what is documented is how a command is traced."""


def make_place(where: Path) -> Path:
    """A directory with all that the documents name; in `verified` what verify, trace and so on are to write.

    There it is not in the way of the traces that are there for `analyze` and `report`.
    """
    for name in ("run", "next", "fio", "a", "b"):
        stored(where / f"{name}.parquet", exposed())
    for name in ("day", "pg"):
        (where / name).mkdir()
        stored(where / name / "part-000001.parquet", exposed(), part=1, last=True)
    for name in ("evidence", "out", "mine"):
        run(where / name, [control(fallocate="legacy-xfs", trace="none-legacy-xfs.parquet")])
        stored(where / name / "none-legacy-xfs.parquet", exposed())
    baseline = {"schema": "eofrace.baseline/1", "findings": []}
    (where / "known.json").write_text(json.dumps(baseline))
    (where / "cost.json").write_text(json.dumps(cost.result()))
    (where / "nightly.toml").write_text(CAMPAIGN)
    for name in ("bin", "old", "verified"):
        (where / name).mkdir()
    (where / "verified" / "disk.qcow2").touch()
    (where / "bin" / "fio").write_text(FIO)
    (where / "bin" / "fio").chmod(0o755)
    return where


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Server:
    """Has commands executed; loading them takes longer than most of them do."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, place: Path, words: Sequence[str]) -> Done:
        """One of them, to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(place), list(words)]) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))


@contextlib.contextmanager
def serving(place: Path) -> Iterator[Server]:
    """A server whose commands find what `make_place` has made, and that names a run of a campaign as a CI does."""
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "CI_JOB_ID": "7"}
    words = [sys.executable, "-m", "tests.docs.forked"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def words_of(text: str, pid: int = 1) -> list[str]:
    """The arguments of a command line, with something in place of what a shell would put there."""
    text = re.sub(r'"\$\(pidof \S+\)"|\$!|\bPID\b', str(pid), text).replace('"$CI_JOB_ID"', "7")
    words = shlex.split(text)
    return words[1 : next((at for at, word in enumerate(words) if word in (";", "|", "&&")), len(words))]


def globbed(place: Path, words: Sequence[str]) -> list[str]:
    """As a shell expands them."""
    return [name for word in words for name in (_files(place, word) if "*" in word else [word])]


def _files(place: Path, pattern: str) -> list[str]:
    return sorted(str(Path(name).relative_to(place)) for name in glob.glob(str(place / pattern))) or [pattern]


def reduced(words: Sequence[str], more: str) -> list[str]:
    """With arguments that make a command small: before `--`, since what is behind is another command's."""
    at = list(words).index("--") if "--" in words else len(words)
    return [*words[:at], *shlex.split(more), *words[at:]]
