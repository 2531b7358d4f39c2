"""`eofrace report` on files that are not what their names say: named as what they are, and nobody waits for one."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracer.report.made import cell, control, exposed, run, stored
from tests.tracer.test_commands import eofrace
from tracer.errors import UsageError
from tracer.report.source import load
from tracer.report.standing import Standing, assess_all, concluded

TRACE = "none.parquet"

WRONG: list[tuple[str, Callable[[Path], object], str]] = [
    ("FIFO", os.mkfifo, "a FIFO, not a regular file"),
    ("device", lambda path: path.symlink_to("/dev/zero"), "a device, not a regular file"),
    ("socket", lambda path: bound(path), "a socket, not a regular file"),
    ("loop", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ("dangling", lambda path: path.symlink_to("nowhere"), "No such file or directory"),
]


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path may be 107 bytes long
        try:
            one.bind(path.name)
        finally:
            os.chdir(before)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A run of which all is well."""
    directory = run(tmp_path / "out", [control(trace=TRACE), cell("confirmed")])
    stored(directory / TRACE, exposed())
    return directory


def test_the_control_all_is_well(kept: Path) -> None:
    for path in (kept, kept / "verify.json"):
        assert concluded(load(path), assess_all(load(path)))[0].status == 0


@pytest.mark.parametrize(("make", "says"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
@pytest.mark.parametrize("name", [TRACE, "verify.json"])
def test_it_is_named_as_what_it_is(name: str, make: Callable[[Path], object], says: str, kept: Path) -> None:
    (kept / name).unlink()
    make(kept / name)
    for path in (kept, kept / "verify.json"):
        with pytest.raises(UsageError) as error:
            load(path)
        assert f"{kept / name}: " in str(error.value)
        assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [(TRACE, "a directory without a part of a trace"), ("verify.json", "a directory, not a regular file")],
)
def test_a_directory_is_one(name: str, says: str, kept: Path) -> None:
    (kept / name).unlink()
    (kept / name).mkdir()
    done = eofrace("report", str(kept))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"eofrace: {kept / name}: {says}" + (
        " (part-000001.parquet, ...)\n" if name == TRACE else "\n"
    )


@pytest.mark.parametrize("words", [["report"], ["analyze"]])
def test_a_fifo_is_not_waited_for(words: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    done = eofrace(*words, str(tmp_path / "fifo"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"eofrace: {tmp_path / 'fifo'}: a FIFO, not a regular file\n"


@pytest.mark.parametrize("name", [TRACE, "verify.json"])
def test_what_may_not_be_read_is_no_file_that_is_gone(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:  # into which others may go
        Path(place).chmod(0o755)
        directory = run(Path(place) / "out", [control(trace=TRACE), cell("confirmed")])
        stored(directory / TRACE, exposed())
        with nobody():
            load(directory)  # the control
        (directory / name).chmod(0)
        with nobody(), pytest.raises(UsageError) as error:
            load(directory)
    assert f"{directory / name}: " in str(error.value)
    assert "Permission denied" in str(error.value)


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("trace", ["/", "..", "../..", ".", "", "x" * 5000 + ".parquet", "a\0b"])
def test_a_name_that_is_none_leads_nowhere(trace: str, kept: Path) -> None:
    """The directory above has a trace: nobody is to look there."""
    stored(kept.parent / "part-000001.parquet", exposed(), part=1, last=True)
    run(kept, [control(trace=trace), cell("confirmed")])
    with pytest.raises(UsageError):
        load(kept)


def test_a_trace_that_is_gone_is_an_error_that_names_it(kept: Path) -> None:
    (kept / TRACE).unlink()
    assessed = assess_all(load(kept))
    assert [one.standing for one in assessed] == [Standing.ERROR, Standing.PASSED]
    assert assessed[0].doubts == (f"its trace {TRACE} is not there any more",)
    for name in ("text", "junit", "json", "markdown"):
        done = eofrace("report", str(kept), "--format", name)
        assert (done.returncode, done.stderr) == (3, ""), name
        assert f"its trace {TRACE} is not there any more" in done.stdout.replace("\\", ""), name


@pytest.mark.parametrize(
    ("made", "standing"),
    [
        (cell("confirmed"), Standing.ERROR),
        (cell("unsafe", strategy="auto", exposed=1, relies_on_kernel=True), Standing.ERROR),
        (cell("unsafe", exposed=1), Standing.FAILED),
        (cell("corrupt", lost=1), Standing.FAILED),
        (cell("inconclusive"), Standing.ERROR),
    ],
    ids=["confirmed", "left to the kernel", "unsafe", "corrupt", "inconclusive"],
)
def test_what_failed_has_failed_whether_its_trace_is_there_or_not(
    made: dict[str, object], standing: Standing, kept: Path
) -> None:
    run(kept, [control(trace=TRACE), made | {"trace": "gone.parquet"}])  # and says that all is confirmed
    source = load(kept)
    assert [one.standing for one in assess_all(source)] == [Standing.PASSED, standing]
    assert concluded(source, assess_all(source))[0].status == (1 if standing is Standing.FAILED else 3)


def test_a_run_that_kept_no_traces_lacks_none(kept: Path) -> None:
    run(kept, [control(), cell("confirmed")])
    source = load(kept)
    assert concluded(source, assess_all(source))[0].status == 0
