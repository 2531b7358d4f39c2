"""Every command in README.md, CONTRIBUTING.md and docs/ is executed: as it stands, or in a reduced form that is
declared (tests/docs/lists.py) with the reason. Those that need root: tests/docs/test_documented_root.py.
"""

import ast
import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from bench.__main__ import main as bench
from tests.docs.blocks import ROOT, Command, code, missed, pages
from tests.docs.lists import EVERY, EXECUTED, OTHERS, OURS, Executed, Other, executed, line_of
from tests.docs.qemu import script_of
from tests.docs.running import Server, globbed, reduced, words_of
from tests.tracer.words import of_text
from tracer.analysis.rules import all_rules
from tracer.campaign import table
from tracer.commands import SUBCOMMANDS, main
from tracer.report.explanations import topics


def test_every_command_is_spoken_of_and_every_line_has_a_use() -> None:
    assert len(EVERY) > 100
    assert [str(command) for command in EVERY if line_of(command.text) is None] == []
    used = {line_of(command.text) for command in EVERY}
    lines = (*EXECUTED, *OTHERS)
    assert [line.pattern for line in lines if line not in used] == []
    assert all(line.why for line in lines)


def test_all_of_ours_are_executed() -> None:
    """Or stand in the worked example, which is executed as a whole."""
    lines = [line_of(command.text) for command in EVERY if re.match(OURS, command.text)]
    assert len(lines) > 80
    assert {line.how for line in lines if isinstance(line, Other)} <= {"qemu", "tests", "scripts"}


def test_no_command_is_overlooked() -> None:
    assert [str(command) for command in missed()] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in pages():
        if path.parent == ROOT / "docs" and path.name != "README.md":
            assert f"({path.name})" in index, path.name


