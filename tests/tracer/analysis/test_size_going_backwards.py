"""The rule that remembers: against an oracle, wherever the trace is cut, and what explains a size that falls."""

import errno
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.analysis.generated import plain
from tracer.analysis.emulation import resolved
from tracer.analysis.examples import K, as_operations, operation
from tracer.analysis.rules import Moments, Outcome, moments
from tracer.analysis.rules.size_going_backwards import RULE, _Batch
from tracer.operations import OPERATION, WRITES, Op, Operations

KINDS = [Op.AIO_WRITE] * 6 + [Op.BUFFERED_WRITE, Op.FALLOCATE, Op.FALLOCATE, Op.TRUNCATE, Op.MARK_FALLOCATE]

RARE: dict[str, dict[str, Any]] = {
    "flying": {},
    "early": {},
    "failed": {"result": -errno.EIO},
    "refused": {"result": -errno.EOPNOTSUPP},
    "short": {},
    "other file": {"ino": 2},
}


@st.composite
def histories(draw: st.DrawFn) -> Operations:
    """Up to 9 operations on a file, some of them at once, that often find it shorter than it was."""
    count = draw(st.integers(0, 9))
    numbers: list[int] = []
    for low in range(1, 2 * count + 1, 6):
        numbers += draw(st.permutations(range(low, min(low + 6, 2 * count + 1))))
    rows = []
    for i in range(count):
        begin, end = sorted(numbers[2 * i : 2 * i + 2])
        op = draw(st.sampled_from(KINDS))
        more: dict[str, Any] = {"size_begin": draw(st.sampled_from([-1, -1, 0, 1, 1, 2, 3, 4]))}
        more["flags"] = draw(st.sampled_from([0, 0, 1, 8])) if op == Op.FALLOCATE else 0
        rare = draw(st.sampled_from(["", "", "", "", *RARE, "other file"]))
        more |= {"t_begin": 500 * begin} if rare == "early" else RARE.get(rare, {})
        if rare == "short" and op in WRITES:
            more["result"] = 1
        ends = 0 if rare == "flying" else end
        rows.append(operation(op, begin, ends, draw(st.integers(0, 3)), draw(st.integers(1, 3)), **more))
    return as_operations(tuple(rows))


