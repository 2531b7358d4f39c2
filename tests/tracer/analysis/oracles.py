"""The pair rules as they are written down, one pair at a time: the outcome, or None."""

from collections.abc import Callable
from typing import Any

from tracer.analysis.rules import Outcome
from tracer.operations import Op

Row = dict[str, Any]


def zeroing_over_write(f: Row, w: Row) -> Outcome | None:
    if f["op"] not in (Op.FALLOCATE, Op.MARK_FALLOCATE) or not f["begun"] or not w["write"]:
        return None
    punches, moves = f["flags"] & 0x12, f["flags"] & 0x28
    if not punches and not moves:
        return None
    if w["bytes_end"] <= f["offset"] or (not moves and w["offset"] >= f["bytes_end"]):
        return None
    if f["t_applied"] and w["acked"] and w["effect_by"] <= f["t_applied"]:
        gone = f["changed"] and not f["flags"] & 0x20 and w["offset"] < f["bytes_end"]
        return Outcome.LOST if gone else Outcome.EXPOSED
    if f["t_applied"] and f["t_applied"] <= w["t_begin"]:
        return Outcome.KERNEL_SERIALISED
    return Outcome.EXPOSED


def truncate_below_write(t: Row, w: Row) -> Outcome | None:
    if t["op"] != Op.TRUNCATE or not t["changed"] or not w["write"] or w["bytes_end"] <= t["offset"]:
        return None
    if w["acked"] and w["written_end"] > t["offset"]:
        if w["close"] < t["close"] and t["size_end"] == t["offset"]:
            return Outcome.LOST
        saw_more = t["t_applied"] and t["size_applied"] > t["offset"] and not t["open"]
        if saw_more and w["effect_by"] <= t["t_applied"]:
            return Outcome.LOST
    if t["t_applied"] and t["t_applied"] <= w["t_begin"]:
        return Outcome.KERNEL_SERIALISED
    return Outcome.EXPOSED


def overlapping_writes(a: Row, b: Row) -> Outcome | None:
    if not a["direct"] or not b["direct"] or a["seq_begin"] > b["seq_begin"]:
        return None
    if a["bytes_end"] <= b["offset"] or b["bytes_end"] <= a["offset"]:
        return None
    over = a["t_applied"] and a["t_applied"] <= b["t_begin"]
    return Outcome.KERNEL_SERIALISED if over else Outcome.EXPOSED


def buffered_and_direct(b: Row, d: Row) -> Outcome | None:
    if b["op"] != Op.BUFFERED_WRITE or not b["write"] or not d["direct"]:
        return None
    pages = [set(range(row["offset"] // 4096, (row["bytes_end"] - 1) // 4096 + 1)) for row in (b, d)]
    return Outcome.EXPOSED if pages[0] & pages[1] else None


def eof_block_zeroing(e: Row, w: Row) -> Outcome | None:
    if not e["write"] or not w["direct"] or e["size_begin"] < 0 or e["offset"] <= e["size_begin"]:
        return None
    block = set(range(e["size_begin"] // 4096 * 512, e["size_begin"] // 4096 * 512 + 512))  # in units of 8 bytes
    mine = block & set(range(w["offset"] // 8, -(-w["bytes_end"] // 8)))
    if not mine or mine == block or w["bytes_end"] > e["offset"]:
        return None
    for one, other in ((e, w), (w, e)):
        if one["t_applied"] and one["t_applied"] <= other["t_begin"]:
            return Outcome.KERNEL_SERIALISED
    return Outcome.EXPOSED


ORACLES: dict[str, Callable[[Row, Row], Outcome | None]] = {
    "zeroing-over-write": zeroing_over_write,
    "truncate-below-write": truncate_below_write,
    "overlapping-writes": overlapping_writes,
    "buffered-and-direct": buffered_and_direct,
    "eof-block-zeroing": eof_block_zeroing,
}
