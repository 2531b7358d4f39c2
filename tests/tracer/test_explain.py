"""`eofrace explain`: every word that a command prints as a verdict, an outcome or a status has a meaning."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from blockstack.fallocate import BEHAVIOURS
from blockstack.strategies import STRATEGIES
from tests.tracer.test_commands import eofrace
from tests.tracer.words import KEYS, of_json, of_text
from tracer.analysis.hazards import Verdict
from tracer.analysis.rules import Outcome, Severity, all_rules
from tracer.bench.statistics import Conclusion
from tracer.campaign import rows, status
from tracer.commands import CRASHED
from tracer.errors import Status
from tracer.explore.judge import Outcome as ScheduleOutcome
from tracer.probe.judge import Verdict as ProbeVerdict
from tracer.report.explanations import topics
from tracer.report.standing import Standing

ROOT = Path(__file__).parents[2]

# Every closed set of words in the code whose members are told of a run, ...
SETS = {
    "tracer/analysis/hazards.py:Verdict": [*Verdict],
    "tracer/analysis/rules/__init__.py:Outcome": [outcome.label for outcome in Outcome],
    "tracer/analysis/rules/__init__.py:Severity": [*Severity],
    "tracer/bench/statistics.py:Conclusion": [conclusion.replace(" ", "-") for conclusion in Conclusion],
    "tracer/errors.py:Status": [str(int(status)) for status in Status],
    "tracer/explore/judge.py:Outcome": [*ScheduleOutcome],
    "tracer/probe/judge.py:Verdict": [*ProbeVerdict],
    "tracer/report/standing.py:Standing": [*Standing],
}
# ... and every other one, which is none of verdicts, with what it is instead.
OTHER_SETS = {
    "tracer/analysis/size_order.py:First": "a word within a sentence",
    "tracer/bench/workload.py:Image": "an option's",
    "tracer/bench/workload.py:Kind": "numbers",
    "tracer/hooks.py:Mechanism": "an option's",
    "tracer/operations.py:Op": "kinds of operations: docs/reference/trace.md",
    "tracer/verify/held/cases.py:Order": "which of two comes first, and says so",
}

WORDS = [
    *(word for words in SETS.values() for word in words),
    *(rule.id for rule in all_rules()),
    *(*STRATEGIES, *BEHAVIOURS, "control", "driver"),
    *(*status.VERDICTS.values(), status.UNFINISHED, rows.MEASURED, rows.ERROR, "worse", "better"),
    *("too-few-rounds", "narrow", "budget", "yes", "no"),
    *(str(CRASHED), "129", "130", "141", "143"),
]

NAMES = {topic.name for topic in topics(all_rules())}


def test_every_word_is_explained() -> None:
    done = eofrace("explain", *WORDS)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for word in WORDS:
        (at, *_) = [number for number, line in enumerate(lines) if line.startswith(f"{word} (")]
        assert any(line.startswith("  ") for line in lines[at : at + 5]), word


def test_a_word_with_two_meanings_has_both() -> None:
    told = eofrace("explain", "inconclusive").stdout
    assert told.count("inconclusive (verdict of") == 2
    assert told.count("inconclusive (") == 3


def known(word: str) -> bool:
    return word.replace("_", "-").replace(" ", "-") in NAMES


def test_every_set_of_words_in_the_code_is_explained_or_is_none_of_verdicts() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in (ROOT / "tracer").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases)
    }
    assert found == set(SETS) | set(OTHER_SETS)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/reference/schemas").glob("*.json")), ids=lambda path: path.stem)
def test_every_verdict_that_a_schema_allows_is_explained(path: Path) -> None:
    unknown = {word for word in allowed(json.loads(path.read_text())) if not known(word)}
    assert not unknown


def allowed(schema: Any, key: str = "") -> list[str]:
    """Words that a JSON Schema allows for what `of_json` looks at."""
    if isinstance(schema, list):
        return [word for one in schema for word in allowed(one, key)]
    if not isinstance(schema, dict):
        return []
    mine = [word for word in schema.get("enum", ()) if isinstance(word, str)] if key in KEYS else []
    inner = schema.get("properties", {})
    told = [word for name, one in inner.items() for word in allowed(one, name)]
    return mine + told + [word for name, one in schema.items() if name != "properties" for word in allowed(one, key)]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests/tracer/report/snapshots").glob("*.txt")), ids=lambda path: path.stem
)
def test_every_verdict_on_a_terminal_is_explained(path: Path) -> None:
    """What the real commands print is looked at in the same way: tests/docs/test_documented.py."""
    words = set(of_text(path.read_text()))
    assert words
    assert {word for word in words if not known(word)} == set()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (" strategy  fallocate  verdict\n ─────\n none      kernel     splendid\n\nnote: a b", "splendid"),
        (" side       interval  than none\n ─────\n a    0.1 to 1.0  rather slow\n", "rather slow"),
        ("verdict: splendid (of the run)", "splendid"),
        ("none x kernel: splendid: the control shows it", "splendid"),
        ("none x kernel: splendid (the control, expected): why.", "splendid"),
        ("splendid (post-eof-fallocate): inode 1: fallocate", "splendid"),
        ("xfs plain: splendid: it waited.", "splendid"),
        ('{"cells": [{"verdict": "splendid"}]}', "splendid"),
    ],
)
def test_a_word_that_nobody_explains_would_be_seen(text: str, word: str) -> None:
    assert [one for one in of_text(text) if not known(one)] == [word]
    assert allowed({"properties": {"verdict": {"enum": [word, None]}}}) == [word]
    assert list(of_json([{"verdict": None}, {"outcome": word}])) == [word]


def test_words_that_are_printed_with_spaces() -> None:
    for words in (["too", "few", "rounds"], ["no difference shown"]):
        done = eofrace("explain", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("-".join(" ".join(words).split()) + " (what bench")


def test_the_list_names_everything_once_a_line() -> None:
    told = eofrace("explain").stdout
    assert max(map(len, told.splitlines())) <= 80
    named = [line.split()[0] for line in told.splitlines() if line.startswith("  ") and line[2] != " "]
    assert set(WORDS) <= set(named)
    assert sorted(name for name in set(named) if named.count(name) > 1) == (
        ["error", "exposed", "inconclusive", "kernel", "lost", "safe"]
    )


def test_json() -> None:
    report = json.loads(eofrace("explain", "LOST", "kernel_serialised", "lost", "--json", "-").stdout)
    assert report["schema"] == "eofrace.explain/1"
    assert [topic["name"] for topic in report["topics"]] == ["lost", "lost", "kernel-serialised"]
    assert all(topic["paragraphs"] and topic["title"] and topic["kind"] for topic in report["topics"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("exposd", "'exposd' cannot be explained: did you mean exposed?"),
        ("5", "'5' cannot be explained: `eofrace explain` lists what can be"),
        ("\x1b[2J", "'\\x1b[2J' cannot be explained"),
    ],
)
def test_what_means_nothing_is_an_error_of_one_line(word: str, says: str) -> None:
    done = eofrace("explain", word)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
