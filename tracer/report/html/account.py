"""What happened in one pair of a hazard, step by step, in words.

The order of the steps is that of the sequence numbers. Only when a size update took effect has no number: it is put by
its time between what the numbers leave open. Nothing is said that is not in the trace.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blockstack.journal import GUEST_SHIFT, RequestFlag
from tracer.analysis.hazards import Pair
from tracer.analysis.rules import Outcome
from tracer.operations import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    MARKS,
    WRITES,
    Op,
)
from tracer.report.escape import printable
from tracer.report.hazard_text import FALLOCATE_LABELS, exposed_ending
from tracer.report.html.errnos import errno_name
from tracer.report.units import size

MAX_STEPS = 60
"""A hostile trace may have any number of marks of one request."""

Row = dict[str, Any]
"""An operation as `tracer.trace.as_dict` has it."""

_MODES = (
    (FALLOC_FL_ZERO_RANGE, "zero range"),
    (FALLOC_FL_PUNCH_HOLE, "punch hole"),
    (FALLOC_FL_COLLAPSE_RANGE, "collapse range"),
    (FALLOC_FL_INSERT_RANGE, "insert range"),
    (FALLOC_FL_KEEP_SIZE, "keep size"),
)
_FLAGS = (
    (RequestFlag.ZERO_WRITE, "zero-write"),
    (RequestFlag.POST_EOF, "post-EOF"),
    (RequestFlag.SERIALISING, "serialising"),
    (RequestFlag.METADATA, "metadata"),
    (RequestFlag.READ, "read"),
)
_MARKS = {op.label for op in MARKS}
_WRITES = {op.label for op in WRITES}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an account."""

    at_ns: int
    """From the begin of the pair's first operation."""
    who: str
    """`first`, `second`, or `driver`."""
    text: str

    @property
    def at(self) -> str:
        """The time, as it is shown."""
        return f"{self.at_ns / 1000:+,.1f} us"


@dataclass(frozen=True, slots=True)
class Account:
    """A pair in words."""

    steps: tuple[Step, ...]
    left_out: int
    ending: str


def account(pair: Pair, context: Iterable[Row]) -> Account:
    """Tell a pair, with `context`: other operations of the trace, of which those of the same requests are told."""
    first, second = pair.first, pair.second
    known = {first["seq_begin"], second["seq_begin"]}
    requests = {one["request"] for one in (first, second) if one["request"]}
    guests = {request >> GUEST_SHIFT << GUEST_SHIFT for request in requests if request >> GUEST_SHIFT}
    others = [
        row
        for row in {one["seq_begin"]: one for one in context}.values()
        if row["seq_begin"] not in known and row["request"] in requests | guests
    ]
    told = [*_events(first, "first"), *_events(second, "second")]
    for row in sorted(others, key=lambda one: one["seq_begin"]):
        told += _events(row, "driver")
    told = _in_order(told)
    steps = [Step(event.time - first["t_begin"], event.who, event.text) for event in told]
    return Account(tuple(steps[:MAX_STEPS]), max(0, len(steps) - MAX_STEPS), _ending(pair))


@dataclass(frozen=True, slots=True)
class _Event:
    time: int
    number: int | None
    """None: it has none, and lies between `after` and `before`."""
    who: str
    text: str
    after: int = 0
    before: int | None = None


def _events(row: Row, who: str) -> list[_Event]:
    begin, end = row["seq_begin"], row["seq_end"]
    mark = row["op"] in _MARKS and row["op"] != Op.MARK_FALLOCATE.label
    events = [_Event(row["t_begin"], begin, who, _mark_begun(row) if mark else _begun(row))]
    if row["t_applied"] is not None and not mark:
        before = _seen(row["size_applied"], "; just before, the file's size was {}")
        text = f"{_name(row)} took effect{before}"
        events.append(_Event(row["t_applied"], None, who, text, begin, end))
    if end is not None:
        events.append(_Event(row["t_end"], end, who, _mark_ended(row) if mark else _ended(row)))
    else:
        text = f"{_name(row)} was still in flight when recording stopped"
        events.append(_Event(row["t_begin"], 2**64, who, text))
    return events


def _in_order(events: Sequence[_Event]) -> list[_Event]:
    ordered = sorted((event for event in events if event.number is not None), key=lambda event: event.number or 0)
    for event in events:
        if event.number is not None:
            continue
        numbers = [one.number if one.number is not None else -1 for one in ordered]
        low = max((at + 1 for at, number in enumerate(numbers) if number == event.after), default=0)
        high = min((at for at, number in enumerate(numbers) if number == event.before), default=len(ordered))
        at = low
        while at < high and ordered[at].time <= event.time:
            at += 1
        ordered.insert(at, event)
    return ordered


