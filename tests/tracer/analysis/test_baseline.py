"""The baseline file: what an entry matches, and what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tracer.analysis import baseline
from tracer.analysis.baseline import Baseline, Entry
from tracer.analysis.hazards import Analysis, Counts, analyse
from tracer.analysis.rules import all_rules, named
from tracer.errors import UsageError
from tracer.trace import TraceMeta

RULE = "eof-block-zeroing"


@pytest.fixture
def analysis() -> Analysis:
    return analyse(named(RULE).example.operations(), TraceMeta())


PATH: dict[str, str | int] = {"op": "aio_write", "mode": 0, "comm": "example"}


@pytest.mark.parametrize(
    ("entry", "hidden"),
    [
        (Entry(RULE, PATH, PATH), True),
        (Entry(RULE, {"comm": "example"}, {"op": "aio_write"}), True),
        (Entry(RULE, {}, {}), True),
        (Entry("overlapping-writes", {}, {}), False),
        (Entry("truncate-below-write", {}, {}), False),
        (Entry("buffered-and-direct", {}, {}), False),
        (Entry(RULE, PATH | {"comm": "other"}, PATH), False),
        (Entry(RULE, PATH, PATH | {"op": "direct_write"}), False),
        (Entry(RULE, PATH, PATH | {"mode": 1}), False),
    ],
)
def test_what_an_entry_hides(entry: Entry, hidden: bool, analysis: Analysis) -> None:
    known = Baseline([entry])
    left = known.hide(analysis)
    assert left.known is not None
    assert (len(left.hazards), left.verdict) == ((0, "confirmed") if hidden else (1, "unsafe"))
    assert left.counts[RULE] == (Counts() if hidden else Counts(exposed=1))
    assert left.known[RULE] == (Counts(exposed=1) if hidden else Counts())
    assert left.counts.keys() == left.known.keys() == analysis.counts.keys()
    assert known.stale(all_rules()) == ([] if hidden else [entry])
    assert known.stale([named("zeroing-over-write")]) == []


def test_what_is_hidden_leaves_the_doubts() -> None:
    analysis = analyse(named(RULE).example.operations(), TraceMeta(dropped=1))
    assert Baseline([Entry(RULE, {}, {})]).hide(analysis).verdict == "inconclusive"


def test_there_and_back(tmp_path: Path, analysis: Analysis) -> None:
    file = tmp_path / "known.json"
    entries = baseline.of_hazards([*analysis.hazards, *analysis.hazards])
    assert entries == [Entry(RULE, PATH, PATH)]
    file.write_text(baseline.to_text(entries))
    assert baseline.read(file).entries == tuple(entries)


def test_a_reason_is_kept(analysis: Analysis) -> None:
    old = [Entry(RULE, {}, {}, ""), Entry(RULE, {"comm": "example"}, {}, "the loader does that")]
    assert baseline.of_hazards(analysis.hazards, old) == [Entry(RULE, PATH, PATH, "the loader does that")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "its schema is not eofrace.baseline/1"),
        ({"schema": "eofrace.baseline/2", "findings": []}, "its schema is not"),
        ({"schema": "eofrace.analyze/1", "findings": []}, "its schema is not"),
        ({"schema": baseline.SCHEMA}, "its findings are not a list"),
        ([1], "finding 1 names no rule"),
        ([{"rule": 1}], "finding 1 names no rule"),
        ([{"rule": "a"}, {}], "finding 2 names no rule"),
        ([{"rule": "a", "reason": 1}], "its reason is no text"),
        ([{"rule": "a", "ino": 1}], "finding 1 has ino"),
        ([{"rule": "a", "first": []}], "its first is no object"),
        ([{"rule": "a", "second": {"mode": True}}], "its second has a wrong mode"),
        ([{"rule": "a", "second": {"pid": 1}}], "its second has a wrong pid"),
        ([{"rule": "a", "first": {"comm": 1}}], "its first has a wrong comm"),
        ([{"rule": "a", "\x1b[2J": 1}], r"has \x1b[2J"),
    ],
)
def test_what_is_no_baseline(content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, list):
        content = {"schema": baseline.SCHEMA, "findings": content}
    file = tmp_path / "known.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError) as error:
        baseline.read(file)
    assert message in str(error.value)
    assert "known.json: " in str(error.value)
    assert str(error.value).isprintable()


def test_one_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        baseline.read(tmp_path)
    monkeypatch.setattr(baseline, "MAX_BYTES", 1 << 20)
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="more than 1 MiB"):
        baseline.read(tmp_path / "large")
