"""Which guest request caused which operation of a driver that says nothing of itself, and which of them it kept apart.

The image's own tables say which guest cluster a host cluster belongs to, and the client's clock says which guest write
of that cluster was in flight while the operation ran. Guest writes that overlap are never in flight together, so the
bytes of a data write name one guest write; a zero-write is its whose data write to those clusters came next, since the
driver links the clusters only then and everybody else waits for that.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from blockstack.journal import GUEST_SHIFT, Entry, Journal, Kind
from tracer.analysis.conflicts import GuestPairs
from tracer.analysis.overlaps import overlapping, range_ends, sequence_ends
from tracer.analysis.rules.post_eof_fallocate import post_eof_fallocates
from tracer.analysis.sides import data_writes
from tracer.operations import WRITES, Op, Operations
from tracer.verify.evidence import Evidence, journal_operations, renumber

Extents = list[tuple[int, int, int, int]]
"""As `tracer.verify.play.Extents`."""


@dataclass(frozen=True, slots=True)
class Apart:
    """Pairs of a post-EOF zero-write and a data write behind it that the driver kept apart."""

    conflicts: GuestPairs
    """The guest requests behind them, each pair once."""
    waited: int
    """Operations that were the later one of such a pair."""
    min_gap_ns: int | None
    """The shortest time between two of a pair; None where there are none."""


def evidence(
    seen: Operations, journal: Journal, extents: Extents, cluster_size: int, *, dev: int, ino: int, pid: int
) -> Evidence:
    """The driver's kernel operations `seen` (n,) of the file, linked to guest requests, with the client's marks.

    `unaccounted` counts guest writes that the trace does not show to have been written out whole, and operations on
    guest clusters that no guest request explains.
    """
    seen = seen[(seen["dev"] == dev) & (seen["ino"] == ino) & (seen["pid"] == pid)].copy()
    marks = [entry for entry in journal.entries if entry.kind is Kind.GUEST_WRITE]
    unaccounted = _link(seen, marks, {host: guest for guest, host, *_ in extents}, cluster_size)
    ops = np.concatenate([seen, journal_operations(marks, {Kind.GUEST_WRITE: Op.MARK_GUEST_WRITE}, dev, ino)])
    renumber(ops, len(seen))
    return Evidence(ops, unaccounted)


def _link(seen: Operations, marks: list[Entry], guest_of: dict[int, int], size: int) -> int:
    """Set `request` of every operation on a guest cluster. Returns what is unaccounted for."""
    by_cluster: dict[int, list[Entry]] = defaultdict(list)
    for mark in marks:
        for cluster in range(mark.offset // size, -(-(mark.offset + mark.length) // size)):
            by_cluster[cluster].append(mark)
    missing = {mark.request: mark.length for mark in marks if mark.result > 0}
    unknown = 0
    rows = np.argsort(seen["seq_begin"], kind="stable").tolist()
    zeroed: dict[int, list[int]] = defaultdict(list)  # guest cluster -> zero-writes whose data has not come yet
    for row in rows:
        op = seen[row]
        start, length = int(op["offset"]), int(op["length"])
        hosts = range(start - start % size, start + length, size)
        guests = [guest_of[host] for host in hosts if host in guest_of]
        if not guests:
            continue  # metadata
        if op["op"] == Op.FALLOCATE:
            for guest in guests:
                zeroed[guest].append(row)
            continue
        if op["op"] not in WRITES:
            continue
        known = False
        for host in hosts:
            if host not in guest_of:
                continue
            # The guest's range that this part of the write fills.
            place = guest_of[host] * size - host
            low, high = max(start, host) + place, min(start + length, host + size) + place
            for mark in by_cluster[guest_of[host]]:
                begin, end = max(low, mark.offset), min(high, mark.offset + mark.length)
                if begin >= end or not _in_flight(op, mark):
                    continue
                known = True
                seen["request"][row] = mark.request
                for zero in zeroed.pop(guest_of[host], ()):
                    seen["request"][zero] = mark.request
                if mark.request in missing and op["result"] == length:
                    missing[mark.request] -= end - begin
        unknown += not known and op["result"] > 0
    stray = {row for rows in zeroed.values() for row in rows if seen["result"][row] == 0 and not seen["request"][row]}
    return unknown + len(stray) + sum(left > 0 for left in missing.values())


def _in_flight(op: np.void, mark: Entry) -> bool:
    return bool(mark.t_begin <= op["t_begin"] and (op["t_end"] <= mark.t_end or mark.t_end == 0))


def kept_apart(ops: Operations, wanted: GuestPairs) -> Apart:
    """Which of the guest pairs `wanted` ops (n,) show to have been kept apart. A pair counts if

    - the zero-write is post-EOF by the size that the kernel had, the write ends behind it, and both succeeded;
    - two guest requests caused them, which were in flight together;
    - they were not in the kernel together, and when the earlier one began, the guest had asked for the later one
      already. Whether that had reached the driver by then only the driver knows: that it would have run some of them
      together is what the misled build shows.
    """
    marks = ops[(ops["op"] == Op.MARK_GUEST_WRITE) & (ops["seq_end"] != 0)]
    marks = marks[np.argsort(marks["request"])]
    done = (ops["seq_end"] != 0) & (ops["result"] >= 0)
    zero = np.flatnonzero(post_eof_fallocates(ops) & done)
    write = np.flatnonzero(data_writes(ops) & done)
    zero, write = zero[ops["request"][zero] != 0], write[ops["request"][write] != 0]
    if not wanted or not len(marks) or not len(zero) or not len(write):
        return Apart(frozenset(), 0, None)
    at_zero = np.searchsorted(marks["request"], ops["request"][zero])
    at_write = np.searchsorted(marks["request"], ops["request"][write])
    conflicts: set[tuple[int, int]] = set()
    later: set[int] = set()
    gaps: list[int] = []
    for i, j in overlapping(
        marks["seq_begin"][at_zero],
        marks["seq_end"][at_zero],
        marks["seq_begin"][at_write],
        marks["seq_end"][at_write],
    ):
        f, w = ops[zero[i]], ops[write[j]]
        behind = range_ends(w["offset"], w["length"]) > range_ends(f["offset"], f["length"])
        behind &= f["request"] != w["request"]
        zero_first = (f["seq_end"] < w["seq_begin"]) & (marks["seq_begin"][at_write[j]] < f["seq_begin"])
        write_first = (w["seq_end"] < f["seq_begin"]) & (marks["seq_begin"][at_zero[i]] < w["seq_begin"])
        kept = np.flatnonzero(behind & (zero_first | write_first))
        gap = np.maximum(f["t_begin"] - w["t_end"], w["t_begin"] - f["t_end"])
        for row in kept.tolist():
            pair = int(f["request"][row]) >> GUEST_SHIFT, int(w["request"][row]) >> GUEST_SHIFT
            if pair in wanted:
                conflicts.add(pair)
                later.add(int(write[j[row]] if zero_first[row] else zero[i[row]]))
                gaps.append(int(gap[row]))
    return Apart(frozenset(conflicts), len(later), min(gaps, default=None))


def beside(ops: Operations) -> int:
    """Pairs of a post-EOF zero-write and a data write that ends before its end, both in the kernel at once.

    They are safe, and no driver needs to keep them apart: where there are some, the driver runs the two side by side
    and the trace shows it, so that "none was exposed" is not for want of company.
    """
    count = 0
    zero, write = np.flatnonzero(post_eof_fallocates(ops)), np.flatnonzero(data_writes(ops))
    if not len(zero) or not len(write):
        return 0
    ends = range_ends(ops["offset"], ops["length"])
    last = sequence_ends(ops)
    for i, j in overlapping(ops["seq_begin"][zero], last[zero], ops["seq_begin"][write], last[write]):
        count += int((ends[write[j]] <= ends[zero[i]]).sum())
    return count
