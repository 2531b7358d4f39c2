"""Every rule: what it says of itself, its two examples, and an oracle that compares every pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.tracer.analysis.generated import plain, together, traces
from tests.tracer.analysis.oracles import ORACLES
from tracer.analysis import rules
from tracer.analysis.columns import Columns
from tracer.analysis.emulation import DERIVED, resolved
from tracer.analysis.examples import K, as_operations, operation
from tracer.analysis.rules import Outcome, PairRule, Rule, ScanRule, Severity, moments
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
    assert rule.pairs(hazard).outcome.dtype == np.uint8
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
def test_it_reads_what_it_says(rule: Rule) -> None:
    """The engine reads no other column from the disk."""
    seen = resolved(np.concatenate([rule.example.operations(), rule.almost.operations()]))
    ops = Columns({name: seen[name] for name in ("seq_begin", "seq_end", "op", "dev", "ino", "row", *rule.reads)})
    if isinstance(rule, PairRule):
        rule.firsts(ops), rule.seconds(ops)
        rule.judge(ops, ops)
    else:
        assert isinstance(rule, ScanRule)
        rule.wants(ops)
        list(rule.scan().feed(moments(ops, np.ones(len(ops), np.bool_), ops["seq_end"] != 0)))


@each_rule
def test_nothing(rule: Rule) -> None:
    assert found(rule, np.zeros(0, OPERATION)) == []


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=200)
@given(ops=traces())
def test_against_the_oracle(name: str, ops: Operations) -> None:
    rows = plain(ops)
    wanted = [
        (i, j, outcome)
        for i, one in enumerate(rows)
        for j, other in enumerate(rows)
        if i != j and together(one, other) and (outcome := ORACLES[name](one, other)) is not None
    ]
    assert found(rules.named(name), ops) == wanted


POST_EOF = operation(Op.FALLOCATE, 1, 4, 0, 64 * K, size_begin=0)
BEHIND = operation(Op.AIO_WRITE, 2, 3, 64 * K, 64 * K)
PUNCH = operation(Op.FALLOCATE, 1, 4, 0, 64 * K, flags=0x03)
CUT = operation(Op.TRUNCATE, 1, 4, K)
INSIDE = operation(Op.AIO_WRITE, 2, 3, 0, 4 * K)
SAME = operation(Op.AIO_WRITE, 1, 4, 0, 4 * K)
BEYOND = operation(Op.AIO_WRITE, 1, 4, 64 * K, 4 * K, size_begin=5 * K)
IN_LAST = operation(Op.AIO_WRITE, 2, 3, 4 * K, 512)
EXPOSED, SERIALISED, LOST = Outcome.EXPOSED, Outcome.KERNEL_SERIALISED, Outcome.LOST


@pytest.mark.parametrize(
    ("name", "first", "second", "outcome"),
    [
        ("post-eof-fallocate", {**POST_EOF, "t_applied": 2000}, {**BEHIND, "t_applied": 2500}, SERIALISED),
        ("post-eof-fallocate", {**POST_EOF, "t_applied": 2001}, {**BEHIND, "t_applied": 2500}, EXPOSED),
        (
            "post-eof-fallocate",
            {**POST_EOF, "t_applied": 2500, "size_end": 128 * K},
            {**BEHIND, "t_applied": 2500},
            SERIALISED,
        ),
        (
            "post-eof-fallocate",
            {**POST_EOF, "t_applied": 2500, "size_end": 128 * K},
            {**BEHIND, "t_applied": 2501},
            EXPOSED,
        ),
        (
            "post-eof-fallocate",
            {**POST_EOF, "t_applied": 2500, "size_applied": 128 * K},
            {**BEHIND, "t_applied": 2500},
            LOST,
        ),
        ("zeroing-over-write", PUNCH, INSIDE, EXPOSED),
        ("zeroing-over-write", {**PUNCH, "t_applied": 2000}, INSIDE, SERIALISED),
        ("zeroing-over-write", {**PUNCH, "t_applied": 2001}, INSIDE, EXPOSED),
        ("zeroing-over-write", {**PUNCH, "t_applied": 2999}, INSIDE, EXPOSED),
        ("zeroing-over-write", {**PUNCH, "t_applied": 3000}, INSIDE, LOST),
        ("zeroing-over-write", {**PUNCH, "t_applied": 2500}, {**INSIDE, "t_applied": 2500}, LOST),
        ("zeroing-over-write", {**PUNCH, "t_applied": 3000}, {**INSIDE, "seq_end": 0}, EXPOSED),
        ("zeroing-over-write", {**PUNCH, "seq_end": 0}, INSIDE, EXPOSED),
        ("truncate-below-write", CUT, INSIDE, EXPOSED),
        ("truncate-below-write", {**CUT, "t_applied": 2000}, INSIDE, SERIALISED),
        ("truncate-below-write", {**CUT, "t_applied": 2001}, INSIDE, EXPOSED),
        ("truncate-below-write", {**CUT, "t_applied": 3000, "size_applied": 4 * K}, INSIDE, LOST),
        ("truncate-below-write", {**CUT, "t_applied": 2999, "size_applied": 4 * K}, INSIDE, EXPOSED),
        ("truncate-below-write", {**CUT, "t_applied": 3000, "size_applied": K}, INSIDE, EXPOSED),
        (
            "truncate-below-write",
            {**CUT, "t_applied": 3000, "size_applied": 4 * K},
            {**INSIDE, "result": K},
            EXPOSED,
        ),
        ("truncate-below-write", {**CUT, "size_end": K}, INSIDE, LOST),
        ("truncate-below-write", {**CUT, "size_end": K - 1}, INSIDE, EXPOSED),
        ("truncate-below-write", {**CUT, "size_end": K}, {**INSIDE, "result": K}, EXPOSED),
        ("truncate-below-write", {**CUT, "size_end": K}, {**INSIDE, "result": K + 1}, LOST),
        ("truncate-below-write", {**CUT, "size_end": K}, {**INSIDE, "seq_end": 5}, EXPOSED),
        ("overlapping-writes", SAME, INSIDE, EXPOSED),
        ("overlapping-writes", {**SAME, "t_applied": 2000}, INSIDE, SERIALISED),
        ("overlapping-writes", {**SAME, "t_applied": 2001}, INSIDE, EXPOSED),
        ("overlapping-writes", SAME, {**INSIDE, "t_applied": 1000}, EXPOSED),
        ("eof-block-zeroing", BEYOND, IN_LAST, EXPOSED),
        ("eof-block-zeroing", {**BEYOND, "size_begin": 0}, {**IN_LAST, "offset": 0}, EXPOSED),
        ("eof-block-zeroing", {**BEYOND, "size_begin": 1}, {**IN_LAST, "offset": 0}, EXPOSED),
        ("eof-block-zeroing", {**BEYOND, "offset": 5 * K, "size_begin": 4608}, {**IN_LAST, "length": K}, EXPOSED),
        ("eof-block-zeroing", {**BEYOND, "t_applied": 2000}, IN_LAST, SERIALISED),
        ("eof-block-zeroing", {**BEYOND, "t_applied": 2001}, IN_LAST, EXPOSED),
        ("eof-block-zeroing", {**BEYOND, "t_begin": 2500}, {**IN_LAST, "t_applied": 2500}, SERIALISED),
        ("eof-block-zeroing", {**BEYOND, "t_begin": 2499}, {**IN_LAST, "t_applied": 2500}, EXPOSED),
    ],
)
def test_outcomes_and_their_limits(name: str, first: Any, second: Any, outcome: Outcome) -> None:
    """What is claimed of an outcome, and where that ends, to the nanosecond and the byte."""
    assert found(rules.named(name), as_operations((first, second))) == [(0, 1, outcome)]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("zeroing-over-write", {**PUNCH, "offset": 4 * K}, INSIDE),
        ("zeroing-over-write", PUNCH, {**INSIDE, "offset": 64 * K}),
        ("zeroing-over-write", {**PUNCH, "flags": 0x01}, INSIDE),
        ("zeroing-over-write", {**PUNCH, "flags": 0x08, "offset": 4 * K}, INSIDE),
        ("zeroing-over-write", {**PUNCH, "result": -95}, INSIDE),
        ("zeroing-over-write", PUNCH, {**INSIDE, "result": -28}),
        ("truncate-below-write", {**CUT, "offset": 4 * K}, INSIDE),
        ("truncate-below-write", {**CUT, "result": -5}, INSIDE),
        ("truncate-below-write", CUT, {**INSIDE, "result": 0}),
        ("overlapping-writes", SAME, {**INSIDE, "offset": 4 * K}),
        ("overlapping-writes", {**SAME, "offset": 4 * K}, INSIDE),
        ("overlapping-writes", SAME, {**INSIDE, "op": Op.BUFFERED_WRITE}),
        ("buffered-and-direct", {**SAME, "op": Op.BUFFERED_WRITE}, {**INSIDE, "offset": 4 * K}),
        ("buffered-and-direct", {**SAME, "op": Op.BUFFERED_WRITE, "offset": 4 * K}, INSIDE),
        ("buffered-and-direct", {**SAME, "op": Op.BUFFERED_WRITE}, {**INSIDE, "op": Op.BUFFERED_WRITE}),
        ("eof-block-zeroing", {**BEYOND, "size_begin": 64 * K}, {**IN_LAST, "offset": 63 * K}),
        ("eof-block-zeroing", {**BEYOND, "size_begin": -1}, {**IN_LAST, "offset": 0}),
        ("eof-block-zeroing", {**BEYOND, "offset": 6 * K, "size_begin": 7 * K}, IN_LAST),
        ("eof-block-zeroing", BEYOND, {**IN_LAST, "offset": 4 * K - 512}),
        ("eof-block-zeroing", BEYOND, {**IN_LAST, "offset": 0}),
        ("eof-block-zeroing", BEYOND, {**IN_LAST, "offset": 8 * K}),
        ("eof-block-zeroing", {**BEYOND, "offset": 5 * K}, IN_LAST),
        ("eof-block-zeroing", {**BEYOND, "result": 0}, IN_LAST),
        ("eof-block-zeroing", BEYOND, {**IN_LAST, "length": 4 * K}),
        ("eof-block-zeroing", BEYOND, {**IN_LAST, "op": Op.BUFFERED_WRITE}),
        ("eof-block-zeroing", {**BEYOND, "offset": 5 * K + 1}, {**IN_LAST, "length": K + 2}),
    ],
)
def test_almost_a_pair(name: str, first: Any, second: Any) -> None:
    assert found(rules.named(name), as_operations((first, second))) == []


@pytest.mark.parametrize(("offset", "length"), [(0, 4 * K + 1), (8 * K - 1, 4 * K), (4 * K, 1), (8 * K - 1, 1)])
def test_one_byte_of_a_page_is_enough(offset: int, length: int) -> None:
    page = operation(Op.BUFFERED_WRITE, 1, 4, 4 * K, 4 * K)
    other = operation(Op.AIO_WRITE, 2, 3, offset, length)
    assert found(rules.named("buffered-and-direct"), as_operations((page, other))) == [(0, 1, EXPOSED)]
    byte = {**page, "offset": 4 * K, "length": 1}
    assert len(found(rules.named("buffered-and-direct"), as_operations((byte, other)))) == 1


@pytest.mark.parametrize("mode", [0x02, 0x03, 0x08, 0x10, 0x11, 0x20])
def test_modes_that_displace_data(mode: int) -> None:
    rule = rules.named("zeroing-over-write")
    for op in (Op.FALLOCATE, Op.MARK_FALLOCATE):
        fallocate = {**PUNCH, "op": op, "flags": mode}
        assert len(found(rule, as_operations((fallocate, INSIDE)))) == 1
        behind = {**INSIDE, "offset": 128 * K}
        assert len(found(rule, as_operations((fallocate, behind)))) == (1 if mode in (0x08, 0x20) else 0)


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
