"""`eofrace analyze`: judge recorded traces by the hazard rules."""

import json
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from tracer.analysis.hazards import Analysis, Hazard, Verdict, analyse, merge
from tracer.analysis.rules import Outcome, all_rules, named
from tracer.errors import Status
from tracer.output import STDOUT, check_writable, write_text
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.trace import read

MAX_SENTENCES = 50
"""Hazards that are told one by one; JSON has all of them."""

_MEANINGS = {
    Verdict.CONFIRMED: "no rule found anything, and the trace is complete",
    Verdict.INCONCLUSIVE: "no rule found anything, but the trace is not complete",
    Verdict.UNSAFE: "operations that may destroy each other's data were in the kernel together",
    Verdict.CORRUPT: "acknowledged data was lost",
}

_ENDINGS = {
    Outcome.LOST: "data that the second one had acknowledged is gone",
    Outcome.EXPOSED: "nothing was seen to keep them in order, and nothing was seen to be lost",
    Outcome.KERNEL_SERIALISED: "the kernel applied them in a safe order",
}


EXAMPLES = """\b
Examples:
  eofrace analyze run.parquet
  eofrace analyze --rule post-eof-fallocate cells/*.parquet
  eofrace analyze --json - run.parquet | jq .verdict
"""


@click.command(epilog=EXAMPLES)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("rules", "--rule", metavar="R", multiple=True, help="Judge by this rule only. May be repeated.")
@click.option("target", "--json", metavar="FILE", help="Write the result as JSON to FILE; - for standard output.")
@click.pass_context
def analyze(ctx: click.Context, traces: tuple[Path, ...], rules: tuple[str, ...], target: str | None) -> None:
    """Judge recorded traces by the hazard rules.

    Every pair of operations that a rule forbids to be in the kernel together is counted. Exit status: 0 nothing
    found, 1 a hazard or a loss, 2 a trace that cannot be used, 3 nothing found in a trace that is not complete.
    """
    chosen = [named(rule) for rule in dict.fromkeys(rules)] or list(all_rules())
    if target is not None:
        check_writable(target)
    analyses = []
    for path in traces:
        trace = read(path)
        analyses.append(analyse(trace.ops, trace.meta, chosen))
    total = merge(analyses)
    if target is not None:
        write_text(target, json.dumps(total.to_json(), indent=2) + "\n")
    if target != STDOUT:
        _print(traces, analyses, total)
    ctx.exit(int(_status(total)))


def _status(total: Analysis) -> Status:
    match total.verdict:
        case Verdict.CONFIRMED:
            return Status.OK
        case Verdict.INCONCLUSIVE:
            return Status.INCONCLUSIVE
        case _:
            return Status.HAZARD


def _print(traces: tuple[Path, ...], analyses: list[Analysis], total: Analysis) -> None:
    """For people: each trace with its doubts and its hazards, then the counts and the verdict over all."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for path, analysis in zip(traces, analyses, strict=True):
        console.print(f"{printable(str(path))}: {_count(analysis.operations, 'operation')}, {analysis.verdict.value}")
        for doubt in analysis.doubts:
            console.print(f"  not complete: {printable(doubt)}", style="yellow")
        for hazard in analysis.hazards[:MAX_SENTENCES]:
            console.print(Text.assemble("  ", *sentence(hazard)))
        if len(analysis.hazards) > MAX_SENTENCES:
            console.print(f"  and {len(analysis.hazards) - MAX_SENTENCES} more; --json has all of them")
    console.print(_table(total))
    found = {hazard.rule for hazard in total.hazards}
    for rule in all_rules():
        if rule.id in found:
            console.print(f"{rule.id}: {rule.title}. {rule.explanation}\n")
    console.print(
        Text.assemble("verdict: ", (total.verdict.value, STYLES[total.verdict]), f" ({_MEANINGS[total.verdict]})")
    )


def _table(total: Analysis) -> Table:
    table = Table("rule", box=SIMPLE, pad_edge=False)
    for title in ("exposed", "kernel-serialised", "lost"):
        table.add_column(title, justify="right", no_wrap=True)
    for rule, count in total.counts.items():
        table.add_row(rule, *(f"{n:,}" for n in (count.exposed, count.kernel_serialised, count.lost)))
    return table


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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
