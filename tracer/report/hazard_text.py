"""Hazards, one sentence each."""

from collections.abc import Sequence

from rich.text import Text

from tracer.analysis.hazards import Hazard
from tracer.analysis.rules import Outcome
from tracer.report.console import Console
from tracer.report.escape import printable

MAX_SENTENCES = 50
"""Hazards that are told one by one; JSON has all of them."""

_ENDINGS = {
    Outcome.LOST: "data that the second one had acknowledged is gone",
    Outcome.EXPOSED: "nothing was seen to keep them in order, and nothing was seen to be lost",
    Outcome.KERNEL_SERIALISED: "the kernel applied them in a safe order",
}


def print_hazards(hazards: Sequence[Hazard], console: Console, *, indent: str = "") -> None:
    """The first of them, and how many more there are."""
    for hazard in hazards[:MAX_SENTENCES]:
        console.print(Text.assemble(indent, *sentence(hazard)))
    if len(hazards) > MAX_SENTENCES:
        console.print(f"{indent}and {len(hazards) - MAX_SENTENCES} more; --json has all of them")


def sentence(hazard: Hazard) -> list[str | tuple[str, str]]:
    """A hazard in one sentence, as parts for `rich.text.Text.assemble`."""
    style = {Outcome.LOST: "bold red", Outcome.EXPOSED: "bold yellow"}.get(hazard.outcome, "bold")
    if hazard.gap_ns is None:
        together = "in the kernel together, one of them still in flight at the end"
    else:
        together = f"in the kernel together for {_duration(max(-hazard.gap_ns, 0))}"
    like_this = "" if hazard.pairs == 1 else f" The first of {hazard.pairs:,} such pairs."
    return [
        (hazard.outcome.label, style),
        f" ({hazard.rule}): inode {hazard.ino}: {_operation(hazard, 0)} and {_operation(hazard, 1)} were"
        f" {together}; {_ENDINGS[hazard.outcome]}.{like_this}",
    ]


def _operation(hazard: Hazard, which: int) -> str:
    row = (hazard.first, hazard.second)[which]
    who = f"{printable(row['comm']) or 'pid'} {row['pid']}/{row['tid']}"
    return f"{row['op']} of {_size(row['length'])} at {_size(row['offset'])} by {who}"


def _size(count: int) -> str:
    """Bytes, in the largest unit that is exact."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and not count & ((1 << shift) - 1):
            return f"{count >> shift} {unit}"
    return f"{count} B" if count else "0"


def _duration(ns: int) -> str:
    for limit, unit in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")):
        if ns >= limit:
            return f"{ns / limit:.1f} {unit}"
    return f"{ns} ns"
