"""`eofrace report`: the command, and what each format holds of a run."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
import xmlschema

from tests.tracer.report.made import cell, control, exposed, run, stored
from tests.tracer.test_commands import EOFRACE, eofrace
from tracer.commands import report as command
from tracer.errors import UnsupportedError
from tracer.report import junit

SCHEMA = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A control with a trace, a confirmed strategy, and one that is inconclusive."""
    cells = [
        control(trace="none.parquet", conflicts=5),
        cell("confirmed", conflicts=1234, min_gap_ns=100037),
        cell("inconclusive", strategy="no-alloc-space", lost_events=7),
    ]
    directory = run(tmp_path / "out", cells, "inconclusive")
    stored(directory / "none.parquet", exposed())
    return directory


def test_text_is_the_table_and_a_line_for_every_cell(kept: Path) -> None:
    done = eofrace("report", str(kept))
    assert (done.returncode, done.stderr) == (3, "")
    lines = done.stdout.splitlines()
    assert any(" ".join(line.split()) == "serialise kernel 0 0 1234 0 0 0 0 0 100.0 us confirmed" for line in lines)
    assert "none x kernel: passed: the control shows the hazard, as it must: because it is unsafe" in lines
    assert "no-alloc-space x kernel: error: inconclusive: because it is inconclusive" in lines
    assert "  not complete: 7 records were dropped" in lines
    assert lines[-1] == "verdict: inconclusive (of the run)"


def test_junit_is_valid_and_has_the_figures(kept: Path) -> None:
    done = eofrace("report", str(kept), "--format", "junit")
    assert done.returncode == 3
    SCHEMA.validate(done.stdout)
    root = Xml.fromstring(done.stdout)
    found = [
        {one.get("name"): one.get("value") for one in suite.iter("property")} for suite in root.findall("testsuite")
    ]
    assert [one["conflicts"] for one in found] == ["5", "1234", "0"]
    assert found[0]["trace_operations"] == "2"
    assert (found[0]["seed"], found[0]["run_verdict"]) == ("7", "inconclusive")
    assert "conflicts: 1234" in (root.findall(".//system-out")[1].text or "")


def test_the_schema_refuses_what_is_no_junit(kept: Path) -> None:
    text = eofrace("report", str(kept), "--format", "junit").stdout
    for wrong in (text.replace("<testcase ", "<case ", 1), text.replace(' tests="', ' test="', 1)):
        with pytest.raises((xmlschema.XMLSchemaException, Xml.ParseError)):
            SCHEMA.validate(wrong)


def test_json_has_it_all(kept: Path) -> None:
    found = json.loads(eofrace("report", str(kept), "--format", "json").stdout)
    assert (found["schema"], found["kind"], found["status"]) == ("eofrace.report/1", "verify", 3)
    assert [one["standing"] for one in found["recordings"]] == ["passed", "passed", "error"]
    assert found["recordings"][0]["analysis"]["counts"]["post-eof-fallocate"]["exposed"] == 1
    assert found["run"]["seed"] == 7
    assert "cells" not in found["run"]


def test_markdown_says_what_did_not_pass(kept: Path) -> None:
    lines = eofrace("report", str(kept), "--format", "markdown").stdout.splitlines()
    assert lines[0] == "## eofrace: inconclusive"
    assert sum(line.startswith("| `") for line in lines) == 3
    assert "- `no-alloc-space x kernel`: **error**: inconclusive: because it is inconclusive" in lines
    assert not any(line.startswith("- `serialise") and "no trace" not in lines[at + 1] for at, line in enumerate(lines))


