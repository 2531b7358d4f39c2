"""Names from a trace or a verify.json that an enemy has made: they are told, and do nothing."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.tracer.report.made import COMM, HOSTILE, cell, control, exposed, run, stored
from tests.tracer.test_commands import eofrace
from tracer.errors import UsageError
from tracer.report import document, junit, markdown, text
from tracer.report.source import load

TELLING = re.compile(r"script.{0,3}>alert")
"""What has to be left of it: a report must not hide what it was given."""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run in which every text that may be is hostile, and the names of the process in its trace."""
    texts = dict.fromkeys(("strategy", "fs", "aio", "fallocate", "kernel", "reason", "name"), HOSTILE)
    cells = [
        control("corrupt", **{**texts, "strategy": "none"}, trace="/elsewhere/a.parquet", lost=1),
        cell("inconclusive", **texts, format=HOSTILE, variant=HOSTILE, case=HOSTILE, evidence=HOSTILE),
    ]
    directory = run(
        tmp_path / "out",
        cells,
        "inconclusive",
        reason=HOSTILE,
        seed=HOSTILE,
        writes={HOSTILE: [HOSTILE]},
        notes=[HOSTILE],
        gaps={HOSTILE: HOSTILE},
        mechanisms={HOSTILE: HOSTILE},
    )
    stored(directory / "a.parquet", exposed(COMM), command=(HOSTILE,), gaps={"io_uring": "<b>"})
    return directory


def test_the_input_is_hostile(hostile: Path) -> None:
    cells = json.loads((hostile / "verify.json").read_text())["cells"]
    assert {cells[1][name] for name in ("strategy", "reason", "name")} == {HOSTILE}
    shown = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(HOSTILE)
    assert {"html_inline", "heading_open", "link_open", "strong_open"} & _kinds(shown)
    with pytest.raises((Xml.ParseError, UnicodeEncodeError)):
        Xml.fromstring(f"<a>{HOSTILE}</a>")


def told(directory: Path, name: str) -> str:
    done = eofrace("report", str(directory), "--format", name)
    assert (done.returncode, done.stderr) == (3, "")
    assert TELLING.search(done.stdout.replace("\\", "").replace("&gt;", ">").replace("&lt;", "<"))
    return done.stdout


@pytest.mark.parametrize("name", ["text", "junit", "json", "markdown"])
def test_nothing_acts_on_a_terminal(name: str, hostile: Path) -> None:
    assert all(line.isprintable() for line in told(hostile, name).splitlines())


def test_junit_is_xml_without_an_element_of_theirs(hostile: Path) -> None:
    root = Xml.fromstring(told(hostile, "junit"))
    known = {"testsuites", "testsuite", "testcase", "properties", "property", "failure", "error", "system-out"}
    assert {element.tag for element in root.iter()} <= known
    (problem,) = root.iter("error")
    assert "<script>alert(1)</script>" in problem.get("message", "")
    assert {case.get("classname", "").count(".") for case in root.iter("testcase")} == {3}


def test_json_says_what_was_there(hostile: Path) -> None:
    found = json.loads(told(hostile, "json"))
    assert found["recordings"][1]["cell"]["strategy"] == HOSTILE
    assert found["recordings"][0]["analysis"]["hazards"][0]["first"]["comm"].encode() == COMM


def test_markdown_is_ours_alone(hostile: Path) -> None:
    page = told(hostile, "markdown")
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(page)
    # Of HTML only the empty comments that keep a word from being a link or a mention.
    inline = [child for token in tokens for child in token.children or []]
    assert {child.content for child in inline if child.type == "html_inline"} == {"<!-- -->"}
    assert not _kinds(tokens) & {"html_block", "link_open", "image", "fence", "em_open"}
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h2"]
    assert {child.content for child in inline if child.type == "text"} >= {"passed"}
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type in ("td_open", "th_open")]
    assert len(rows) == 3
    assert len(cells) == 3 * page.split("\n| --- |")[1].split("\n")[0].count("|") + 3
    loose = _loose(tokens)
    assert not re.search(r"@\w|https?://|www\.\w", loose)


def test_a_path_is_told_and_does_nothing(tmp_path: Path) -> None:
    trace = stored(tmp_path / "<img src=x>|`\x1b[2J\n.parquet", exposed())
    for name in ("text", "junit", "json", "markdown"):
        done = eofrace("report", str(trace), "--format", name)
        assert done.returncode == 1
        assert "\x1b" not in done.stdout
        assert "img src=x" in done.stdout


def test_an_enormous_name_does_not_fill_the_memory(tmp_path: Path) -> None:
    cells = [control(), *(cell("confirmed", strategy=f"{number}" + "x" * 15_000) for number in range(999))]
    done = eofrace("report", str(run(tmp_path / "out", cells)))
    assert done.returncode == 0
    assert len(done.stdout) < 40_000_000


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1" + "0" * 400, "[]", "1e999"])
@pytest.mark.parametrize("name", ["min_gap_ns", "held_ms", "exposed"])
def test_numbers_that_are_none_end_in_a_message_or_a_report(name: str, value: str, tmp_path: Path) -> None:
    directory = run(tmp_path / "out", [control(), cell("confirmed", case="x", **{name: "HERE"})])
    file = directory / "verify.json"
    file.write_text(file.read_text().replace('"HERE"', value))
    try:
        source = load(directory)
    except UsageError:
        return
    assert name == "held_ms", "nobody relies on it"
    for write in (text.write, document.write, junit.write, markdown.write):
        write(source, tmp_path / "report")


def _kinds(tokens: list[Token]) -> set[str]:
    return {one.type for token in tokens for one in (token, *(token.children or []))}


def _loose(tokens: list[Token]) -> str:
    """All text that is not code, as a reader sees it: an empty comment parts two words."""
    parts = []
    for token in tokens:
        for child in token.children or []:
            parts.append(child.content if child.type == "text" else "\0")
    return "".join(parts)
