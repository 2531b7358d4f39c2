"""Traces of a few operations that have all that rules look at, for Hypothesis; and rows of a trace as plain numbers."""

from typing import Any

from hypothesis import strategies as st

from tracer.analysis.examples import NS, as_operations, operation
from tracer.operations import OPERATION, WRITES, Op, Operations

KINDS = [*WRITES, Op.FALLOCATE, Op.TRUNCATE, Op.MARK_FALLOCATE, Op.MARK_GUEST_WRITE]
MODES = [0, 0, 1, 0x03, 0x08, 0x10, 0x11, 0x20]


@st.composite
def traces(draw: st.DrawFn, kinds: list[Op] = KINDS, most: int = 8) -> Operations:
    """Up to `most` operations on one file, seldom on two, at small multiples of one unit."""
    count = draw(st.integers(0, most))
    unit = draw(st.sampled_from([1, 1024, 2048, 4096]))
    numbers = draw(st.permutations(range(1, 2 * count + 1)))
    sizes = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 6]).map(lambda size: size * unit if size > 0 else size)
    rows = []
    for i in range(count):
        begin, end = sorted(numbers[2 * i : 2 * i + 2])
        op = draw(st.sampled_from(kinds))
        is_write = op in WRITES
        length = draw(st.integers(1, 3)) * unit
        offset = draw(st.integers(0, 5)) * unit
        flying = draw(st.sampled_from([False] * 5 + [True]))
        more: dict[str, Any] = {
            "size_begin": draw(sizes),
            "size_end": draw(sizes),
            "size_applied": draw(sizes),
            # A little before its number, as of another CPU's clock.
            "t_begin": draw(st.sampled_from([NS, NS, NS, NS // 2])) * begin,
            "t_applied": draw(st.sampled_from([0, NS * begin + 1, NS * end - 1, NS * draw(st.integers(begin, end))])),
            "ino": draw(st.sampled_from([1] * 9 + [2])),
            "flags": 0 if is_write else draw(st.sampled_from(MODES)),
        }
        if not flying:
            done = length if is_write else 0
            more["result"] = draw(st.sampled_from([done] * 6 + [-5, 0, 1]))
        rows.append(operation(op, begin, 0 if flying else end, offset, length, **more))
    return as_operations(tuple(rows))


def plain(ops: Operations) -> list[dict[str, Any]]:
    """Each operation as a dictionary, with what an oracle wants to know of it at hand."""
    rows: list[dict[str, Any]] = [{name: row[name].item() for name in OPERATION.names or ()} for row in ops]
    for row in rows:
        row["open"] = row["seq_end"] == 0
        row["close"] = row["seq_end"] or 2**64
        row["bytes_end"] = row["offset"] + row["length"]
        row["write"] = row["op"] in WRITES and (row["open"] or row["result"] > 0)
        row["direct"] = row["write"] and row["op"] != Op.BUFFERED_WRITE
        row["acked"] = row["op"] in WRITES and not row["open"] and row["result"] > 0
        row["written_end"] = row["offset"] + max(row["result"], 0)
        row["effect_by"] = row["t_applied"] or row["t_end"]
        row["changed"] = row["op"] not in WRITES and (row["open"] or row["result"] == 0)
        row["begun"] = row["changed"] or row["t_applied"]
    return rows


def together(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two operations on one file were in the kernel at the same time."""
    same = (one["dev"], one["ino"]) == (other["dev"], other["ino"])
    return same and one["seq_begin"] <= other["close"] and other["seq_begin"] <= one["close"]
