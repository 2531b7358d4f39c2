"""`eofrace analyze`: judge recorded traces by the hazard rules."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.text import Text

from tracer.analysis.baseline import Baseline, Entry, of_hazards, to_text
from tracer.analysis.baseline import read as read_baseline
from tracer.analysis.engine import Execute, analyse_stored, first_look, one_after_the_other
from tracer.analysis.hazards import Analysis, Verdict, merge
from tracer.analysis.rules import all_rules, chosen
from tracer.errors import UsageError
from tracer.output import STDOUT, JsonFile, check_writable, write_text
from tracer.report.analysis_progress import progress
from tracer.report.colours import STYLES
from tracer.report.console import plain
from tracer.report.escape import printable
from tracer.report.hazard_text import print_counts, print_hazards
from tracer.report.tables import told
from tracer.stored import stored

_MEANINGS = {
    Verdict.CONFIRMED: "no rule found anything, and the trace is complete",
    Verdict.INCONCLUSIVE: "no rule found anything, but the trace is not complete",
    Verdict.UNSAFE: "operations that may destroy each other's data were in the kernel together",
    Verdict.CORRUPT: "acknowledged data was lost",
}

_FEW = 1_000_000
"""Operations that are judged before other processes would have started."""

EXAMPLES = """\b
Examples:
  eofrace analyze run.parquet
  eofrace analyze pg/                       all parts of a recording
  eofrace analyze --rule post-eof-fallocate cells/*.parquet
  eofrace analyze --ignore overlapping-writes fio.parquet
  eofrace analyze --write-baseline known.json run.parquet   accept what is there
  eofrace analyze --baseline known.json next.parquet        tell what is new
  eofrace analyze --scheduler tcp://head:8786 /shared/day
  eofrace analyze --json - run.parquet | jq .verdict
"""


@click.command(epilog=EXAMPLES)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("rules", "--rule", metavar="R", multiple=True, help="Judge by this rule only. May be repeated.")
@click.option("ignored", "--ignore", metavar="R", multiple=True, help="Do not judge by this rule. May be repeated.")
@click.option(
    "--baseline",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Do not tell of the findings in FILE; one that lost data is told all the same.",
)
@click.option("--write-baseline", metavar="FILE", help="Write what was found, but no losses, as a baseline to FILE.")
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
    ignored: tuple[str, ...],
    baseline: Path | None,
    write_baseline: str | None,
    target: str | None,
    scheduler: str | None,
    workers: int | None,
    quiet: bool,
) -> None:
    """Judge recorded traces by the hazard rules: files, or directories that `eofrace trace` has written.

    Every pair of operations that a rule forbids is counted; docs/rules.md has the rules, and what a baseline is.
    Hazards are told on standard error when they are met, and all of them in the end. Exit status: 0 nothing found,
    1 a hazard or a loss, 2 a trace that cannot be used, 3 nothing found in a trace that is not complete.
    """
    judges = chosen(rules, ignored)
    known = None if baseline is None else read_baseline(baseline)
    if write_baseline == target == STDOUT:
        raise UsageError("--write-baseline - and --json - would go to the same place: name a file")
    into = JsonFile(target)
    if write_baseline is not None:
        check_writable(write_baseline)
    if scheduler is not None and workers is not None:
        raise UsageError("--scheduler and --workers: name one of them")
    with progress(judges, known or Baseline(), quiet=quiet or STDOUT in (target, write_baseline)) as shown:
        for path in traces:
            if (met := first_look(path, judges)) is not None:
                shown.told(*met)
                break
        opened = [stored(path) for path in traces]
        operations = sum(trace.operations for trace in opened)
        shown.expect(operations)
        with _executing(scheduler, workers, operations) as (execute, count):
            analyses = analyse_stored(opened, judges, count, execute, shown.told)
    if write_baseline is not None:
        found = [hazard for analysis in analyses for hazard in analysis.hazards]
        accepted = of_hazards(found, () if known is None else known.entries)
        write_text(write_baseline, to_text(accepted))
        left_out = sum(hazard.counts.lost > 0 for hazard in found)
    if known is not None:
        analyses = [known.hide(analysis) for analysis in analyses]
    total = merge(analyses)
    stale = [] if known is None else known.stale(judges)
    more = {} if known is None else {"stale": [entry.to_json() for entry in stale]}
    into.write(total.to_json() | more)
    if STDOUT not in (target, write_baseline):
        _print(traces, analyses, total)
        _print_baseline(total, stale)
        if write_baseline is not None:
            but = f", without {_count(left_out, 'finding')} that lost data" if left_out else ""
            click.echo(f"baseline: {_count(len(accepted), 'kind')} written to {printable(write_baseline)}{but}")
    ctx.exit(int(total.verdict.status))


@contextlib.contextmanager
def _executing(scheduler: str | None, workers: int | None, operations: int) -> Iterator[tuple[Execute, int]]:
    """Who does the work, and how many they are."""
    if scheduler is not None or workers is not None:
        from tracer.analysis import cluster

        with cluster.scheduler(scheduler) if scheduler is not None else cluster.local(workers or 1) as found:
            yield found, max(found.count, 1)
        return
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or operations <= _FEW:
        yield one_after_the_other, 1
        return
    from tracer.analysis.processes import Processes

    yield Processes(cores), cores


def _print(traces: Sequence[Path], analyses: list[Analysis], total: Analysis) -> None:
    """For people: each trace with its doubts and its hazards, then the counts and the verdict over all."""
    console = plain(stderr=False)
    for path, analysis in zip(traces, analyses, strict=True):
        count = _count(analysis.operations, "operation")
        told(console, Text(f"{printable(str(path))}: {count}, {analysis.verdict.value}"))
        for doubt in analysis.doubts:
            told(console, Text(f"  not complete: {printable(doubt)}", style="yellow"))
        print_hazards(analysis.hazards, console, indent="  ")
    print_counts(total.counts, console)
    found = {hazard.rule for hazard in total.hazards}
    for rule in all_rules():
        if rule.id in found:
            told(console, Text(f"{rule.id}: {rule.title}. {rule.explanation}"))
            console.line()
    verdict = (total.verdict.value, STYLES[total.verdict])
    told(console, Text.assemble("verdict: ", verdict, f" ({_MEANINGS[total.verdict]})"))


def _print_baseline(total: Analysis, stale: Sequence[Entry]) -> None:
    """For people: what the baseline has hidden, and what of it there was no use for."""
    console = plain(stderr=False)
    hidden = sum(count.exposed for count in (total.known or {}).values())
    if hidden:
        told(console, Text(f"baseline: {_count(hidden, 'pair')} of known findings not told"))
    for entry in stale:
        said = json.dumps({"first": dict(entry.first), "second": dict(entry.second)})
        shown = printable(f"{entry.rule} {said}")
        told(console, Text(f"baseline: stale, nothing matches it: {shown}", style="yellow"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