@pytest.mark.parametrize("name", ["text", "junit", "json", "markdown"])
def test_a_trace_by_itself(name: str, tmp_path: Path) -> None:
    trace = stored(tmp_path / "a.parquet", exposed())
    target = tmp_path / "report"
    done = eofrace("report", str(trace), "--format", name, "-o", str(target))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert "post-eof-fallocate" in target.read_text()
    if name == "junit":
        SCHEMA.validate(str(target))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "TRACE|OUTDIR"),
        (("/nowhere",), "/nowhere"),
        (("/etc/passwd",), "Parquet"),
        (("/",), "without a part of a trace"),
        (("{kept}", "--format", "nope"), "nope"),
        (("{kept}", "-o", "/nowhere/x"), "/nowhere"),
        (("{kept}", "--format", "html"), "-o"),
        (("{kept}", "--format", "perfetto"), "-o"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words: tuple[str, ...], message: str, kept: Path) -> None:
    done = eofrace("report", *(word.format(kept=kept) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("r.html", "html"),
        ("r.xml", "junit"),
        ("r.json", "json"),
        ("r.md", "markdown"),
        ("r.perfetto-trace", "perfetto"),
        ("r.pftrace", "perfetto"),
        ("r.txt", "text"),
        ("r", "text"),
    ],
)
def test_the_name_of_the_file_says_the_format(name: str, format_name: str, kept: Path, tmp_path: Path) -> None:
    asked, named, other = tmp_path / "asked", tmp_path / name, tmp_path / "other.html"
    for words in (["--format", format_name, "-o", asked], ["-o", named], ["--format", "text", "-o", other]):
        assert eofrace("report", str(kept), *map(str, words)).returncode == 3
    assert named.read_bytes() == asked.read_bytes()
    assert (other.read_bytes() == asked.read_bytes()) is (format_name == "text"), "what is asked for comes first"


def test_a_plot_by_the_name_of_the_file_is_of_bench_alone(kept: Path, tmp_path: Path) -> None:
    done = eofrace("report", str(kept), "-o", str(tmp_path / "r.svg"))
    assert (done.returncode, "bench" in done.stderr) == (2, True)


def test_nothing_is_left_of_a_report_that_failed(kept: Path, tmp_path: Path) -> None:
    (kept / "none.parquet").write_bytes(b"PAR1")
    done = eofrace("report", str(kept), "-o", str(tmp_path / "report"))
    assert done.returncode == 2
    assert not (tmp_path / "report").exists()


def test_a_terminal_is_spared_what_is_binary(kept: Path) -> None:
    parent, child = pty.openpty()
    with os.fdopen(parent), os.fdopen(child):
        words = [*EOFRACE, "report", str(kept), "--format", "perfetto", "-o", "-"]
        done = subprocess.run(words, stdin=child, stdout=child, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert "name a file with -o" in done.stderr


def test_ctrl_c_ends_it_with_130_and_no_file(tmp_path: Path) -> None:
    """The trace is a FIFO's other end that never opens: a report that waits."""
    directory = run(tmp_path / "out", [control(trace="a.parquet")])
    stored(directory / "a.parquet", exposed())
    slow = (
        "import time, tracer.report.source as s\n"
        "real = s._judged\n"
        "def judged(trace):\n    print('judging', flush=True)\n    time.sleep(30)\n    return real(trace)\n"
        "s._judged = judged\n"
    )
    code = slow + "from tracer.commands import main; main()"
    words = [EOFRACE[0], "-c", code, "report", str(directory), "-o", str(tmp_path / "report")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "judging\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "eofrace: interrupted\n"
    assert not (tmp_path / "report").exists()


def test_progress_is_on_a_terminal_alone_and_never_if_quiet(kept: Path) -> None:
    for more, expected in (((), True), (("-q",), False)):
        parent, child = pty.openpty()
        with os.fdopen(child):
            words = [*EOFRACE, "report", str(kept), "--format", "json", *more]
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=child, text=True, timeout=60)
            assert json.loads(done.stdout)
            os.set_blocking(parent, False)
            try:
                said = os.read(parent, 65536)
            except BlockingIOError:
                said = b""
            os.close(parent)
        assert (b"judging" in said or b"writing" in said or b"reading" in said) == expected


def test_a_format_that_this_version_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command._MODULES, "html", "no_such_module")
    with pytest.raises(UnsupportedError, match="this version has no HTML report"):
        command._writer("html")
    assert command._writer("junit") is junit.write
