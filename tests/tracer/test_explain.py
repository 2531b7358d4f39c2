"""`eofrace explain`: every word that a command prints as a verdict, an outcome or a status has a meaning."""

import json

import pytest

from tests.tracer.test_commands import eofrace
from tracer.analysis.hazards import Verdict
from tracer.analysis.rules import Outcome, all_rules
from tracer.commands import CRASHED
from tracer.errors import Status
from tracer.probe.judge import Verdict as ProbeVerdict

WORDS = [
    *Verdict,
    *ProbeVerdict,
    *(outcome.label for outcome in Outcome),
    *(rule.id for rule in all_rules()),
    *(str(int(status)) for status in Status),
    str(CRASHED),
    "130",
]


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


def test_the_list_names_everything_once_a_line() -> None:
    told = eofrace("explain").stdout
    assert max(map(len, told.splitlines())) <= 80
    named = [line.split()[0] for line in told.splitlines() if line.startswith("  ") and line[2] != " "]
    assert set(WORDS) <= set(named)
    assert sorted(name for name in set(named) if named.count(name) > 1) == ["inconclusive"]


def test_json() -> None:
    report = json.loads(eofrace("explain", "LOST", "kernel_serialised", "lost", "--json", "-").stdout)
    assert report["schema"] == "eofrace.explain/1"
    assert [topic["name"] for topic in report["topics"]] == ["lost", "kernel-serialised"]
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
