"""Steps of emulated fallocates, folded into what they emulate: against an oracle that looks at every step."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.analysis.parted import SHAPES, Shape, many, saved, some
from tracer.analysis.completeness import all_shortenings_are_seen
from tracer.analysis.emulation import DERIVED, effects, emulated, resolved
from tracer.analysis.overlaps import MAX_BYTE
from tracer.operations import NONE_SIZE, Op, Operations

Expected = dict[str, list[int]]
FIELDS = ("is_step", "truncated", "size_before", "size_end", "t_applied", "cut_to", "shortened_until")


def cut_to(row: np.void) -> int:
    """The size to which an operation was seen to cut its file by itself."""
    done = row["result"] == 0 and row["seq_end"] and row["t_applied"]
    moves = row["flags"] & (0x01 | 0x08 | 0x20)
    if row["op"] == Op.TRUNCATE:
        size = int(row["offset"])
    elif row["op"] == Op.FALLOCATE and not moves:
        size = min(int(row["offset"]) + int(row["length"]), MAX_BYTE)
    else:
        return MAX_BYTE
    return size if done and row["size_applied"] > size else MAX_BYTE


def oracle(ops: Operations) -> Expected:
    """As the fields of `Effects` say it."""
    found: Expected = {
        "is_step": [0] * len(ops),
        "truncated": [0] * len(ops),
        "size_before": [MAX_BYTE] * len(ops),
        "size_end": ops["size_end"].tolist(),
        "t_applied": ops["t_applied"].tolist(),
        "cut_to": [cut_to(row) for row in ops],
    }
    for m, mark in enumerate(ops):
        if mark["op"] != Op.MARK_FALLOCATE or not mark["request"]:
            continue
        last = mark["seq_end"] or 2**64
        for s in np.argsort(ops["seq_begin"]):
            step = ops[s]
            same = all(step[name] == mark[name] for name in ("dev", "ino", "request"))
            if not same or step["op"] not in (Op.FALLOCATE, Op.TRUNCATE):
                continue
            if not (mark["seq_begin"] <= step["seq_begin"] and (step["seq_end"] or 2**64) <= last):
                continue
            found["is_step"][s] = 1
            if step["op"] == Op.TRUNCATE and step["size_end"] != NONE_SIZE:
                seen = step["size_applied"] != NONE_SIZE
                found["truncated"][m] = 1
                found["size_before"][m] = int(step["size_applied"] if seen else step["size_begin"])
                found["size_end"][m] = int(step["size_end"])
                found["cut_to"][m] = cut_to(step)
                found["t_applied"][m] = int(step["t_applied"] or mark["t_applied"])
    found["shortened_until"] = [shortened_until(ops, row, found["is_step"]) for row in ops]
    return found


def shortened_until(ops: Operations, fallocate: np.void, is_step: list[int]) -> int:
    """When the last truncate or collapse range ended that began before a fallocate did end."""
    if fallocate["op"] != Op.FALLOCATE:
        return 0
    end = fallocate["seq_end"] or 2**64 - 1
    ends = [0]
    if not any(row["op"] == Op.FALLOCATE and not row["flags"] & 1 and row["ino"] == fallocate["ino"] for row in ops):
        return 0
    for row, step in zip(ops, is_step, strict=True):
        truncates = row["op"] == Op.TRUNCATE
        collapses = row["op"] == Op.FALLOCATE and row["flags"] & 0x08
        done = row["result"] == 0 or not row["seq_end"]
        same = row["dev"] == fallocate["dev"] and row["ino"] == fallocate["ino"]
        if (truncates or collapses) and not step and done and same and row["seq_begin"] < end:
            ends.append(int(row["seq_end"]) or 2**64 - 1)
    return max(ends)


def calls(count: int, seed: int) -> Operations:
    """Marks and calls of a few requests on two files, many of them within others."""
    ops = some(count, seed)
    chance = np.random.default_rng(seed + 1)
    ops["op"] = chance.choice([Op.MARK_FALLOCATE, Op.FALLOCATE, Op.TRUNCATE, Op.TRUNCATE], count)
    ops["request"], ops["dev"], ops["ino"] = chance.integers(0, 3, count), 1, chance.integers(1, 3, count)
    ops["result"] = np.where(ops["seq_end"] != 0, chance.choice([0, 0, -5], count), ops["result"])
    ops["flags"] = chance.choice([0, 1, 8, 32, 16], count)
    ops["t_applied"] = np.where(ops["seq_end"] != 0, chance.integers(0, 4, count), 0)
    return ops


@given(st.integers(0, 16), st.integers(0, 1 << 20))
def test_effects(count: int, seed: int) -> None:
    ops = calls(count, seed)
    found, wanted = effects(ops), oracle(ops)
    assert {name: getattr(found, name).tolist() for name in FIELDS} == wanted
    rows = np.flatnonzero(~found.is_step)
    seen = resolved(ops)
    assert seen["row"].tolist() == rows.tolist()
    assert seen["seq_begin"].tolist() == ops["seq_begin"][rows].tolist()
    for name, (field, _) in DERIVED.items():
        assert seen[name].tolist() == [wanted[field][row] for row in rows]


@given(st.integers(0, 16), st.integers(0, 1 << 20), SHAPES)
def test_the_same_of_a_trace_on_disk(count: int, seed: int, shape: Shape) -> None:
    ops = calls(count, seed)
    with tempfile.TemporaryDirectory() as directory:
        trace = saved(Path(directory) / "t", ops, shape)
        what = effects(ops, all_shortenings_are_seen(trace.meta))
        found = emulated(trace)
        numbers = [(group.number << 32) + at for group in trace.groups for at in range(group.rows)]
        rows = trace.rows(numbers)
    assert found.rows.tolist() == sorted(found.rows.tolist())
    columns = {name: rows[name] for name in rows.dtype.names or ()} | {"row": np.array(numbers, np.int64)}
    seen = found.resolve(columns, DERIVED)
    place = {int(begin): at for at, begin in enumerate(ops["seq_begin"])}
    at = [place[int(begin)] for begin in seen["seq_begin"]]
    assert sorted(at) == np.flatnonzero(~what.is_step).tolist()
    for name, (field, _) in DERIVED.items():
        assert seen[name].tolist() == getattr(what, field)[at].tolist(), name


@pytest.mark.parametrize("kind", [Op.FALLOCATE, Op.TRUNCATE])
def test_no_mark_is_no_emulation(tmp_path: Path, kind: Op) -> None:
    ops = many(60)
    ops["op"], ops["request"] = kind, 5
    found = emulated(saved(tmp_path / "t", ops, Shape((0, 1), 0, 20, True)))
    assert len(found.rows) == 0
    columns = {name: ops[name] for name in ops.dtype.names or ()} | {"row": np.arange(60)}
    assert len(found.resolve(columns, [])["row"]) == 60
