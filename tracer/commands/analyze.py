"""`eofrace analyze`: judge recorded traces by the hazard rules."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from tracer.analysis.engine import Execute, analyse_stored, first_look, one_after_the_other
from tracer.analysis.hazards import Analysis, Verdict, merge
from tracer.analysis.rules import all_rules, named
from tracer.errors import UsageError
from tracer.output import STDOUT, check_writable, write_text
from tracer.report.analysis_progress import progress
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.hazard_text import print_hazards
from tracer.stored import stored

_MEANINGS = {
    Verdict.CONFIRMED: "no rule found anything, and the trace is complete",
    Verdict.INCONCLUSIVE: "no rule found anything, but the trace is not complete",
    Verdict.UNSAFE: "operations that may destroy each other's data were in the kernel together",
    Verdict.CORRUPT: "acknowledged data was lost",
}

_FEW = 1_000_000
"""Operations that are judged before other processes would have started."""

_TASKS = 4
"""Tasks for each process: the last ones to end are not much behind the others."""

EXAMPLES = """\b
Examples:
  eofrace analyze run.parquet
  eofrace analyze pg/                       all parts of a recording
  eofrace analyze --rule post-eof-fallocate cells/*.parquet
  eofrace analyze --scheduler tcp://head:8786 /shared/day
  eofrace analyze --json - run.parquet | jq .verdict
"""


@click.command(epilog=EXAMPLES)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("rules", "--rule", metavar="R", multiple=True, help="Judge by this rule only. May be repeated.")
@click.option("target", "--json", metavar="FILE", help="Write the result as JSON to FILE; - for standard output.")
@click.option(
    "scheduler",
    "--scheduler",
    metavar="ADDRESS",
    help="Have a Dask cluster do the work: its scheduler is at ADDRESS (tcp://HOST:8786). Scheduler and workers need"
    " the same eofrace, and the workers the traces, under the same paths.",
)
@click.option(
    "workers",
    "--workers",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="Have a local Dask cluster of N processes do it.  [default: a process for each core, without Dask]",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def analyze(
    ctx: click.Context,
    traces: tuple[Path, ...],
    rules: tuple[str, ...],
    target: str | None,
    scheduler: str | None,
    workers: int | None,
    quiet: bool,
) -> None:
    """Judge recorded traces by the hazard rules: files, or directories that `eofrace trace` has written.

    Every pair of operations that a rule forbids to be in the kernel together is counted. Hazards are told on standard
    error when they are met, and all of them in the end. Exit status: 0 nothing found, 1 a hazard or a loss, 2 a trace
    that cannot be used, 3 nothing found in a trace that is not complete.
    """
    chosen = [named(rule) for rule in dict.fromkeys(rules)] or list(all_rules())
    if target is not None:
        check_writable(target)
    if scheduler is not None and workers is not None:
        raise UsageError("--scheduler and --workers: name one of them")
    with progress(chosen, quiet=quiet or target == STDOUT) as shown:
        for path in traces:
            if (met := first_look(path, chosen)) is not None:
                shown.told(*met)
                break
        opened = [stored(path) for path in traces]
        operations = sum(trace.operations for trace in opened)
        shown.expect(operations)
        with _executing(scheduler, workers, operations) as (execute, count):
            analyses = analyse_stored(opened, chosen, count, execute, shown.told)
    total = merge(analyses)
    if target is not None:
        write_text(target, json.dumps(total.to_json(), indent=2) + "\n")
    if target != STDOUT:
        _print(traces, analyses, total)
    ctx.exit(int(total.verdict.status))


@contextlib.contextmanager
def _executing(scheduler: str | None, workers: int | None, operations: int) -> Iterator[tuple[Execute, int]]:
    """Who does the work, and into how many tasks it is cut."""
    if scheduler is not None or workers is not None:
        from tracer.analysis import cluster

        with cluster.scheduler(scheduler) if scheduler is not None else cluster.local(workers or 1) as found:
            yield found, _TASKS * max(found.count, workers or 1)
        return
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or operations <= _FEW:
        yield one_after_the_other, 1
        return
    from tracer.analysis.processes import Processes

    yield Processes(cores), _TASKS * cores


def _print(traces: Sequence[Path], analyses: list[Analysis], total: Analysis) -> None:
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