def _begun(row: Row) -> str:
    who = f"{printable(row['comm']) or 'pid'} {row['pid']}/{row['tid']}"
    if row["op"] == Op.TRUNCATE.label:
        text = f"truncate to {size(row['offset'])} by {who} began"
    else:
        text = f"{phrase(row)} by {who} began"
    if row["cpu_begin"] is None and row["op"] not in _MARKS:
        text += " (it was in flight when recording began)"
    seen = row["size_begin"]
    if seen is None:
        return f"{text}; the file's size was not seen"
    end = row["offset"] + row["length"]
    if row["op"] in _WRITES:
        # Of several that io_submit(2) takes at once, the size is that of when the kernel came to it.
        text += f"; when the kernel took it up, the file's size was {size(seen)}"
    else:
        text += f"; it saw the file's size: {size(seen)}"
    if row["op"] in FALLOCATE_LABELS and not row["flags"] & FALLOC_FL_KEEP_SIZE and end > seen:
        return f"{text}: its end, {size(end)}, lies beyond it (post-EOF)"
    if row["op"] in _WRITES and end > seen:
        return f"{text}, and it is to end beyond that, at {size(end)}"
    return text


def _ended(row: Row) -> str:
    result = row["result"]
    if result is None:
        text = f"{_name(row)} ended, its result was not seen"
    elif result < 0:
        text = f"{_name(row)} failed: {errno_name(-result)}"
    elif row["op"] in _WRITES:
        whole = "" if result == row["length"] else f" of {size(row['length'])}"
        text = f"{_name(row)} ended: {size(result)}{whole} acknowledged, up to {size(row['offset'] + result)}"
    else:
        text = f"{_name(row)} ended"
    return text + _seen(row["size_end"], "; the file's size now: {}")


def _mark_begun(row: Row) -> str:
    where = f"{size(row['length'])} at {size(row['offset'])}"
    match row["op"]:
        case Op.MARK_GUEST_WRITE.label:
            return f"the guest submitted write {row['request'] >> GUEST_SHIFT}: {where} of its disk"
        case Op.MARK_WAIT.label:
            return f"request {request_name(row['request'])} began to wait for request {request_name(row['result'])}"
        case _:
            kinds = ", ".join(word for flag, word in _FLAGS if row["flags"] & flag)
            told = f" ({kinds})" if kinds else ""
            return f"the driver began request {request_name(row['request'])}{told}: {where}"


def _mark_ended(row: Row) -> str:
    match row["op"]:
        case Op.MARK_GUEST_WRITE.label:
            return f"the guest's write {row['request'] >> GUEST_SHIFT} was acknowledged"
        case Op.MARK_WAIT.label:
            return f"request {request_name(row['request'])} had waited for request {request_name(row['result'])}"
        case _:
            return f"the driver's request {request_name(row['request'])} ended"


def _ending(pair: Pair) -> str:
    """What became of it; the words are those of `tracer.report.hazard_text`."""
    first, second = _name(pair.first), _name(pair.second)
    if pair.gap_ns is None:
        text = "Both were in the kernel together, and one was still in flight at the end"
    elif pair.gap_ns > 0:
        text = f"They were in the kernel {pair.gap_ns / 1000:,.1f} us apart"
    else:
        text = f"Both were in the kernel together for {-pair.gap_ns / 1000:,.1f} us"
    match pair.outcome:
        case Outcome.LOST:
            return f"{text}. Lost: data that {second} had acknowledged is gone."
        case Outcome.KERNEL_SERIALISED:
            return f"{text}. Kernel-serialised: the kernel was seen to apply {first} and {second} in a safe order."
        case _:
            return f"{text}. Exposed: {exposed_ending(pair)}."


def phrase(row: Row) -> str:
    """An operation: what, how much, where."""
    if row["op"] == Op.TRUNCATE.label:
        return f"truncate to {size(row['offset'])}"
    return f"{_name(row)} of {size(row['length'])} at {size(row['offset'])}"


def _name(row: Row) -> str:
    if row["op"] not in FALLOCATE_LABELS:
        return str(row["op"])
    modes = ", ".join(word for flag, word in _MODES if row["flags"] & flag)
    kind = "fallocate" if row["op"] == Op.FALLOCATE.label else "emulated fallocate"
    return f"{kind} ({modes})" if modes else kind


def request_name(request: int | None) -> str:
    """A tracked request by its guest request and its own number."""
    if request is None:
        return "(not seen)"
    return f"{request >> GUEST_SHIFT}/{request & ((1 << GUEST_SHIFT) - 1)}"


def _seen(count: int | None, text: str) -> str:
    return "" if count is None else text.format(size(count))
