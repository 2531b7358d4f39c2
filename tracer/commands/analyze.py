"""`eofrace analyze`: judge recorded traces by the hazard rules."""

import json
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from tracer.analysis.hazards import Analysis, Verdict, analyse, merge
from tracer.analysis.rules import all_rules, named
from tracer.output import STDOUT, check_writable, write_text
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.hazard_text import print_hazards
from tracer.trace import read

_MEANINGS = {
    Verdict.CONFIRMED: "no rule found anything, and the trace is complete",
    Verdict.INCONCLUSIVE: "no rule found anything, but the trace is not complete",
    Verdict.UNSAFE: "operations that may destroy each other's data were in the kernel together",
    Verdict.CORRUPT: "acknowledged data was lost",
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
    ctx.exit(int(total.verdict.status))


def _print(traces: tuple[Path, ...], analyses: list[Analysis], total: Analysis) -> None:
    """For people: each trace with its doubts and its hazards, then the counts and the verdict over all."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for path, analysis in zip(traces, analyses, strict=True):
        console.print(f"{printable(str(path))}: {_count(analysis.operations, 'operation')}, {analysis.verdict.value}")
        for doubt in analysis.doubts:
            console.print(f"  not complete: {printable(doubt)}", style="yellow")
        print_hazards(analysis.hazards, console, indent="  ")
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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
