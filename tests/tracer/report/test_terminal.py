"""What commands show in a terminal of 80 and of 160 columns, and in a pipe, letter by letter (snapshots/).

EOFRACE_SNAPSHOTS=write ./run test tests/tracer/report/test_terminal.py     takes what is shown now for right
"""

import io
import os
import pty
import re
import select
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest
from rich.text import Text

from blockstack.sim.models import MODELS
from blockstack.strategies import STRATEGIES
from tests.tracer.bench import made as bench
from tests.tracer.report import shown
from tests.tracer.report.made import cell, control, exposed, run, stored
from tests.tracer.test_commands import EOFRACE
from tracer.analysis.hazards import analyse
from tracer.commands import analyze
from tracer.explore.guest import standard
from tracer.explore.run import Options as ExploreOptions
from tracer.explore.run import run as explore
from tracer.report import explore_text, probe_text, text, trace_text, verify_live, verify_text
from tracer.report.console import Console
from tracer.report.cost.source import of
from tracer.report.cost.text import print_cost
from tracer.report.source import load
from tracer.report.tables import told
from tracer.report.verify_live import LiveTable
from tracer.trace_meta import TraceMeta
from tracer.verify.matrix import cell_json

SNAPSHOTS = Path(__file__).with_name("snapshots")
WIDTHS = (80, 160, None)
"""Columns of a terminal; None: a pipe."""


def _verify(console: Console) -> None:
    verify_text.print_report(shown.verify_report(), console, verbose=False)


def _probe(console: Console) -> None:
    probe_text.print_report(shown.probe_report(), "6.18.44", console, verbose=False)


def _trace(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_text, "plain", lambda *, stderr: console)
    trace_text.print_captured(shown.captured(), stderr=False)


def _analyze(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyze, "plain", lambda *, stderr: console)
    found = analyse(exposed(), TraceMeta(dropped=3))
    analyze._print([Path("run.parquet")], [found], found)


def _explore(console: Console) -> None:
    strategies = tuple(STRATEGIES[name] for name in ("none", "serialise-xfs-native"))
    guests = ((standard("neighbours", 2, 8192, 1024), False),)
    options = ExploreOptions(strategies=strategies, models=(MODELS["xfs-pre-5.5"],), guests=guests)
    explore_text.print_report(explore(options, lambda: False, lambda _: None), console)


def _bench(console: Console) -> None:
    print_cost(of(bench.result()), console, verbose=True)


