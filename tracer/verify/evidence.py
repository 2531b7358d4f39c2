"""Joins the driver's journal with what the kernel saw, into one trace with one order.

Kernel operations are ordered among each other by the kernel's sequence numbers, and marks are put between them by
time: both clocks are CLOCK_MONOTONIC. Where the kernel was not watched, the journal's own sequence is the order.
"""

import os
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from blockstack.journal import Entry, Journal, Kind
from tracer.operations import NONE_RESULT, NONE_SIZE, OPERATION, WRITES, Op, Operations

_MARKS = {
    Kind.GUEST_WRITE: Op.MARK_GUEST_WRITE,
    Kind.REQUEST: Op.MARK_REQUEST,
    Kind.WAIT: Op.MARK_WAIT,
    Kind.EMULATED_FALLOCATE: Op.MARK_FALLOCATE,
}
_CALLS = {Kind.FALLOCATE: Op.FALLOCATE, Kind.TRUNCATE: Op.TRUNCATE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """The trace of one cell.

    `unaccounted` is where trace and driver disagree: system calls of the driver that the trace does not show, and
    operations in the trace that the driver did not ask for, or were recorded twice.
    """

    ops: Operations
    unaccounted: int = 0


def driver_evidence(journal: Journal, *, dev: int, ino: int, write: Op) -> Evidence:
    """The journal alone; its data writes become operations of the kind `write`."""
    kinds = {**_MARKS, **_CALLS, Kind.WRITE: write}
    return Evidence(journal_operations(journal.entries, kinds, dev, ino))


def kernel_evidence(seen: Operations, journal: Journal, *, dev: int, ino: int) -> Evidence:
    """Kernel operations `seen` (n,) of the file, linked to the requests that caused them, with the journal's marks."""
    seen = seen[(seen["dev"] == dev) & (seen["ino"] == ino)].copy()
    unaccounted = _link(seen, journal)
    marks = journal_operations([entry for entry in journal.entries if entry.kind in _MARKS], _MARKS, dev, ino)
    ops = np.concatenate([seen, marks])
    renumber(ops, len(seen))
    return Evidence(ops, unaccounted)


def journal_operations(entries: list[Entry], kinds: dict[Kind, Op], dev: int, ino: int) -> Operations:
    pid = os.getpid()
    ops = np.zeros(len(entries), OPERATION)
    for name in (
        "seq_begin",
        "seq_end",
        "t_begin",
        "t_end",
        "t_applied",
        "offset",
        "length",
        "size_begin",
        "size_end",
        "result",
        "request",
        "flags",
        "tid",
    ):
        ops[name] = [getattr(entry, name) for entry in entries]
    ops["op"] = [kinds[entry.kind] for entry in entries]
    ops["size_applied"] = NONE_SIZE  # only the kernel sees that
    ops["dev"], ops["ino"], ops["pid"], ops["comm"] = dev, ino, pid, b"eofrace"
    return ops


def _link(seen: Operations, journal: Journal) -> int:
    """Give each kernel operation the id of its request, and count what only one of the two, kernel and driver, knows.

    A Linux AIO write carries the id in its iocb, an io_uring write in its sqe's user_data. Any other call is found by
    its thread and its time: it lies within the interval that the driver took around it.
    """
    calls: dict[int, list[Entry]] = defaultdict(list)
    expected: dict[int, int] = defaultdict(int)
    for entry in journal.entries:
        if entry.kind in (Kind.WRITE, Kind.FALLOCATE, Kind.TRUNCATE):
            calls[entry.tid].append(entry)
            if entry.result >= 0:
                expected[id(entry)] = 1
    begins = {tid: [entry.t_begin for entry in entries] for tid, entries in calls.items()}
    by_request: dict[tuple[int, int], list[Entry]] = defaultdict(list)
    for entries in calls.values():
        for entry in entries:
            if entry.kind is Kind.WRITE:
                by_request[entry.request, entry.offset].append(entry)
    unknown = 0
    for index in range(len(seen)):
        op = seen[index]
        if op["op"] in (Op.AIO_WRITE, Op.URING_WRITE):
            candidates = by_request.get((int(op["request"]), int(op["offset"])), [])
            found = next((entry for entry in candidates if _within(op, entry) and expected.get(id(entry))), None)
        else:
            tid = int(op["tid"])
            at = bisect_right(begins.get(tid, []), int(op["t_begin"])) - 1
            found = calls[tid][at] if at >= 0 and _within(op, calls[tid][at]) else None
            seen["request"][index] = found.request if found is not None else 0
        if found is not None and _same(op, found):
            # One that failed is not expected, and need not be told from another one that did.
            unknown += expected.pop(id(found), None) is None and found.result >= 0
        else:
            unknown += op["result"] >= 0
    return int(len(expected) + unknown)


def _within(op: np.void, entry: Entry) -> bool:
    return bool(entry.t_begin <= op["t_begin"] and (op["t_end"] <= entry.t_end or entry.t_end == 0))


def _same(op: np.void, entry: Entry) -> bool:
    """Whether the operation is what the driver's call asked for, and ended as the driver was told."""
    if op["result"] != entry.result or op["result"] == NONE_RESULT:
        return False
    if entry.kind is Kind.WRITE:
        return op["op"] in WRITES and op["offset"] == entry.offset and op["length"] == entry.length
    if op["op"] != _CALLS[entry.kind]:
        return False
    return bool(
        entry.kind is Kind.TRUNCATE
        or (op["offset"], op["length"], op["flags"]) == (entry.offset, entry.length, entry.flags)
    )


def renumber(ops: Operations, kernel: int) -> None:
    """One sequence for the first `kernel` operations and the marks behind them, in place.

    The kernel's order stays as it is, whatever its clocks say; a mark goes where its time puts it.
    """
    mark = np.arange(len(ops)) >= kernel
    sequence = np.concatenate([ops["seq_begin"], ops["seq_end"]])
    time = np.concatenate([ops["t_begin"], ops["t_end"]])
    is_mark = np.concatenate([mark, mark])
    happened = sequence != 0
    order = np.lexsort((sequence, is_mark))
    order = order[happened[order]]
    from_kernel = order[~is_mark[order]]
    time[from_kernel] = np.maximum.accumulate(time[from_kernel])
    order = order[np.lexsort((sequence[order], is_mark[order], time[order]))]
    numbers = np.zeros(len(sequence), np.uint64)
    numbers[order] = np.arange(1, len(order) + 1, dtype=np.uint64)
    ops["seq_begin"], ops["seq_end"] = numbers[: len(ops)], numbers[len(ops) :]
