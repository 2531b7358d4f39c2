"""The race, almost the race, and the rule against an oracle that compares every pair."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.analysis import rules
from tracer.analysis.rules import Outcome
from tracer.analysis.rules.post_eof_fallocate import RULE, post_eof_fallocates
from tracer.analysis.sides import data_writes
from tracer.errors import UsageError
from tracer.operations import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_ZERO_RANGE,
    NONE_RESULT,
    NONE_SIZE,
    OPERATION,
    WRITES,
    Op,
    Operations,
)

K = 1024
UNSEEN = {"size_begin": NONE_SIZE, "size_end": NONE_SIZE, "size_applied": NONE_SIZE}


def operation(op: Op, begin: int, end: int, offset: int, length: int, **more: Any) -> dict[str, Any]:
    """One operation; end 0: in flight. Times are ten times the sequence numbers."""
    flying = {"t_end": 0, "result": NONE_RESULT} if end == 0 else {"t_end": 10 * end}
    done = {"result": length if op in WRITES else 0, "t_begin": 10 * begin, "dev": 1, "ino": 7}
    where = {"op": op, "seq_begin": begin, "seq_end": end, "offset": offset, "length": length}
    return done | where | UNSEEN | flying | more


def write(begin: int, end: int, offset: int, length: int, **more: Any) -> dict[str, Any]:
    return operation(Op.AIO_WRITE, begin, end, offset, length, **more)


def fallocate(begin: int, end: int, offset: int, length: int, **more: Any) -> dict[str, Any]:
    return operation(Op.FALLOCATE, begin, end, offset, length, **{"size_begin": 0} | more)


def trace(*rows: dict[str, Any]) -> Operations:
    ops = np.zeros(len(rows), OPERATION)
    for record, row in zip(ops, rows, strict=True):
        for name, value in row.items():
            record[name] = value
    return ops


def found(*rows: dict[str, Any]) -> list[tuple[int, int, Outcome]]:
    pairs = RULE.pairs(trace(*rows))
    return sorted(zip(pairs.first.tolist(), pairs.second.tolist(), map(Outcome, pairs.outcome.tolist()), strict=True))


LOST = [(0, 1, Outcome.LOST)]
EXPOSED = [(0, 1, Outcome.EXPOSED)]
SERIALISED = [(0, 1, Outcome.KERNEL_SERIALISED)]

F = fallocate(2, 4, 0, 64 * K, size_end=64 * K)
W = write(1, 3, 64 * K, 64 * K)


def test_the_race() -> None:
    assert found(F, W) == LOST
    assert found(F | {"flags": FALLOC_FL_ZERO_RANGE}, W) == LOST
    assert found(F | {"size_begin": NONE_SIZE}, W) == LOST
    assert found(F, write(1, 3, 64 * K, 64 * K, result=1)) == LOST  # a short write, cut off as well


@pytest.mark.parametrize(
    ("f", "w"),
    [
        pytest.param({}, {"offset": 0, "length": 64 * K}, id="F ends where W ends"),
        pytest.param({"length": 256 * K, "size_end": 256 * K}, {}, id="F ends beyond W"),
        pytest.param({"flags": FALLOC_FL_KEEP_SIZE}, {}, id="KEEP_SIZE"),
        pytest.param({"flags": FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE}, {}, id="zero range, KEEP_SIZE"),
        pytest.param({"size_begin": 64 * K}, {}, id="not post-EOF"),
        pytest.param({"result": -95}, {}, id="F failed"),
        pytest.param({}, {"result": -28}, id="W failed"),
        pytest.param({}, {"result": 0}, id="W wrote nothing"),
        pytest.param({"ino": 8}, {}, id="another inode"),
        pytest.param({"dev": 2}, {}, id="another device"),
        pytest.param({"seq_begin": 5, "seq_end": 6}, {}, id="one after the other"),
        pytest.param({"seq_begin": 2, "seq_end": 3}, {"seq_begin": 4, "seq_end": 5}, id="touching"),
        pytest.param({"op": Op.TRUNCATE}, {}, id="a truncate"),
        pytest.param({}, {"op": Op.MARK_GUEST_WRITE}, id="a mark is no write"),
    ],
)
def test_almost_the_race(f: dict[str, Any], w: dict[str, Any]) -> None:
    assert found(F | f, W | w) == []


def test_somebody_else_may_have_cut_it_off() -> None:
    """The size is what is left of the write: who made the file shorter is not known if a truncate was there, too."""
    f, w = fallocate(4, 8, 0, 64 * K, size_end=64 * K), write(3, 7, 64 * K, 64 * K)
    at_fault = [
        operation(Op.TRUNCATE, 5, 6, 0, 0),
        operation(Op.TRUNCATE, 1, 9, 32 * K, 0),
        operation(Op.TRUNCATE, 2, 0, 0, 0),
        operation(Op.TRUNCATE, 6, 12, 0, 0),
        operation(Op.FALLOCATE, 5, 6, 0, 4 * K, flags=FALLOC_FL_COLLAPSE_RANGE, size_begin=1024 * K),
    ]
    innocent = [
        operation(Op.TRUNCATE, 1, 2, 0, 0),
        operation(Op.TRUNCATE, 9, 10, 0, 0),
        operation(Op.TRUNCATE, 5, 6, 0, 0, result=-27),
        operation(Op.TRUNCATE, 5, 6, 0, 0, ino=8),
        operation(Op.FALLOCATE, 5, 6, 0, 4 * K, flags=FALLOC_FL_KEEP_SIZE, size_begin=1024 * K),
    ]
    assert [found(f, w, other) for other in at_fault] == [EXPOSED] * len(at_fault)
    assert [found(f, w, other) for other in innocent] == [LOST] * len(innocent)
    seen = f | {"t_applied": 70, "size_applied": 128 * K}
    assert [found(seen, w | {"t_applied": 65}, other) for other in at_fault] == [LOST] * len(at_fault)
    unknown = [
        RULE.pairs(trace(*rows), shortenings_are_known=False).outcome.tolist()
        for rows in ([f, w], [seen, w | {"t_applied": 65}])
    ]
    assert unknown == [[Outcome.EXPOSED], [Outcome.LOST]]


def test_exposed_but_nothing_lost() -> None:
    kept = F | {"size_end": 128 * K}
    assert found(kept, W) == EXPOSED
    assert found(F | {"size_end": NONE_SIZE}, W) == EXPOSED
    assert found(F, W | {"seq_end": 5}) == EXPOSED  # acknowledged after F ended
    assert found(F, write(1, 0, 64 * K, 64 * K)) == EXPOSED
    assert found(fallocate(2, 0, 0, 64 * K), W) == EXPOSED
    assert found(fallocate(2, 0, 0, 64 * K), write(1, 0, 64 * K, 1)) == EXPOSED


def test_the_kernel_applied_the_write_first() -> None:
    kept = F | {"size_end": 128 * K, "t_applied": 36}
    assert found(kept, W | {"t_applied": 29}) == SERIALISED
    assert found(kept, W | {"t_applied": 37}) == EXPOSED
    assert found(kept, W) == EXPOSED  # when W took effect was not seen
    assert found(kept | {"t_applied": 0}, W | {"t_applied": 29}) == EXPOSED
    assert found(kept | {"size_end": NONE_SIZE}, W | {"t_applied": 29}) == EXPOSED
    assert found(F | {"t_applied": 36}, W | {"t_applied": 29}) == LOST


def test_the_fallocate_was_applied_before_the_write_began() -> None:
    early = fallocate(1, 3, 0, 64 * K, size_end=64 * K, t_applied=15)
    assert found(early, write(2, 4, 64 * K, 64 * K, t_applied=35)) == SERIALISED
    assert found(early, write(2, 4, 64 * K, 64 * K)) == EXPOSED
    assert found(early | {"t_applied": 25}, write(2, 4, 64 * K, 64 * K, t_applied=35)) == EXPOSED


# Cut at 36, and raised again by a third operation before the fallocate returns: the size at its end tells nothing.
HIDDEN = fallocate(2, 8, 0, 64 * K, t_applied=36, size_applied=128 * K, size_end=256 * K)
CUT_OFF = W | {"t_applied": 29}
RAISES = write(5, 7, 128 * K, 128 * K, t_applied=60)


def test_a_cut_that_a_later_write_hides() -> None:
    assert found(HIDDEN, CUT_OFF, RAISES) == [*LOST, (0, 2, Outcome.KERNEL_SERIALISED)]
    assert found(HIDDEN | {"flags": FALLOC_FL_ZERO_RANGE}, CUT_OFF) == LOST
    assert found(HIDDEN | {"size_end": NONE_SIZE}, CUT_OFF) == LOST
    assert found(HIDDEN, CUT_OFF | {"t_applied": 0, "t_end": 30}) == LOST  # it had ended by then
    assert found(HIDDEN, CUT_OFF | {"seq_end": 9, "t_end": 90}) == LOST  # acknowledged later, cut off nevertheless
    assert found(HIDDEN, CUT_OFF | {"result": 1}) == LOST


@pytest.mark.parametrize(
    ("f", "w", "outcome"),
    [
        pytest.param({"size_applied": NONE_SIZE}, {}, SERIALISED, id="not seen: all that can be said is as before"),
        pytest.param({"size_applied": 64 * K}, {}, SERIALISED, id="it found the size that it set"),
        pytest.param({"size_applied": 0}, {}, SERIALISED, id="it found a smaller one"),
        pytest.param({"t_applied": 0}, {}, EXPOSED, id="set at an unknown time"),
        pytest.param({}, {"t_applied": 37}, EXPOSED, id="the write came after the cut"),
        pytest.param({}, {"t_applied": 0, "t_end": 37}, EXPOSED, id="it ended after the cut, applied who knows when"),
        pytest.param({}, {"seq_end": 0, "t_end": 0, "result": NONE_RESULT}, EXPOSED, id="nobody was told of it"),
        pytest.param({}, {"offset": 60 * K, "result": 4 * K}, SERIALISED, id="short: it ends where the cut was"),
        pytest.param({"flags": 0x08}, {}, SERIALISED, id="collapse range makes a file shorter"),
        pytest.param({"flags": 0x20}, {}, SERIALISED, id="insert range sets another size"),
        pytest.param({"result": -5}, {}, [], id="it failed"),
        pytest.param({"flags": FALLOC_FL_KEEP_SIZE}, {}, [], id="it keeps the size"),
        pytest.param({"seq_end": 0, "result": NONE_RESULT, "size_end": NONE_SIZE}, {}, EXPOSED, id="it may yet fail"),
    ],
)
def test_no_cut_was_seen(f: dict[str, Any], w: dict[str, Any], outcome: list[tuple[int, int, Outcome]]) -> None:
    assert found(HIDDEN | f, CUT_OFF | w) == outcome


def test_the_cut_of_an_emulated_fallocate_that_a_later_write_hides() -> None:
    hidden = {"size_end": 256 * K, "t_applied": 85}
    assert found(*emulated(**hidden, size_applied=128 * K)) == LOST
    assert found(*emulated(**hidden)) == EXPOSED
    assert found(*emulated(**hidden, size_applied=64 * K)) == EXPOSED
    # What it found when it cut outweighs what it found when it began.
    assert found(*emulated(size_begin=NONE_SIZE, size_applied=128 * K)) == LOST
    assert found(*emulated(size_begin=128 * K, size_applied=100 * K)) == EXPOSED


def emulated(**truncated: Any) -> list[dict[str, Any]]:
    """A legacy-xfs fallocate as the kernel and the driver saw it, and a write that ends before the cut."""
    link = {"request": 1 << 32 | 5}
    return [
        operation(Op.MARK_FALLOCATE, 1, 10, 0, 64 * K, **{"size_begin": 0, "size_end": 64 * K} | link),
        write(2, 5, 64 * K, 64 * K, request=1 << 32 | 9),
        fallocate(6, 7, 0, 64 * K, flags=FALLOC_FL_KEEP_SIZE, **link),
        operation(Op.TRUNCATE, 8, 9, 64 * K, 0, **{"size_begin": 128 * K, "size_end": 64 * K} | link | truncated),
    ]


def test_emulated_fallocate_is_judged_by_its_truncate() -> None:
    assert found(*emulated()) == LOST
    assert found(*emulated(size_begin=64 * K)) == EXPOSED  # somebody else had cut it before
    assert found(*emulated(size_begin=NONE_SIZE)) == EXPOSED
    assert found(*emulated(size_end=128 * K)) == EXPOSED  # what the kernel saw outweighs the mark
    assert found(*emulated(size_end=NONE_SIZE)) == LOST  # only the mark knows the final size
    assert found(*emulated(request=0)) == LOST  # not linked: again the mark's own sizes
    assert found(*emulated()[:2]) == LOST


def test_steps_are_not_judged_themselves() -> None:
    rows = emulated()
    plain = fallocate(3, 4, 0, 64 * K, size_end=64 * K, request=rows[0]["request"])
    assert found(*rows, plain) == LOST
    for other in ({"request": 0}, {"request": 77}, {"ino": 9}, {"seq_end": 11}):
        overlapped = {} if "ino" not in other else {"ino": 9}
        extra = write(2, 12, 64 * K, 64 * K, **overlapped)
        assert (4, 5, Outcome.EXPOSED) in found(*rows, plain | {"size_end": NONE_SIZE} | other, extra)


def test_the_last_truncate_counts_and_an_emulation_in_flight_holds_its_steps() -> None:
    rows = emulated(size_begin=128 * K, size_end=128 * K, seq_begin=6, seq_end=7)
    rows[2] = emulated()[3]
    assert found(*rows) == LOST
    assert found(*[rows[i] for i in (0, 1, 3, 2)]) == LOST
    rows[0] |= {"seq_end": 0, "t_end": 0, "result": NONE_RESULT, "size_end": NONE_SIZE}
    assert found(*rows) == LOST


def test_masks() -> None:
    ops = trace(*emulated(), F, W, fallocate(20, 21, 0, K, size_begin=K), write(22, 23, 0, 9, result=-5))
    assert post_eof_fallocates(ops).nonzero()[0].tolist() == [0, 4]
    assert data_writes(ops).nonzero()[0].tolist() == [1, 5]


def test_empty_trace() -> None:
    assert len(RULE.pairs(np.zeros(0, OPERATION)).first) == 0


def test_registry() -> None:
    assert RULE in rules.all_rules()
    assert rules.named("post-eof-fallocate") is RULE
    with pytest.raises(UsageError, match="post-eof-fallocate"):
        rules.named("nonsense")


@st.composite
def traces(draw: st.DrawFn) -> Operations:
    kinds = [Op.FALLOCATE, Op.AIO_WRITE, Op.DIRECT_WRITE, Op.TRUNCATE, Op.MARK_FALLOCATE]
    count = draw(st.integers(0, 10))
    numbers = draw(st.permutations(range(1, 2 * count + 1)))
    rows = []
    for i in range(count):
        begin, end = sorted(numbers[2 * i : 2 * i + 2])
        op = draw(st.sampled_from(kinds))
        row = operation(
            op,
            begin,
            draw(st.sampled_from([end, end, end, 0])),
            draw(st.integers(0, 3)),
            draw(st.integers(1, 3)),
        )
        row["size_begin"], row["size_end"] = draw(st.integers(-1, 6)), draw(st.integers(-1, 6))
        row["flags"] = draw(st.sampled_from([0, 0, 0, 1, 0x10, 0x08]))
        row["request"], row["ino"] = draw(st.integers(0, 1)), draw(st.sampled_from([7, 7, 7, 8]))
        row["t_applied"] = draw(st.sampled_from([0, 10 * begin + 5, 10 * end - 5]))
        row["size_applied"] = draw(st.integers(-1, 6))
        if row["seq_end"]:
            row["result"] = draw(st.sampled_from([row["result"]] * 4 + [-5, 1]))
        rows.append(row)
    return trace(*rows)


def oracle(ops: Operations) -> list[tuple[int, int, Outcome]]:
    """The rule as it is written down, one pair at a time."""
    rows: list[dict[str, Any]] = [{name: row[name].item() for name in OPERATION.names or ()} for row in ops]
    for row in rows:
        row["open"] = row["seq_end"] == 0
        row["close"] = row["seq_end"] or 2**64
        row["cut_to"] = None
        to = {Op.TRUNCATE: row["offset"], Op.FALLOCATE: row["offset"] + row["length"]}.get(row["op"])
        sets_it = row["op"] == Op.TRUNCATE or not row["flags"] & 0x29
        succeeded = row["result"] == 0 and not row["open"]
        if to is not None and row["size_applied"] > to and row["t_applied"] and succeeded and sets_it:
            row["cut_to"] = to
    for f in rows:
        f["steps"] = [
            p
            for p in rows
            if f["op"] == Op.MARK_FALLOCATE
            and p["op"] in (Op.FALLOCATE, Op.TRUNCATE)
            and p["request"] == f["request"] != 0
            and p["ino"] == f["ino"]
            and f["seq_begin"] <= p["seq_begin"]
            and p["close"] <= f["close"]
        ]
    steps = [id(p) for f in rows for p in f["steps"]]
    pairs = []
    for i, f in enumerate(rows):
        cuts = [p for p in f["steps"] if p["op"] == Op.TRUNCATE and p["size_end"] >= 0]
        final, before, applied, cut_to = f["size_end"], 2**63, f["t_applied"], f["cut_to"]
        for cut in sorted(cuts, key=lambda p: p["seq_begin"]):
            final, before, applied = cut["size_end"], cut["size_begin"], cut["t_applied"] or applied
            before, cut_to = cut["size_applied"] if cut["size_applied"] >= 0 else before, cut["cut_to"]
        f_end = f["offset"] + f["length"]
        if f["op"] not in (Op.FALLOCATE, Op.MARK_FALLOCATE) or id(f) in steps or f["flags"] & 1:
            continue
        if not (f["result"] == 0 or f["open"]) or f_end <= f["size_begin"]:
            continue
        for j, w in enumerate(rows):
            if w["op"] not in WRITES or w["ino"] != f["ino"] or not (w["result"] > 0 or w["open"]):
                continue
            if w["offset"] + w["length"] <= f_end:
                continue
            if not (w["seq_begin"] <= f["close"] and f["seq_begin"] <= w["close"]):
                continue
            w_end = w["offset"] + w["result"]
            ended = not w["open"] and w["close"] < f["close"]
            outcome = Outcome.EXPOSED
            seen = cut_to is not None and cut_to < w_end and not w["open"]
            seen = seen and (w["t_applied"] or w["t_end"]) <= applied
            shorteners = [
                t
                for t in rows
                if f["op"] == Op.FALLOCATE
                and (t["op"] == Op.TRUNCATE or (t["op"] == Op.FALLOCATE and t["flags"] & 8))
                and id(t) not in steps
                and (t["result"] == 0 or t["open"])
                and t["ino"] == f["ino"]
                and t["seq_begin"] < f["close"]
                and t["close"] > w["seq_begin"]
            ]
            if seen or (ended and final >= 0 and final < w_end <= before and not shorteners):
                outcome = Outcome.LOST
            elif (applied and w["t_applied"]) and (
                (w["t_applied"] <= applied and ended and final >= w_end) or applied <= w["t_begin"]
            ):
                outcome = Outcome.KERNEL_SERIALISED
            pairs.append((i, j, outcome))
    return pairs


@settings(max_examples=400)
@given(traces())
def test_against_the_oracle(ops: Operations) -> None:
    pairs = RULE.pairs(ops)
    got = zip(pairs.first.tolist(), pairs.second.tolist(), map(Outcome, pairs.outcome.tolist()), strict=True)
    assert sorted(got) == oracle(ops)
