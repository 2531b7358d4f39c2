"""Hostile images, each tried as `tests.fuzz.trial` says: the corpus, the largest tables, and seeds spoilt at random.

200 spoilt seeds by default; for a nightly run: EOFRACE_FUZZ=20000 pytest tests/fuzz (what is found is kept as JSON, and
`python -m tests.fuzz save` makes an entry of the corpus of it). `tests.fuzz.target` searches by coverage.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.blockstack.support import needs_qemu
from tests.fuzz.__main__ import CORPUS
from tests.fuzz.extremes import EXTREMES

ROOT = Path(__file__).parents[2]
SPOILT = int(os.environ.get("EOFRACE_FUZZ", "200"))
SEED = 4 if "EOFRACE_FUZZ" not in os.environ else int.from_bytes(os.urandom(4), "little")


def fuzz(directory: Path, *words: object, module: str = "tests.fuzz") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *(str(word) for word in words)]
    # With one arena for all threads, glibc's reserves do not count as an image's memory.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory), "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def clean(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Nothing was wrong with any image; the summary."""
    *findings, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, (findings, last, done.stderr[-3000:])
    assert not findings
    summary: dict[str, Any] = json.loads(last)
    return summary


def test_corpus(tmp_path: Path) -> None:
    summary = clean(fuzz(tmp_path, "corpus"))
    assert summary["images"] == len(list(CORPUS.glob("*.json"))) > 60
    assert summary["opened_for_writing"] > 20
    assert summary["refusals"] > 100
    assert summary["data_writes"] > 100


def test_extremes(tmp_path: Path) -> None:
    (tmp_path / "probe").touch()
    try:
        os.truncate(tmp_path / "probe", 14 << 40)
    except OSError as error:
        pytest.skip(f"no sparse file of 14 TiB here: {error.strerror}")
    summary = clean(fuzz(tmp_path, "extremes"))
    assert summary["images"] == len(EXTREMES)
    assert summary["opened_for_writing"] >= 5


@needs_qemu
def test_spoilt_seeds(tmp_path: Path) -> None:
    summary = clean(fuzz(tmp_path, "random", SPOILT, SEED))
    assert summary["images"] >= SPOILT * 0.9
    assert summary["opened_for_writing"] > SPOILT // 10
    assert summary["data_writes"] > SPOILT


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("overlap", ["over the refcount table", "guest data is in the L1 table", "over the header's cluster"]),
        ("memory", ["MiB of memory"]),
        ("exception", ["IndexError: on purpose"]),
    ],
)
def test_what_must_be_noticed_is(tmp_path: Path, what: str, told: list[str]) -> None:
    names = ["l2-to-l1-table", "l2-to-refcount-table", "no-refcount-block"] if what == "overlap" else ["cut-in-l2"]
    done = fuzz(tmp_path, "control", what, *names)
    assert done.returncode == 1, done.stderr[-3000:]
    for words in told:
        assert words in done.stdout


def test_a_hang_is_noticed(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "control", "hang", "l2-to-l1-table")
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "trying l2-to-l1-table" in done.stderr


@needs_qemu
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install -e '.[fuzz]'")
def test_the_target_runs(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "-runs=60", "-seed=1", module="tests.fuzz.target")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 60 runs" in done.stderr
