"""Standard output that is closed, full, or that nobody reads any more: every command says so, or is quiet, once."""

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.tracer.report.made import control, exposed, run, stored
from tests.tracer.test_commands import EOFRACE

CLOSED = "eofrace: write error: standard output is closed, or not open for writing\n"
ASKED = "eofrace: standard output is closed, or not open for writing: name a file\n"
FULL = "eofrace: No space left on device: free some space, or name another place\n"

EXPLORE = "explore --strategy serialise --model xfs-fixed --writes 1 --jobs 1"
# A command, its exit status with an output, and what it says without one: as soon as it knows, or when it writes.
COMMANDS = [
    ("--help", 0, CLOSED),
    ("--version", 0, CLOSED),
    ("report out", 0, CLOSED),
    ("report a.parquet", 1, CLOSED),
    ("report out --format json", 0, CLOSED),
    ("report out --format perfetto -o -", 0, CLOSED),
    ("analyze -q a.parquet", 1, CLOSED),
    ("analyze -q --json - a.parquet", 1, ASKED),
    ("explain", 0, CLOSED),
    ("explain lost --json -", 0, ASKED),
    ("doctor --no-attach", None, CLOSED),
    ("doctor --no-attach --json /dev/stdout", None, ASKED),
    ("completion bash", 0, CLOSED),
    ("vm kernels", 0, CLOSED),
    (EXPLORE, 3, CLOSED),
    (f"{EXPLORE} -q --json -", 3, ASKED),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("streams")
    run(where / "out", [control(trace="none.parquet")])
    stored(where / "out" / "none.parquet", exposed())
    stored(where / "a.parquet", exposed())
    return where


def through_a_shell(place: Path, words: str, more: str) -> tuple[int, str]:
    """Exit status of a command line, and what it says on standard error."""
    script = f"{shlex.join(EOFRACE)} {words} {more}"
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(("words", "status", "says"), COMMANDS, ids=[one[0] for one in COMMANDS])
def test_a_closed_output_is_an_error_that_is_named(words: str, status: int | None, says: str, place: Path) -> None:
    found, _ = through_a_shell(place, words, "> /dev/null")  # the control
    assert found == (status if status is not None else found)
    assert found in (0, 1, 3, 4)
    found, said = through_a_shell(place, words, ">&-")
    assert found == 2
    assert said == says


@pytest.mark.parametrize("words", ["report out", "report a.parquet", "explain --json -", "analyze -q a.parquet"])
def test_so_is_one_that_is_open_for_reading_alone(words: str, place: Path) -> None:
    status, said = through_a_shell(place, words, "1< /dev/null")
    assert status == 2
    assert "standard output is closed, or not open for writing" in said


@pytest.mark.parametrize("words", ["report out", "report a.parquet", "explain", "report a.parquet --format json"])
def test_a_full_disk_is_one_line_whatever_the_verdict(words: str, place: Path) -> None:
    assert through_a_shell(place, words, "> /dev/full") == (4, FULL)


def test_what_writes_nothing_there_needs_no_output(place: Path) -> None:
    assert through_a_shell(place, "report a.parquet --format json -o a.json", ">&-") == (1, "")
    assert (place / "a.json").stat().st_size > 100


@pytest.mark.parametrize(
    "words",
    ["report out", "report a.parquet", "report a.parquet --format json", "explain", "analyze -q --json - a.parquet"],
)
def test_a_reader_that_has_enough_is_no_error(words: str, place: Path) -> None:
    """Nobody reads at all: what it prints need not fill a pipe for that to be seen."""
    script = f'{{ sleep 0.5; {shlex.join(EOFRACE)} {words}; echo "$?" >&2; }} | true'
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "141\n"


def test_closed_streams_are_not_taken_by_a_file(place: Path) -> None:
    """A file that is opened first would get descriptor 1, and what somebody prints."""
    before = (place / "a.parquet").read_bytes()
    for more in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        status, _ = through_a_shell(place, "analyze -q a.parquet", more)
        assert status == 2
        assert (place / "a.parquet").read_bytes() == before
