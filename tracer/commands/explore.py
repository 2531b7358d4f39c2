"""`eofrace explore`: every schedule of a small guest workload, on simulated file systems."""

import dataclasses
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blockstack.sim.models import MODELS
from blockstack.strategies import AUTO, CONTROL, STRATEGIES
from tracer.errors import UsageError
from tracer.explore.guest import NAMES

if TYPE_CHECKING:
    from tracer.explore.run import Options
    from tracer.output import JsonFile

_EPILOG = """\b
Examples:
  eofrace explore                                    all strategies x all models, two writes
  eofrace explore --strategy none --model xfs-pre-5.5 -o found   the race itself; keeps the schedule
  eofrace explore --replay found/SCHEDULE.json       the same schedule again, bit by bit, as a story
  eofrace explore --strategy serialise --guest growth --guest neighbours --writes 3 --checkpoint c.jsonl
  eofrace explore --strategy serialise --guest 'sub@0 flush>1 full@1 flush' --crash
  eofrace explore --writes 6 --random 20000 --seed 7 too many schedules: some of them, with a bound

\b
Exit status: 0 every protecting strategy is confirmed, 1 one is unsafe or corrupt (or the replayed
schedule loses data), 2 wrong usage, 3 inconclusive: stopped early, or only random schedules."""


@click.command(epilog=_EPILOG)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice([name for name in STRATEGIES if name != AUTO]),
    help="Judge this strategy; may be repeated. The control `none` always runs.  [default: all]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(list(MODELS)),
    help="Simulated file system; may be repeated.  [default: all]",
)
@click.option("--writes", type=click.IntRange(1, 6), default=2, show_default=True, help="Writes of a guest by name.")
@click.option(
    "--guest",
    "guests",
    multiple=True,
    metavar="NAME|'WORD...'",
    help=f"{', '.join(NAMES)}; or requests such as 'sub@0 full@1 flush>1'; may be repeated.  [default: neighbours]",
)
@click.option(
    "--cluster-size",
    type=click.Choice(["2048", "4096", "8192", "16384"]),
    default="4096",
    show_default=True,
    help="Of the image, in bytes. Blocks of the simulated XFS have 4096.",
)
@click.option("--exhaustive", is_flag=True, help="Every schedule, one of each class of equivalent ones.  [default]")
@click.option("--random", "count", type=click.IntRange(1), metavar="N", help="N random schedules instead.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of --random.  [default: another one every time]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop each search after N schedules, and say so.")
@click.option("--crash", is_flag=True, help="Cut the power, too, wherever it matters: what was flushed must be there.")
@click.option("--late", is_flag=True, help="Zero-writes may be late: QEMU's coroutine may yield in is_zero_cow.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes of a large search.  [default: the cores]")
@click.option("--scheduler", metavar="ADDRESS", help="Spread large searches over a Dask cluster instead.")
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep what is done of large searches there, and go on from it.",
)
@click.option(
    "--replay",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Run one schedule again, bit by bit, and tell it as a story.",
)
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path), help="With --replay: its trace, as Parquet.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Keep a schedule for each counterexample."
)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no table: the exit status and files alone.")
def explore(
    strategies: Sequence[str],
    models: Sequence[str],
    writes: int,
    guests: Sequence[str],
    cluster_size: str,
    exhaustive: bool,
    count: int | None,
    seed: int | None,
    limit: int | None,
    crash: bool,
    late: bool,
    jobs: int | None,
    scheduler: str | None,
    checkpoint: Path | None,
    replay: Path | None,
    trace: Path | None,
    output: Path | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Try every schedule, not only those that happened.

    The driver runs unchanged on a simulated file, under a scheduler that decides what is left to chance elsewhere:
    when requests arrive, when system calls begin, take effect and complete, and when the driver is told. A schedule
    that loses data is made small, told as a story, and kept as a file that runs it again.
    """
    from tracer.output import JsonFile, check_writable, make_directory

    if exhaustive and count is not None:
        raise UsageError("--exhaustive or --random: use one of them")
    into = JsonFile(json_file)
    if replay is not None:
        sys.exit(_replay(replay, trace, into, quiet=quiet))
    if trace is not None:
        raise UsageError("--trace is for --replay: name a schedule")
    if output is not None:
        make_directory(output)
    if checkpoint is not None:
        check_writable(checkpoint)
    options = _options(strategies, models, guests, writes, int(cluster_size))
    sys.exit(
        _explore(
            dataclasses.replace(
                options,
                count=count,
                seed=secrets.randbelow(2**31) if seed is None else seed,
                limit=limit,
                crash=crash,
                late=late,
                jobs=jobs or options.jobs,
                scheduler=scheduler,
                checkpoint=checkpoint,
                output=output,
            ),
            into,
            quiet=quiet,
        )
    )


def _options(
    strategies: Sequence[str], models: Sequence[str], guests: Sequence[str], writes: int, cluster_size: int
) -> "Options":
    """What is searched. Raises UsageError for a guest that is none."""
    from tracer.explore.guest import chosen
    from tracer.explore.run import Options

    names = dict.fromkeys([CONTROL, *(strategies or [name for name in STRATEGIES if name != AUTO])])
    return Options(
        strategies=tuple(STRATEGIES[name] for name in names),
        models=tuple(MODELS[name] for name in dict.fromkeys(models or MODELS)),
        guests=tuple(chosen(text, writes, cluster_size) for text in dict.fromkeys(guests or ["neighbours"])),
    )


def _explore(options: "Options", into: "JsonFile", *, quiet: bool) -> int:
    from tracer import interrupts
    from tracer.explore.run import run
    from tracer.report.console import plain, status_line
    from tracer.report.explore_text import print_report

    with interrupts.collected() as arrived:
        with status_line("preparing", quiet=quiet) as show:
            report = run(options, lambda: bool(arrived), show)
        report.interrupted |= bool(arrived)
        if not quiet:
            print_report(report, plain(stderr=into.is_stdout))
        into.write(report.to_json())
    return 128 + arrived[0] if arrived else int(report.status)


def _replay(path: Path, trace_file: Path | None, into: "JsonFile", *, quiet: bool) -> int:
    from tracer.errors import Status
    from tracer.explore.replay import load, run_again, write_trace
    from tracer.explore.story import tell
    from tracer.output import check_writable
    from tracer.report.console import Console
    from tracer.report.escape import printable

    if trace_file is not None:
        check_writable(trace_file)
    saved = load(path)
    runs, schedule, same = run_again(saved)
    if not quiet:
        console = Console(stderr=into.is_stdout, highlight=False, soft_wrap=True, markup=False)
        console.print(f"{saved.strategy} x {saved.model}, {printable(saved.guest)}: {schedule.outcome.value}")
        for line in tell(runs, schedule.choices):
            console.print(line)
        for rule, (exposed, lost) in schedule.rules.items():
            console.print(f"{rule}: {exposed} pairs exposed, {lost} of them lost")
        console.print(f"the same, bit by bit: {'yes' if same else 'NO'} (sha256 {saved.digest})")
    if trace_file is not None:
        write_trace(trace_file, saved)
    result = {"schema": "eofrace.replay/1", "outcome": schedule.outcome.value, "same": same, "rules": schedule.rules}
    into.write(result)
    if not same:
        raise UsageError("the schedule ends otherwise here: it was made by another version of the driver or the model")
    return int(Status.OK if schedule.outcome.rank == 0 else Status.HAZARD)