def found(ops: Operations) -> list[tuple[int, int]]:
    pairs = RULE.pairs(ops)
    assert set(pairs.outcome.tolist()) <= {Outcome.LOST}
    return sorted(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def oracle(ops: Operations) -> list[tuple[int, int]]:
    """As the rule is written down: for every look at a size, every write that it may have belied."""
    rows = plain(ops)
    for row in rows:
        mode = row["flags"]
        row["shortens"] = row["op"] in (Op.TRUNCATE, Op.MARK_FALLOCATE) or (row["op"] == Op.FALLOCATE and mode & 8)
        refused = row["result"] == -errno.EOPNOTSUPP
        row["sets"] = row["op"] == Op.FALLOCATE and not mode & 1 and not row["shortens"] and not refused

    def meets(one: dict[str, Any], low: int, high: int) -> bool:
        return bool(one["seq_begin"] <= high and one["close"] >= low)

    def forgotten(file: tuple[int, int], low: int, high: int) -> bool:
        """Whether something between two numbers makes all that was known before worthless."""
        mine = [row for row in rows if (row["dev"], row["ino"]) == file]
        new = [row["seq_begin"] for row in mine if row["size_begin"] == 0 and not row["shortens"]]
        return any(low < at <= high for at in new) or any(row["shortens"] and meets(row, low, high) for row in mine)

    pairs: list[tuple[int, int]] = []
    told: dict[tuple[int, int], int] = {}
    for i in sorted(range(len(rows)), key=lambda i: rows[i]["seq_begin"]):
        look = rows[i]
        file = (look["dev"], look["ino"])
        if look["shortens"] or look["size_begin"] <= 0 or look["op"] not in (*WRITES, Op.FALLOCATE):
            continue
        best: int | None = None
        for j in sorted(range(len(rows)), key=lambda j: rows[j]["close"]):
            w = rows[j]
            if not w["acked"] or (w["dev"], w["ino"]) != file or w["close"] > look["seq_begin"]:
                continue
            if forgotten(file, w["seq_begin"], look["seq_begin"]) or w["close"] < told.get(file, 0):
                continue
            met = (o for o in rows if o["sets"] and (o["dev"], o["ino"]) == file)
            if any(meets(o, w["seq_begin"], w["close"]) for o in met):
                continue
            if best is None or w["written_end"] > rows[best]["written_end"]:
                best = j
        if best is None or look["size_begin"] >= rows[best]["written_end"] or look["open"]:
            continue
        if rows[best]["t_end"] >= look["t_begin"]:
            continue
        told[file] = look["seq_begin"]
        if not forgotten(file, look["seq_begin"], look["close"]):
            pairs.append((i, best))
    return sorted(pairs)


@settings(max_examples=300)
@given(histories())
def test_against_the_oracle(ops: Operations) -> None:
    assert found(ops) == oracle(ops)


@settings(max_examples=300)
@given(histories())
def test_moment_by_moment(ops: Operations) -> None:
    """The way that is taken only where something is wrong, taken everywhere: then a mistake there shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Batch, "settle", lambda batch: range(len(batch._files)))
        assert found(ops) == oracle(ops)


def test_the_histories_are_worth_something() -> None:
    """The control of both: a fair part of them has something to find."""
    some = 0

    @settings(max_examples=200, derandomize=True, database=None)
    @given(histories())
    def count(ops: Operations) -> None:
        nonlocal some
        some += bool(oracle(ops))

    count()
    assert some > 20


def fed(ops: Operations, width: int) -> list[tuple[int, int]]:
    """What is found if a scan is fed so many moments at a time."""
    seen = resolved(ops)
    seen = seen.take(RULE.wants(seen))
    whole = moments(seen, np.ones(len(seen), np.bool_), seen["seq_end"] != 0)
    scan = RULE.scan()
    pairs: list[tuple[int, int]] = []
    for low in range(0, len(whole.ended), width):
        rows = np.arange(low, min(low + width, len(whole.ended)))
        for first, second, outcome in scan.feed(Moments(whole.ops.take(rows), whole.ended[rows])):
            assert outcome.tolist() == [Outcome.LOST] * len(first)
            pairs += zip(first["row"].tolist(), second["row"].tolist(), strict=True)
    return sorted(pairs)


@settings(max_examples=300)
@given(histories(), st.integers(1, 5))
def test_wherever_it_is_cut(ops: Operations, width: int) -> None:
    """What was known of a file before has to be known after."""
    assert fed(ops, width) == oracle(ops)


WROTE = operation(Op.AIO_WRITE, 1, 2, 64 * K, 64 * K)
SHORT = operation(Op.AIO_WRITE, 30, 31, 0, K, size_begin=64 * K)
LATER = {"seq_begin": 50, "seq_end": 51, "t_begin": 50_000, "t_end": 51_000}


@pytest.mark.parametrize(
    "explains",
    [
        pytest.param(operation(Op.TRUNCATE, 10, 11, 64 * K), id="truncate"),
        pytest.param(operation(Op.TRUNCATE, 10, 11, 64 * K, result=-5), id="one that failed, who knows where"),
        pytest.param(operation(Op.TRUNCATE, 10, 0, 64 * K), id="one that never ended"),
        pytest.param(operation(Op.TRUNCATE, 29, 33, 64 * K), id="one that ended later"),
        pytest.param(operation(Op.FALLOCATE, 10, 11, 0, 4 * K, flags=0x08), id="collapse range"),
        pytest.param(operation(Op.MARK_FALLOCATE, 10, 11, 0, 4 * K), id="emulated fallocate"),
        pytest.param(operation(Op.AIO_WRITE, 10, 11, 0, K, size_begin=0), id="a new file of that number"),
    ],
)
def test_what_explains_a_size_that_falls(explains: Any) -> None:
    assert found(as_operations((WROTE, SHORT))) == [(1, 0)]
    assert found(as_operations((WROTE, SHORT, explains))) == []
    assert found(as_operations((WROTE, SHORT, {**explains, "ino": 2}))) == [(1, 0)]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((WROTE, {**SHORT, "size_begin": 128 * K}), id="as long as it has to be"),
        pytest.param((WROTE, {**SHORT, "size_begin": 256 * K}), id="longer"),
        pytest.param((WROTE, {**SHORT, "size_begin": -1}), id="not seen"),
        pytest.param((WROTE, SHORT, operation(Op.TRUNCATE, 29, 33, 64 * K)), id="being truncated"),
        pytest.param((WROTE, operation(Op.TRUNCATE, 10, 11, 64 * K), SHORT), id="truncated"),
    ],
)
def test_what_is_right_is_not_looked_at_moment_by_moment(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a hundred times as long, and nearly all files are."""
    ops = as_operations(rows)
    monkeypatch.setattr(_Batch, "step", lambda batch, number: pytest.fail("a file that is right"))
    assert found(ops) == []
    assert fed(ops, len(ops)) == []


def test_a_fallocate_explains_only_what_it_met() -> None:
    met = operation(Op.FALLOCATE, 1, 3, 0, 4 * K)
    assert found(as_operations(({**WROTE, "seq_begin": 2, "seq_end": 4}, SHORT, met))) == []
    later = operation(Op.FALLOCATE, 5, 6, 0, 4 * K)
    assert found(as_operations((WROTE, SHORT, later))) == [(1, 0)]
    keeps = {**met, "flags": 1, "seq_end": 6}
    assert found(as_operations(({**WROTE, "seq_begin": 2, "seq_end": 4}, SHORT, keeps))) == [(1, 0)]


@pytest.mark.parametrize("op", [Op.TRUNCATE, Op.FALLOCATE])
def test_what_was_over_before_explains_nothing(op: Op) -> None:
    """Two at once, of which both have to end."""
    wrote = operation(Op.AIO_WRITE, 20, 21, 64 * K, 64 * K)
    one, two = operation(op, 10, 12, 64 * K), operation(op, 11, 13, 64 * K)
    assert found(as_operations((wrote, SHORT, one, two))) == [(1, 0)]
    assert found(as_operations((wrote, SHORT, one, {**two, "seq_end": 22}))) == []
    assert found(as_operations((wrote, SHORT, {**one, "seq_end": 23}, two))) == []


@pytest.mark.parametrize("width", range(1, 7))
def test_of_two_that_reach_as_far_the_first_one_is_the_proof(width: int) -> None:
    again = operation(Op.AIO_WRITE, 3, 4, 96 * K, 32 * K)
    less = operation(Op.AIO_WRITE, 5, 6, 0, 32 * K)
    assert fed(as_operations((WROTE, again, less, SHORT)), width) == [(3, 0)]


@pytest.mark.parametrize("size", [1, 2])
def test_a_file_of_a_byte_or_two(size: int) -> None:
    wrote = operation(Op.AIO_WRITE, 1, 2, 0, size + 1)
    assert found(as_operations((wrote, {**SHORT, "size_begin": size}))) == [(1, 0)]
    assert found(as_operations((wrote, {**SHORT, "size_begin": size + 1}))) == []


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("op", [Op.TRUNCATE, Op.FALLOCATE])
def test_what_is_in_flight_all_the_time_explains_it(op: Op, width: int) -> None:
    around = operation(op, 1, 40, 64 * K)
    wrote = operation(Op.AIO_WRITE, 2, 3, 64 * K, 64 * K)
    assert fed(as_operations((around, wrote, SHORT)), width) == []
    assert fed(as_operations((around, {**wrote, "seq_begin": 42, "seq_end": 43}, {**SHORT, **LATER})), width) == [
        (2, 1)
    ]


@pytest.mark.parametrize("width", range(1, 9))
def test_files_do_not_share_what_is_known(width: int) -> None:
    """Of two with one inode number on two devices one shrinks; and the other one, that did not then, shrinks later."""
    there = {"dev": 2}
    ops = as_operations(
        (
            WROTE,
            operation(Op.AIO_WRITE, 3, 4, 0, 96 * K, **there),
            SHORT,
            operation(Op.AIO_WRITE, 32, 33, 0, K, size_begin=96 * K, **there),
            {**SHORT, **LATER, **there},
        )
    )
    assert fed(ops, width) == [(2, 0), (4, 1)]


def test_a_look_at_the_very_time_at_which_the_write_ended_proves_nothing() -> None:
    assert found(as_operations(({**WROTE, "t_end": 5000}, {**SHORT, "t_begin": 5000}))) == []
    assert found(as_operations(({**WROTE, "t_end": 4999}, {**SHORT, "t_begin": 5000}))) == [(1, 0)]


def test_it_is_told_once() -> None:
    looks = tuple(operation(Op.AIO_WRITE, 30 + 2 * i, 31 + 2 * i, 0, K, size_begin=64 * K) for i in range(5))
    assert found(as_operations((WROTE, *looks))) == [(1, 0)]
    again = operation(Op.AIO_WRITE, 50, 51, 64 * K, 64 * K)
    last = operation(Op.AIO_WRITE, 60, 61, 0, K, size_begin=100 * K)
    assert found(as_operations((WROTE, *looks, again, last))) == [(1, 0), (7, 6)]


def test_the_first_write_of_a_new_file_counts() -> None:
    assert found(as_operations(({**WROTE, "size_begin": 0}, SHORT))) == [(1, 0)]


def test_many_files_of_which_few_shrink() -> None:
    ops = np.concatenate([as_operations((WROTE, SHORT))] * 500)
    ops["ino"] = np.arange(1000) // 2
    ops["seq_begin"], ops["seq_end"] = 2 * np.arange(1000) + 1, 2 * np.arange(1000) + 2
    ops["t_begin"], ops["t_end"] = ops["seq_begin"], ops["seq_end"]
    ops["size_begin"][1::2] = 128 * K
    ops["size_begin"][[11, 701]] = 64 * K
    order = np.random.default_rng(1).permutation(1000)
    back = {int(new): old for old, new in enumerate(order.tolist())}
    assert found(ops[order]) == sorted([(back[11], back[10]), (back[701], back[700])])


def test_nothing() -> None:
    assert found(np.zeros(0, OPERATION)) == []


@pytest.mark.parametrize(("result", "pairs"), [(0, []), (-errno.EIO, []), (-errno.EOPNOTSUPP, [(2, 1)])])
def test_what_the_file_system_refuses_explains_nothing(result: int, pairs: list[tuple[int, int]]) -> None:
    """OpenZFS: the ZERO_RANGE that it does not have was in flight with a write that the punch after it cost."""
    ops = as_operations(
        (
            operation(Op.FALLOCATE, 1, 3, 0, 64 * K, flags=16, result=result),
            operation(Op.AIO_WRITE, 2, 4, 64 * K, 64 * K),
            operation(Op.FALLOCATE, 5, 6, 0, 64 * K, size_begin=4 * K),
        )
    )
    assert found(ops) == pairs
