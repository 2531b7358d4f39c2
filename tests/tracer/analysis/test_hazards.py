"""Folding pairs into hazards and counts, and the verdict over them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.analysis.wordless import Wordless
from tracer.analysis.completeness import OTHER_PROCESSES
from tracer.analysis.engine import analyse_stored, one_after_the_other
from tracer.analysis.hazards import Analysis, Counts, Verdict, analyse, merge
from tracer.analysis.rules import Outcome, Rule, RulePairs, Severity, all_rules, named
from tracer.operations import NONE_RESULT, NONE_SIZE, OPERATION, WRITES, Op, Operations
from tracer.stored import stored
from tracer.trace import TraceMeta, write

K = 1024

OPERATION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": [name for name in OPERATION.names or ()],
    "properties": {
        name: {"type": "string"} if name in ("op", "comm") else {"type": ["integer", "null"]}
        for name in OPERATION.names or ()
    },
}
COUNT = {"type": "integer", "minimum": 0}
COUNTS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["exposed", "kernel_serialised", "lost"],
    "properties": {"exposed": COUNT, "kernel_serialised": COUNT, "lost": COUNT},
}
PAIR: dict[str, Any] = {
    "first": OPERATION_SCHEMA,
    "second": OPERATION_SCHEMA,
    "outcome": {"enum": ["exposed", "kernel-serialised", "lost"]},
    "gap_ns": {"type": ["integer", "null"]},
}
EXAMPLE = {"type": "object", "additionalProperties": False, "required": list(PAIR), "properties": PAIR}
PATH = {
    "type": "object",
    "additionalProperties": False,
    "required": ["op", "mode", "comm"],
    "properties": {"op": {"type": "string"}, "mode": COUNT, "comm": {"type": "string"}},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "operations", "dropped", "unfinished", "hazards", "counts", "verdict"],
    "properties": {
        "schema": {"const": "eofrace.analysis/1"},
        "operations": COUNT,
        "dropped": COUNT,
        "unfinished": COUNT,
        "verdict": {"enum": ["confirmed", "unsafe", "corrupt", "inconclusive"]},
        "hazards": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["rule", "severity", "dev", "ino", *PAIR, "pairs", "counts", "paths", "examples"],
                "properties": PAIR
                | {
                    "rule": {"type": "string"},
                    "severity": {"enum": [severity.value for severity in Severity]},
                    "dev": COUNT,
                    "ino": COUNT,
                    "pairs": {"type": "integer", "minimum": 1},
                    "counts": COUNTS,
                    "paths": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["first", "second"],
                        "properties": {"first": PATH, "second": PATH},
                    },
                    "examples": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["first", "worst", "last"],
                        "properties": {"first": EXAMPLE, "worst": EXAMPLE, "last": EXAMPLE},
                    },
                },
            },
        },
        "counts": {"type": "object", "additionalProperties": COUNTS},
    },
}
RULE = "post-eof-fallocate"


def trace(*rows: tuple[Op, int, int, int, int, dict[str, Any]]) -> Operations:
    ops = np.zeros(len(rows), OPERATION)
    for record, (op, begin, end, offset, length, more) in zip(ops, rows, strict=True):
        result = NONE_RESULT if end == 0 else length if op in WRITES else 0
        values = {"op": op, "seq_begin": begin, "seq_end": end, "offset": offset, "length": length, "ino": 7}
        values |= {"t_begin": 10 * begin, "t_end": 10 * end, "result": result, "size_end": NONE_SIZE}
        for name, value in (values | more).items():
            record[name] = value
    return ops


def race(base: int = 0, size_end: int = 64 * K, **more: Any) -> list[tuple[Op, int, int, int, int, dict[str, Any]]]:
    """The race once, from sequence number base + 1 to base + 4."""
    return [
        (Op.AIO_WRITE, base + 1, base + 3, 64 * K, 64 * K, more),
        (Op.FALLOCATE, base + 2, base + 4, 0, 64 * K, {"size_end": size_end} | more),
    ]


def checked(ops: Operations, **meta: Any) -> Analysis:
    """Judged by one rule, so that a test can say what it finds; test_every_rule_judges is for the others."""
    analysis = analyse(ops, TraceMeta(**meta), [named(RULE)])
    jsonschema.validate(analysis.to_json(), SCHEMA)
    return analysis


def test_every_rule_judges() -> None:
    for rule in all_rules():
        analysis = analyse(rule.example.operations(), TraceMeta())
        jsonschema.validate(analysis.to_json(), SCHEMA)
        assert [(hazard.rule, hazard.severity) for hazard in analysis.hazards] == [(rule.id, rule.severity)]
        assert set(analysis.counts) == {other.id for other in all_rules()}
        assert analysis.counts[rule.id].exposed == 1
        assert analysis.verdict.status == 1
        assert analyse(rule.almost.operations(), TraceMeta()).verdict == "confirmed"


@pytest.mark.parametrize(
    ("meta", "proved"),
    [
        ({}, True),
        ({"gaps": {"xfs_setattr": "no symbol"}}, True),
        ({"dropped": 1}, False),
        ({"gaps": {"truncate": "no symbol"}}, False),
        ({"gaps": {"io_uring": "no tracepoint"}}, False),
        ({"gaps": {OTHER_PROCESSES: "not recorded"}}, False),
        ({"gaps": {"the end of the recording": "missing"}}, False),
        ({"gaps": {"parts of the recording": "missing"}}, False),
        ({"part": 1}, False),
    ],
)
@pytest.mark.parametrize("name", ["size-going-backwards", "post-eof-fallocate"])
def test_what_is_not_in_an_incomplete_trace_proves_nothing(
    name: str, meta: dict[str, Any], proved: bool, tmp_path: Path
) -> None:
    rule = named(name)
    analysis = analyse(rule.example.operations(), TraceMeta(**meta), [rule])
    write(tmp_path / "t.parquet", rule.example.operations(), TraceMeta(**meta))
    assert analyse_stored([stored(tmp_path / "t.parquet")], [rule], 1, one_after_the_other) == [analysis]
    (hazard,) = analysis.hazards
    assert analysis.counts == {rule.id: Counts(exposed=1, lost=int(proved))}
    assert hazard.counts == analysis.counts[rule.id]
    assert hazard.outcome == (Outcome.LOST if proved else Outcome.EXPOSED)
    assert {pair.outcome for pair in (hazard.earliest, hazard.worst, hazard.latest)} == {hazard.outcome}
    assert analysis.verdict == ("corrupt" if proved else "unsafe")
    # What was seen outweighs what was not: another rule's loss rests on what is there, or the same rule's.
    other = named("truncate-below-write")
    assert analyse(other.example.operations(), TraceMeta(**meta), [other]).verdict == "corrupt"


@pytest.mark.parametrize("meta", [{"dropped": 1}, {"gaps": {OTHER_PROCESSES: "not recorded"}}])
def test_what_xfs_was_seen_to_cut_is_lost_in_any_trace(meta: dict[str, Any]) -> None:
    rule = named("post-eof-fallocate")
    ops = rule.example.operations()
    is_write = ops["op"] == Op.AIO_WRITE
    ops["t_applied"] = np.where(is_write, ops["t_begin"], ops["t_end"])
    ops["size_applied"][~is_write] = 128 * K
    both = np.concatenate([ops, rule.example.operations()])
    both["ino"][2:], both["seq_begin"][2:] = 9, both["seq_begin"][2:] + 4
    both["seq_end"][2:] += 4
    analysis = analyse(both, TraceMeta(**meta), [rule])
    assert analysis.counts == {rule.id: Counts(exposed=2, lost=1)}
    assert [(h.ino, h.outcome) for h in analysis.hazards] == [(ops["ino"][0], Outcome.LOST), (9, Outcome.EXPOSED)]


def test_the_worst_comes_first() -> None:
    def shifted(rule: Rule, at: int) -> Operations:
        ops = rule.example.operations()
        for name in ("seq_begin", "seq_end"):
            ops[name] += at
        ops["ino"] = at
        return ops

    names = ("overlapping-writes", "buffered-and-direct", "eof-block-zeroing", "truncate-below-write")
    ops = np.concatenate([shifted(named(name), 10 * (i + 1)) for i, name in enumerate(names)])
    analysis = analyse(ops, TraceMeta())
    assert [(h.rule, h.outcome.label) for h in analysis.hazards] == [
        ("truncate-below-write", "lost"),
        ("eof-block-zeroing", "exposed"),
        ("buffered-and-direct", "exposed"),
        ("overlapping-writes", "exposed"),
    ]


def test_a_loss() -> None:
    analysis = checked(trace(*race()))
    (hazard,) = analysis.hazards
    assert (hazard.rule, hazard.severity, hazard.outcome, hazard.pairs) == (RULE, "data-loss", Outcome.LOST, 1)
    assert (hazard.first["op"], hazard.second["op"], hazard.ino) == ("fallocate", "aio_write", 7)
    assert hazard.gap_ns == 20 - 30
    assert analysis.counts == {RULE: Counts(exposed=1, kernel_serialised=0, lost=1)}
    assert analysis.verdict is Verdict.CORRUPT
    assert analysis.doubts == ()


def test_folding() -> None:
    rows = [row for i in range(5) for row in race(10 * (4 - i))]  # the first one last
    rows += race(100, size_end=128 * K) + race(200, ino=8) + race(300, dev=3)
    rows += [(Op.DIRECT_WRITE, 401, 403, 64 * K, 9, {}), (Op.FALLOCATE, 402, 404, 0, 64 * K, {"size_end": 1})]
    analysis = checked(trace(*rows))
    summary = [(h.outcome, h.ino, h.first["seq_begin"], h.second["op"], h.pairs) for h in analysis.hazards]
    assert summary == [
        (Outcome.LOST, 7, 2, "aio_write", 6),
        (Outcome.LOST, 8, 202, "aio_write", 1),
        (Outcome.LOST, 7, 302, "aio_write", 1),
        (Outcome.LOST, 7, 402, "direct_write", 1),
    ]
    assert [(h.counts.exposed, h.counts.lost) for h in analysis.hazards] == [(6, 5), (1, 1), (1, 1), (1, 1)]
    assert analysis.counts == {RULE: Counts(exposed=9, lost=8)}


def test_the_first_the_worst_and_the_last_example() -> None:
    rows = race(0, size_end=128 * K) + race(100) + race(200) + race(300, size_end=128 * K)
    longest = (*rows[5][:2], 209, *rows[5][3:])  # the fallocate of the third pair
    rows[4] = (*rows[4][:2], 208, *rows[4][3:])
    (hazard,) = checked(trace(*rows[:5], longest, *rows[6:])).hazards
    examples = [hazard.earliest, hazard.worst, hazard.latest]
    assert [pair.first["seq_begin"] for pair in examples] == [2, 202, 302]
    assert [pair.second["seq_begin"] for pair in examples] == [1, 201, 301]
    assert [pair.outcome for pair in examples] == [Outcome.EXPOSED, Outcome.LOST, Outcome.EXPOSED]
    assert [pair.gap_ns for pair in examples] == [20 - 30, 2020 - 2080, 3020 - 3030]
    shown = hazard.to_json()
    assert (shown["first"], shown["second"], shown["gap_ns"]) == (hazard.worst.first, hazard.worst.second, -60)
    assert shown["examples"]["last"]["first"]["seq_begin"] == 302


def test_one_that_never_ended_was_together_for_longest() -> None:
    rows = race(0, size_end=NONE_SIZE) + race(100, size_end=NONE_SIZE)
    (hazard,) = checked(trace(*rows[:3], (*rows[3][:2], 0, *rows[3][3:]))).hazards
    assert (hazard.worst.first["seq_begin"], hazard.gap_ns) == (102, None)


def test_code_paths() -> None:
    rows = [row for i in range(4) for row in race(10 * i, comm=f"pool-{i}7-thread-{i}".encode())]
    rows += race(100, flags=0x10) + race(200, comm=b"other")
    analysis = checked(trace(*rows))
    paths = [(h.pairs, h.to_json()["paths"]["first"]) for h in analysis.hazards]
    assert paths == [
        (4, {"op": "fallocate", "mode": 0, "comm": "pool-0-thread-0"}),
        (1, {"op": "fallocate", "mode": 0x10, "comm": ""}),
        (1, {"op": "fallocate", "mode": 0, "comm": "other"}),
    ]
    # Flags of a write are no code path: they change with the state of the page cache.
    assert [h.to_json()["paths"]["second"]["mode"] for h in analysis.hazards] == [0, 0, 0]


def test_kernel_serialised_is_exposed_all_the_same() -> None:
    write, fallocate = race(size_end=128 * K)
    write[5]["t_applied"], fallocate[5]["t_applied"] = 25, 35
    analysis = checked(trace(write, fallocate))
    assert analysis.counts == {RULE: Counts(exposed=1, kernel_serialised=1)}
    assert analysis.hazards[0].outcome is Outcome.KERNEL_SERIALISED
    assert analysis.verdict is Verdict.UNSAFE


def test_in_flight_has_no_gap() -> None:
    write, fallocate = race()
    for rows in ([(*write[:2], 0, *write[3:]), fallocate], [write, (*fallocate[:2], 0, *fallocate[3:])]):
        (hazard,) = checked(trace(*rows)).hazards
        assert hazard.gap_ns is None


QUIET: tuple[Op, int, int, int, int, dict[str, Any]] = (Op.AIO_WRITE, 1, 2, 0, 512, {})


@pytest.mark.parametrize(
    ("meta", "verdict", "doubt"),
    [
        ({}, "confirmed", None),
        ({"dropped": 2}, "inconclusive", "2 records were dropped"),
        ({"unfinished": 3}, "inconclusive", "3 operations were still in flight"),
        ({"gaps": {"fallocate": "no symbol"}}, "inconclusive", "not seen: fallocate"),
        ({"gaps": {"kprobe:something": "no symbol"}}, "inconclusive", "not seen: kprobe:something"),
        ({"gaps": {"truncate": "no symbol", "xfs_setattr": "no symbol"}}, "confirmed", None),
    ],
)
def test_verdict_where_nothing_was_found(meta: dict[str, Any], verdict: str, doubt: str | None) -> None:
    analysis = checked(trace(QUIET), **meta)
    assert analysis.verdict == verdict
    assert [d.startswith(doubt or "") for d in analysis.doubts] == ([True] if doubt else [])
    # What was seen outweighs what was not; but that may explain what a size shows.
    assert checked(trace(*race()), **meta).verdict == ("corrupt" if meta.keys() <= {"unfinished"} else "unsafe")
    cut = [race()[0], (*race()[1][:5], {"t_applied": 40, "size_applied": 128 * K})]
    assert checked(trace(*cut), **meta).verdict == "corrupt"
    assert checked(trace(*race(size_end=128 * K)), **meta).verdict == "unsafe"


def test_an_empty_or_unfinished_trace_proves_nothing() -> None:
    assert checked(trace()).verdict == "inconclusive"
    analysis = checked(trace((Op.AIO_WRITE, 1, 0, 0, 512, {})))
    assert (analysis.verdict, analysis.unfinished) == ("inconclusive", 1)
    assert checked(trace((Op.AIO_WRITE, 1, 0, 0, 512, {})), unfinished=4).unfinished == 4


def test_merge() -> None:
    clean, empty, found = checked(trace(QUIET)), checked(trace()), checked(trace(*race()), dropped=2)
    lost = checked(trace(*race()))
    assert merge([clean, clean]).verdict == "confirmed"
    assert merge([clean, empty]).verdict == "inconclusive"
    both = merge([lost, empty, found])
    jsonschema.validate(both.to_json(), SCHEMA)
    assert (both.verdict, both.operations, both.dropped, len(both.hazards)) == ("corrupt", 4, 2, 2)
    assert both.counts == {RULE: Counts(exposed=2, lost=1)}
    assert both.doubts == ("the trace is empty", "2 records were dropped")


class Scattered(Wordless, Rule):
    """Names the given pairs, in chunks of three."""

    id = "scattered"

    def __init__(self, pairs: list[tuple[int, int, int]]) -> None:
        self._pairs = pairs

    def chunks(self, ops: Operations, *, shortenings_are_known: bool = True) -> Iterator[RulePairs]:
        for low in range(0, len(self._pairs), 3):
            part = np.array(self._pairs[low : low + 3], np.int64)
            yield RulePairs(part[:, 0], part[:, 1], part[:, 2].astype(np.uint8))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([1, 2, 3])), max_size=20, unique=True))
def test_nothing_is_lost_in_folding(pairs: list[tuple[int, int, int]]) -> None:
    kinds = [(Op.FALLOCATE, {}), (Op.AIO_WRITE, {}), (Op.AIO_WRITE, {"ino": 8}), (Op.DIRECT_WRITE, {"dev": 1})] * 2
    ops = trace(*((op, 2 * i + 1, 2 * i + 2, 0, 1, more) for i, (op, more) in enumerate(kinds[:6])))
    analysis = analyse(ops, TraceMeta(), [Scattered(pairs)])

    def key(pair: tuple[int, int, int]) -> tuple[Any, ...]:
        one, other = ops[pair[0]], ops[pair[1]]
        return int(one["ino"]), int(one["dev"]), Op(one["op"]).label, Op(other["op"]).label

    found = {(h.ino, h.kind.dev, h.first["op"], h.second["op"]): h for h in analysis.hazards}
    assert len(found) == len(analysis.hazards)
    assert {k: h.pairs for k, h in found.items()} == Counter(map(key, pairs))
    for wanted, hazard in found.items():
        mine = [pair for pair in pairs if key(pair) == wanted]
        outcomes = Counter(pair[2] for pair in mine)
        assert hazard.counts == Counts(len(mine), outcomes[1], outcomes[3])
        assert hazard.outcome == max(outcomes)
        for example, pair in ((hazard.earliest, min(mine)), (hazard.latest, max(mine))):
            numbers = (example.first["seq_begin"], example.second["seq_begin"])
            assert numbers == (2 * pair[0] + 1, 2 * pair[1] + 1)
        # Neighbours are 10 ns apart, others more; one operation with itself overlaps for as long as it takes.
        worst = min(mine, key=lambda pair: (-pair[2], 20 * abs(pair[0] - pair[1]), pair))
        assert (hazard.first["seq_begin"], hazard.second["seq_begin"]) == (2 * worst[0] + 1, 2 * worst[1] + 1)
    outcomes = Counter(pair[2] for pair in pairs)
    assert analysis.counts["scattered"] == Counts(len(pairs), outcomes[1], outcomes[3])
