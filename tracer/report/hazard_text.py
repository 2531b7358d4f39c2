"""Hazards, one sentence each."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from tracer.analysis.findings import Counts
from tracer.analysis.hazards import Hazard, Pair
from tracer.analysis.rules import Outcome
from tracer.operations import FALLOC_FL_COLLAPSE_RANGE, FALLOCATES, Op
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.tables import Column, Row, print_table, told
from tracer.report.units import size

MAX_SENTENCES = 50
"""Hazards that are told one by one; JSON has all of them."""

FALLOCATE_LABELS = {op.label for op in FALLOCATES}


_COUNTS = (Column("rule", left=True), Column("exposed"), Column("kernel-serialised"), Column("lost"))


def print_counts(counts: Mapping[str, Counts], console: Console) -> None:
    """Print the pairs of each rule."""
    rows: list[Row] = [
        [Text(printable(rule)), *(f"{number:,}" for number in (count.exposed, count.kernel_serialised, count.lost))]
        for rule, count in counts.items()
    ]
    print_table(console, _COUNTS, rows)


def print_hazards(hazards: Sequence[Hazard], console: Console, *, indent: str = "") -> None:
    """The first of them, each with its examples, and how many more there are.

    A terminal gets lines that fit it; whoever reads a pipe gets a line for each, to search in.
    """
    for hazard in hazards[:MAX_SENTENCES]:
        texts = [(indent, Text.assemble(*sentence(hazard)))]
        if hazard.pairs > 1:
            texts += [(indent + "  ", Text(f"{name}: {_told(pair)}")) for name, pair in _examples(hazard)]
        for margin, text in texts:
            told(console, text, margin=margin)
    if len(hazards) > MAX_SENTENCES:
        told(console, Text(f"{indent}and {len(hazards) - MAX_SENTENCES} more; --json has all of them"))


def sentence(hazard: Hazard) -> list[str | tuple[str, str]]:
    """A hazard in one sentence about its worst pair, as parts for `rich.text.Text.assemble`."""
    style = {Outcome.LOST: "bold red", Outcome.EXPOSED: "bold yellow"}.get(hazard.outcome, "bold")
    parts: list[str | tuple[str, str]] = [
        (hazard.outcome.label, style),
        f" ({hazard.rule}): inode {hazard.ino}: {_together(hazard.worst)}; {_ending(hazard.worst)}.",
    ]
    if hazard.pairs > 1:
        parts.append(f" The worst of {hazard.pairs:,} such pairs{_outcomes(hazard)}.")
    return parts


def _ending(pair: Pair) -> str:
    match pair.outcome:
        case Outcome.LOST:
            return "data that the second one had acknowledged is gone"
        case Outcome.KERNEL_SERIALISED:
            return "the kernel applied them in a safe order"
        case _:
            return exposed_ending(pair)


def exposed_ending(pair: Pair) -> str:
    """What may be said of an exposed pair, no more than was seen."""
    if (pair.gap_ns or 0) > 0:
        return "what happened between may be what the trace lacks"
    if is_short(pair):
        return (
            "the size then lay below what the second one had acknowledged: somebody truncated the file, or that is lost"
        )
    return "nothing was seen to keep them in order, and nothing was seen to be lost"


def is_short(pair: Pair) -> bool:
    """Whether an exposed pair is a fallocate, and a write that was acknowledged, but which the size lies below then."""
    first, second = pair.first, pair.second
    if pair.outcome is not Outcome.EXPOSED or first["op"] not in FALLOCATE_LABELS:
        return False
    if first["flags"] & FALLOC_FL_COLLAPSE_RANGE:  # makes the file shorter, and loses nothing behind
        return False
    if not all((first["seq_end"], second["seq_end"], first["size_end"] is not None, (second["result"] or 0) > 0)):
        return False
    ended_first = second["seq_end"] < first["seq_end"]
    return bool(ended_first and first["size_end"] < second["offset"] + second["result"])


def _outcomes(hazard: Hazard) -> str:
    """How many of the pairs are not merely exposed; nothing where all are alike."""
    counts = hazard.counts
    kinds = ((counts.lost, Outcome.LOST), (counts.kernel_serialised, Outcome.KERNEL_SERIALISED))
    told = [f"{count:,} {outcome.label}" for count, outcome in kinds if 0 < count < hazard.pairs]
    return f", {', '.join(told)}" if told else ""


def _examples(hazard: Hazard) -> list[tuple[str, Pair]]:
    """The first and the last pair: the worst one has its sentence."""
    return [("first", hazard.earliest), ("last", hazard.latest)]


def _told(pair: Pair) -> str:
    return f"{pair.outcome.label}: {_together(pair)}"


def _together(pair: Pair) -> str:
    both = f"{_operation(pair.first)} and {_operation(pair.second)} were in the kernel"
    if pair.gap_ns is None:
        return f"{both} together, one of them still in flight at the end"
    if pair.gap_ns > 0:
        return f"{both} {_duration(pair.gap_ns)} apart"
    return f"{both} together for {_duration(-pair.gap_ns)}"


def _operation(row: dict[str, Any]) -> str:
    who = f"{printable(row['comm']) or 'pid'} {row['pid']}/{row['tid']}"
    if row["op"] == Op.TRUNCATE.label:
        return f"truncate to {size(row['offset'])} by {who}"
    return f"{row['op']} of {size(row['length'])} at {size(row['offset'])} by {who}"


def _duration(ns: int) -> str:
    for limit, unit in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")):
        if ns >= limit:
            return f"{ns / limit:.1f} {unit}"
    return f"{ns} ns"