def test_links_lead_somewhere() -> None:
    for path in [*pages(), *(ROOT / "docs" / "reference").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_what_needs_no_root_runs(place: Path, server: Server) -> None:
    """In the order of the documents: some read what others have written."""
    ours = executed("anywhere")
    assert len(ours) > 40
    for text, line in ours:
        if "old/results.parquet" in text:
            shutil.copy(place / "nightly.campaign" / "results.parquet", place / "old")
        where = place / "verified" if " verify" in text else place
        run(server, where, reduced(words_of(text), line.more), line)


def run(server: Server, where: Path, words: list[str], line: Executed) -> None:
    """One of them; what it says has to be what is expected, and no word that nobody explains."""
    done = server.run(where, globbed(where, words))
    said = f"{words}: {done.status}\n{done.out}\n{done.err}"
    # 1 and 3 are verdicts: the traces are what they are, and what is small is seldom conclusive.
    assert done.status in (0, 1, 3, 4 if words[0] == "doctor" else 0), said
    assert "Traceback" not in done.err, said
    assert re.search(line.says, done.out or done.err), said
    names = {topic.name for topic in topics(all_rules())}
    assert {word.replace(" ", "-") for word in of_text(done.out)} <= names, said


@pytest.mark.parametrize("words", [["report", "nowhere"], ["report", "out", "--nope"], ["verify", "--dir", "nowhere"]])
def test_a_command_that_fails_would_be_seen(words: list[str], place: Path, server: Server) -> None:
    with pytest.raises(AssertionError, match=": 2"):
        run(server, place, words, EXECUTED[0])


def test_a_command_that_says_something_else_would_be_seen(place: Path, server: Server) -> None:
    with pytest.raises(AssertionError, match="exposed"):
        run(server, place, ["analyze", "run.parquet"], Executed("", "", "(?m)^verdict: splendid", ""))


def test_every_help_is_one(place: Path, server: Server) -> None:
    more = [["vm", name] for name in ("kernels", "build", "run", "matrix")]
    more += [["campaign", name] for name in ("run", "status", "compare")]
    for words in [[], *([name] for name in SUBCOMMANDS), *more]:
        done = server.run(place, [*words, "--help"])
        assert (done.status, done.err) == (0, ""), words
        assert done.out.startswith(f"Usage: {' '.join(['eofrace', *words])} "), words
        assert max(map(len, done.out.splitlines())) <= 120, words


@pytest.mark.parametrize("words", [["verify", "--nope"], ["vm", "run", "--", "verify", "--nope"], ["nope"]])
def test_a_wrong_command_would_not_be_parsed(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(words)
    with pytest.raises(click.UsageError):
        parse(words, bench)


@pytest.mark.parametrize("command", [one for one in EVERY if isinstance(line_of(one.text), Other)], ids=str)
def test_what_is_no_command_of_ours(command: Command, place: Path) -> None:
    done = subprocess.run(["bash", "-n", "-c", command.text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = line_of(command.text)
    assert isinstance(line, Other)
    CHECKS[line.how](command.text, place)


def test_the_workflow_is_one_and_its_commands_are_some() -> None:
    ((page, text),) = code("yaml")
    assert page == "docs/ci.md"
    workflow = yaml.safe_load(text)
    steps = workflow["jobs"]["verify"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    assert len(scripts) == 3
    for script in scripts:
        done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    lines = [line for script in scripts for line in script.splitlines() if line.startswith("./run")]
    assert len(lines) == 4
    for line in lines:
        parse(words_of(re.split(r" (?:\|\||>>)", line)[0]))
    # A step that must see a run that failed says so: what is not said is `success()`.
    assert all("cancelled()" in step["if"] for step in steps if step.get("name") == "report" or "artifact" in str(step))


def test_python_in_the_documents(tmp_path: Path) -> None:
    """README.md's is executed; another one boots a VM, and is compiled."""
    blocks = list(code("python"))
    assert [page for page, _ in blocks] == ["README.md", "docs/vm.md"]
    for page, text in blocks:
        compile(text, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    words = [sys.executable, "-c", blocks[0][1]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(words, cwd=tmp_path, timeout=60, check=True, env=environment)
    assert (tmp_path / "disk.qcow2").read_bytes()[:4] == b"QFI\xfb"


def parse(words: list[str], command: click.Command = main) -> None:
    """Have click parse a command line, and the one inside it. Raises click.UsageError."""
    context = click.Context(command, info_name="eofrace")
    while isinstance(command, click.Group):
        if command.name == "campaign" and words and words[0] not in command.commands:
            words = ["run", *words]
        inner = command.get_command(context, words[0]) if words else None
        if inner is None:
            raise click.UsageError(f"no command {words[:1]}")
        command, words = inner, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    if command.name == "run" and "--" in words:
        parse(words[words.index("--") + 1 :])
    command.make_context(command.name, words, parent=context.parent)


def _nothing(text: str, place: Path) -> None:
    """Syntax is all that there is to check."""


def _tests(text: str, place: Path) -> None:
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if word.startswith("tests/"):
            assert (ROOT / word).exists(), word
        elif value and name.startswith("EOFRACE_"):
            assert name in _sources(), name


@functools.cache
def _sources() -> str:
    return "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))


def _scripts(text: str, place: Path) -> None:
    assert (ROOT / text.split()[0]).is_file()
    assert subprocess.run(["bash", "-n", str(ROOT / text.split()[0])], check=False).returncode == 0


def _module(text: str, place: Path) -> None:
    for name in re.findall(r"-m ([a-z._]+)", text):
        assert importlib.util.find_spec(name) is not None, name


def _bench(text: str, place: Path) -> None:
    parse(shlex.split(text)[3:], bench)


def _sql(text: str, place: Path) -> None:
    query = re.sub(r"'([^']*\.parquet)'", lambda match: f"'{place / match[1]}'", shlex.split(text)[2])
    if "campaign" in query:
        results = place / "nightly.campaign" / "results.parquet"
        if not results.exists():  # this test alone
            results.parent.mkdir()
            pq.write_table(table.SCHEMA.empty_table(), results)
        found = duckdb.sql(query)
        assert found is not None
        assert found.columns == ["run", "fs", "kernel_release", "verdict", "count_star()"]
        return
    found = duckdb.sql(query)
    assert found is not None
    assert sorted(row[:2] for row in found.fetchall()) == [("aio_write", 1), ("fallocate", 1)]


def _qemu(text: str, place: Path) -> None:
    """That it is executed, in a script made of the page."""
    script = " ".join(script_of(ROOT / "docs" / "qemu.md").replace("\\\n", " ").split())
    assert " ".join(text.split()) in script


def _clone(text: str, place: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no repository: there is nothing to clone")
    settings = {f"url.{ROOT}.insteadOf": "https://example.org/eofrace", "safe.directory": "*"}
    environment = dict(os.environ, GIT_CONFIG_COUNT=str(len(settings)))
    for number, (name, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    script = f"{text} && test -x run && git rev-parse HEAD"
    subprocess.run(["bash", "-c", script], cwd=place, env=environment, capture_output=True, timeout=120, check=True)


CHECKS: Mapping[str, Callable[[str, Path], None]] = {
    "": _nothing,
    "tests": _tests,
    "scripts": _scripts,
    "module": _module,
    "bench": _bench,
    "sql": _sql,
    "qemu": _qemu,
    "clone": _clone,
}