def _report(console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # how long its name is depends on who runs the tests
    cells = [
        control(trace="none.parquet", conflicts=5, exposed=1),
        cell("confirmed", strategy="serialise-xfs-native", conflicts=1234567, min_gap_ns=100037, lost_bytes=0),
        cell("inconclusive", strategy="no-alloc-space", lost_events=7),
    ]
    directory = run(Path("out"), cells, "inconclusive")
    stored(directory / "none.parquet", exposed())
    text.print_source(load(directory), console)


def _live(console: Console) -> None:
    console.print(live(console))


def live(console: Console) -> LiveTable:
    """Three cells of ten have ended, the fourth runs."""
    table = LiveTable(console, 2000, clock=iter((0.0, 65.0, 65.0, 65.0)).__next__)
    for number, one in enumerate(shown.verify_report().cells[:3], 1):
        table.started(one.strategy, one.fallocate, number, 10)
        table.finished(one.name, cell_json(one, "6.1"))
    table.started("serialise-xfs-native", "legacy-xfs", 4, 10)
    for _ in range(870):
        table.acknowledged()
    return table


WHAT: dict[str, Callable[..., None]] = {
    "verify": _verify,
    "verify-live": _live,
    "probe": _probe,
    "trace": _trace,
    "analyze": _analyze,
    "explore": _explore,
    "bench": _bench,
    "report": _report,
}


def printed(name: str, width: int | None, arguments: dict[str, object]) -> str:
    """What is shown, without colours."""
    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=width is not None,
        width=width or 80,
        height=24,
        color_system=None,
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    function = WHAT[name]
    function(console, **{key: value for key, value in arguments.items() if key in function.__code__.co_varnames[:3]})
    # Bold needs no colour system.
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", WHAT)
def test_what_is_shown(name: str, width: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = printed(name, width, {"tmp_path": tmp_path, "monkeypatch": monkeypatch})
    # Spaces that fill a row say nothing, and editors take them away.
    said = "\n".join(line.rstrip() for line in said.splitlines()) + "\n"
    lines = said.splitlines()
    assert all(line.isprintable() for line in lines)
    assert "…" not in said, "a word was cut"
    if width is not None:
        assert max(map(len, lines)) <= width
    file = SNAPSHOTS / f"{name}-{width or 'pipe'}.txt"
    if os.environ.get("EOFRACE_SNAPSHOTS") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(said)
    assert said == file.read_text(), f"EOFRACE_SNAPSHOTS=write would change {file.name}"


def test_a_sentence_is_folded_between_words_on_a_terminal_alone() -> None:
    words = "  not complete: " + "word " * 40
    for terminal, lines in ((True, 3), (False, 1)):
        file = io.StringIO()
        told(Console(file=file, force_terminal=terminal, width=80, color_system=None), Text(words.rstrip()))
        said = file.getvalue().splitlines()
        assert len(said) == lines
        assert all(line.startswith("  ") for line in said)
        assert " ".join(" ".join(said).split()) == " ".join(words.split())


def test_a_table_that_is_higher_than_the_terminal_shows_its_end() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=12, color_system=None)
    table = LiveTable(console, 1)
    for number in range(1, 31):
        table.started("none", f"case {number}", number, 30)
        table.finished(f"none x case {number}", cell("confirmed"))
    console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    lines = file.getvalue().splitlines()
    assert len(lines) <= 12
    assert "none x case 30" in lines[-3]
    assert "24 above" in lines[-1]


@pytest.mark.parametrize("no_colour", [False, True])
def test_no_color_is_heeded(no_colour: bool, tmp_path: Path) -> None:
    trace = stored(tmp_path / "a.parquet", exposed())
    screen, raw = in_terminal([*EOFRACE, "analyze", str(trace)], 80, {"NO_COLOR": "1"} if no_colour else {})
    assert any("verdict: unsafe" in line for line in screen.display)
    assert (re.search(rb"\x1b\[[0-9;]*3[0-7]m", raw) is not None) == (not no_colour)


def test_a_pipe_gets_no_escape(tmp_path: Path) -> None:
    trace = stored(tmp_path / "a.parquet", exposed())
    done = subprocess.run([*EOFRACE, "analyze", str(trace)], capture_output=True, timeout=60, check=False)
    assert b"\x1b" not in done.stdout + done.stderr


WORDS = ["verify", "--evidence", "driver", "--strategy", "serialise", "--fallocate", "kernel", "--writes", "200"]


@pytest.mark.slow
def test_verify_shows_a_table_while_it_runs_and_none_of_it_stays(tmp_path: Path) -> None:
    screen, raw = in_terminal([*EOFRACE, *WORDS, "--seed", "1", "--dir", str(tmp_path)], 80, {}, height=40)
    assert b"cell 1 of 2" in raw
    assert b"cell 2 of 2" in raw
    assert re.search(rb"\[\d*A|\x1b\[2K", raw), "drawn over itself"
    lines = [line.rstrip() for line in screen.display]
    assert not any("cell 1 of 2" in line for line in lines)
    assert sum("serialise" in line and "kernel" in line and "x" not in line for line in lines) == 1
    assert any(line.startswith("verdict: ") for line in lines)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, ["serialise x kernel: confirmed"]),
        ({"verbose": True}, ["[2/2] serialise x kernel", "serialise x kernel: confirmed"]),
        ({"quiet": True}, []),
    ],
)
def test_verify_says_a_line_a_cell_elsewhere(
    named: dict[str, bool], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with verify_live.shown(200, **{"quiet": False, "verbose": False, **named}) as telling:
        telling.started("serialise", "kernel", 2, 2)
        telling.acknowledged()
        telling.finished("serialise x kernel", cell("confirmed"))
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", expected)


def in_terminal(
    words: list[str], width: int, environment: dict[str, str], height: int = 24
) -> tuple[pyte.HistoryScreen, bytes]:
    """Run a command in a terminal. Returns what it shows in the end, and all that was written."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (height, width))
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI")
    env = {name: value for name, value in os.environ.items() if name not in names}
    # Python's readline puts those of the test's own terminal into the C environment: `env` says all there is.
    env |= {"TERM": "xterm-256color", **environment}
    raw = bytearray()
    with subprocess.Popen(words, stdin=child, stdout=child, stderr=child, env=env) as process:
        os.close(child)
        while select.select([parent], [], [], 120)[0]:
            try:
                part = os.read(parent, 65536)
            except OSError:
                break
            if not part:
                break
            raw += part
        process.wait(30)
    os.close(parent)
    screen = pyte.HistoryScreen(width, height)
    pyte.ByteStream(screen).feed(bytes(raw))
    return screen, bytes(raw)
