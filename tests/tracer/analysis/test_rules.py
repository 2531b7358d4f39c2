"""Every rule: what it says of itself, its two examples, and an oracle that compares every pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.tracer.analysis.generated import plain, together, traces
from tests.tracer.analysis.oracles import ORACLES
from tracer.analysis import rules
from tracer.analysis.emulation import DERIVED
from tracer.analysis.examples import K, as_operations, operation
from tracer.analysis.rules import Outcome, Rule, Severity
from tracer.errors import UsageError
from tracer.operations import OPERATION, Op, Operations
from tracer.report import rules_markdown

RULES = rules.all_rules()
FAMILY = [
    "buffered-and-direct",
    "eof-block-zeroing",
    "overlapping-writes",
    "post-eof-fallocate",
    "size-going-backwards",
    "truncate-below-write",
    "zeroing-over-write",
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)


def found(rule: Rule, ops: Operations) -> list[tuple[int, int, Outcome]]:
    pairs = rule.pairs(ops)
    return sorted(zip(pairs.first.tolist(), pairs.second.tolist(), map(Outcome, pairs.outcome.tolist()), strict=True))


def test_the_family() -> None:
    assert [rule.id for rule in RULES] == FAMILY
    assert all(rules.named(rule.id) is rule for rule in RULES)
    with pytest.raises(UsageError, match=", ".join(FAMILY)):
        rules.named("nonsense")


@each_rule
def test_it_says_what_it_is(rule: Rule) -> None:
    assert isinstance(rule.severity, Severity)
    texts = [rule.title, rule.explanation, rule.argument, rule.lost, rule.serialised, rule.watched]
    assert all(text == " ".join(text.split()) for text in texts)
    assert all(len(text) > 200 for text in (rule.explanation, rule.argument))
    assert rule.commits
    assert all(commit.id and commit.project and commit.release and commit.title for commit in rule.commits)
    assert rule.needs
    assert rule.reads <= set(OPERATION.names or ()) | set(DERIVED)
    assert __import__(type(rule).__module__, fromlist=["RULE"]).RULE is rule


@each_rule
def test_its_example_and_almost(rule: Rule) -> None:
    """And nothing is reported twice: no other rule says anything of either."""
    hazard, almost = rule.example.operations(), rule.almost.operations()
    assert len(rule.pairs(hazard).first) == 1
    assert len(rule.pairs(almost).first) == 0
    for other in RULES:
        if other is not rule:
            assert len(other.pairs(hazard).first) == 0, other.id
        assert len(other.pairs(almost).first) == 0, other.id


@each_rule
def test_the_outcomes_that_it_claims(rule: Rule) -> None:
    """What it never claims it says so; the oracles' tests below see the others."""
    [outcome] = rule.pairs(rule.example.operations()).outcome.tolist()
    assert rule.lost or outcome != Outcome.LOST
    assert rule.serialised or outcome != Outcome.KERNEL_SERIALISED


@each_rule
def test_nothing(rule: Rule) -> None:
    assert found(rule, np.zeros(0, OPERATION)) == []


@pytest.mark.parametrize("name", ORACLES)
def test_against_the_oracle(name: str) -> None:
    rule, oracle = rules.named(name), ORACLES[name]
    seen: set[Outcome] = set()

    @settings(max_examples=200)
    @given(traces())
    def compare(ops: Operations) -> None:
        rows = plain(ops)
        wanted = [
            (i, j, outcome)
            for i, one in enumerate(rows)
            for j, other in enumerate(rows)
            if i != j and together(one, other) and (outcome := oracle(one, other)) is not None
        ]
        assert found(rule, ops) == wanted
        seen.update(outcome for _, _, outcome in wanted)

    compare()
    claimed = {Outcome.EXPOSED}
    claimed |= {Outcome.LOST} if rule.lost else set()
    claimed |= {Outcome.KERNEL_SERIALISED} if rule.serialised else set()
    assert seen == claimed


def test_the_page_is_up_to_date() -> None:
    """And has all of every rule."""
    found = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    page = rules_markdown.page(found, rules.own_rules())
    assert found == page, "python -m tracer.report.rules_markdown docs/rules.md"
    for rule in rules.own_rules():
        for text in (rule.title, rule.explanation, rule.argument, rule.lost, rule.serialised, rule.watched):
            assert text.casefold() in page.casefold()
        assert all(commit.id in page for commit in rule.commits)
        assert rule.example.why in page
        assert rule.almost.why in page


def write(begin: int, end: int, offset: int, length: int, **more: Any) -> Any:
    return operation(Op.AIO_WRITE, begin, end, offset, length, **more)


@pytest.mark.parametrize(("offset", "length"), [(0, 2**63 - 1), (2**63 - 2, 1), (2**63 - 1 - 4096, 4096)])
def test_ranges_up_to_the_largest_offset(offset: int, length: int) -> None:
    """All at the very end, where an overflow would turn everything around."""
    whole = operation(Op.FALLOCATE, 1, 10, 0, 2**63 - 1, flags=0x03)
    last = write(2, 9, offset, length)
    other = operation(Op.BUFFERED_WRITE, 3, 8, 2**63 - 2, 1)
    cut = operation(Op.TRUNCATE, 4, 7, 2**63 - 2)
    ops = as_operations((whole, last, other, cut))
    assert {(i, j) for i, j, _ in found(rules.named("zeroing-over-write"), ops)} == {(0, 1), (0, 2)}
    assert (2, 1, Outcome.EXPOSED) in found(rules.named("buffered-and-direct"), ops)
    below = {(i, j) for i, j, _ in found(rules.named("truncate-below-write"), ops)}
    assert below == ({(3, 1), (3, 2)} if offset + length == 2**63 - 1 else {(3, 2)})


def test_a_write_of_another_file_is_none_of_its_business() -> None:
    hole = operation(Op.FALLOCATE, 1, 4, 0, 64 * K, flags=0x03)
    for other in ({"ino": 2}, {"dev": 2}):
        assert found(rules.named("zeroing-over-write"), as_operations((hole, write(2, 3, 0, K, **other)))) == []
