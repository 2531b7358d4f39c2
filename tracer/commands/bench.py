"""`eofrace bench`: what each strategy costs."""

import math
import secrets
import sys
from collections.abc import Sequence

import click

from blockstack.strategies import AUTO, STRATEGIES
from tracer.bench.workload import WORKLOADS, chosen

_DEFAULT = ("none", "no-alloc-space", "serialise")

_EPILOG = """\b
Examples:
  eofrace bench                                   three strategies, all workloads: a quarter of an hour
  eofrace bench --workload straddling --strategy no-alloc-space --strategy serialise
  eofrace bench --workload random --depth 1 --cluster-size 16384
  eofrace bench --workload sub-cluster --count 200 --delay 5      a slow disk
  eofrace bench --budget 120 --json cost.json     two minutes, and say what they are good for
  eofrace bench --block-size 4096 --count 2000 --depth 64 --read-mix 30   a workload of your own

\b
Exit status: 0 measured, 2 wrong usage, 3 the budget was spent before anything
could be concluded of some workload, 4 this host cannot do it."""


@click.command(epilog=_EPILOG)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice([name for name in STRATEGIES if name != AUTO]),
    help="Measure this one; may be repeated. Ratios are to the first.  [default: none, no-alloc-space, serialise]",
)
@click.option(
    "--workload", "names", multiple=True, type=click.Choice(WORKLOADS), help="[default: all, or one of yours]"
)
@click.option("--fs", type=click.Choice(["xfs", "ext4", "btrfs"]), default="xfs", show_default=True)
@click.option("--aio", type=click.Choice(["native", "threads", "io_uring"]), default="native", show_default=True)
@click.option(
    "--cluster-size",
    type=click.Choice(["4096", "8192", "16384", "32768", "65536", "131072", "262144", "2097152"]),
    default="65536",
    show_default=True,
    help="Of the images, in bytes.",
)
@click.option("--count", type=click.IntRange(1, 1_000_000), help="Requests in a run.  [default: 2000]")
@click.option("--depth", type=click.IntRange(1, 1024), help="Requests in flight.  [default: the workload's]")
@click.option(
    "--block-size", type=click.IntRange(512, 1 << 26), help="A workload of requests of this length, in bytes."
)
@click.option("--step", type=click.IntRange(512, 1 << 30), help="Bytes from one to the next.  [default: --block-size]")
@click.option("--offset", type=click.IntRange(0, 1 << 40), help="Of the first, in bytes.  [default: 0]")
@click.option("--read-mix", type=click.IntRange(0, 100), help="Reads among a hundred requests.  [default: 0]")
@click.option("--random", "shuffled", is_flag=True, help="In random order.")
@click.option(
    "--delay",
    "delay_ms",
    metavar="MS",
    type=click.IntRange(0, 1000),
    default=0,
    help="A slow disk: every read and write takes MS ms more, few at once. Needs nbdkit and FUSE.",
)
@click.option(
    "--budget", type=click.FloatRange(1, 1e6), default=900, show_default=True, help="Seconds for the timed rounds."
)
@click.option(
    "--precision",
    type=click.FloatRange(0.001, 10),
    default=0.1,
    show_default=True,
    help="Width of a ratio's interval, as a part of it, that is narrow enough to stop.",
)
@click.option("--seed", type=click.IntRange(0, 2**62), help="[default: another one every time]")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Latencies, too.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no tables: files and the exit status alone.")
def bench(
    strategies: Sequence[str],
    names: Sequence[str],
    fs: str,
    aio: str,
    cluster_size: str,
    count: int | None,
    depth: int | None,
    block_size: int | None,
    step: int | None,
    offset: int | None,
    read_mix: int | None,
    shuffled: bool,
    delay_ms: int,
    budget: float,
    precision: float,
    seed: int | None,
    json_file: str | None,
    verbose: bool,
    quiet: bool,
) -> None:
    """Measure what each strategy costs, beside `qemu-img bench`.

    Rounds, in each of which every side does every workload once on a fresh image, in random order, on a scratch file
    system. A ratio is the median of the rounds' ratios, with a bootstrap interval; rounds end when the intervals are
    narrow or the budget is spent. Nothing is concluded from an interval that contains 1, or from fewer than eight
    rounds. One more run of each, which is not timed, is watched by eBPF and says where the time goes.
    """
    from tracer.bench import run
    from tracer.bench.result import to_json
    from tracer.bench.rounds import Options
    from tracer.errors import UsageError
    from tracer.output import JsonFile
    from tracer.report.console import plain, status_line
    from tracer.report.cost.source import of
    from tracer.report.cost.text import print_cost

    if math.isnan(budget) or math.isnan(precision):
        raise UsageError("--budget and --precision are numbers: nan is none")
    workloads = chosen(
        names,
        int(cluster_size),
        count=count,
        depth=depth,
        block_size=block_size,
        step=step,
        offset=offset,
        read_mix=read_mix,
        shuffled=shuffled,
    )
    into = JsonFile(json_file)
    options = Options(
        workloads=workloads,
        strategies=tuple(dict.fromkeys(strategies)) or _DEFAULT,
        fs=fs,
        aio=aio,
        cluster_size=int(cluster_size),
        budget=budget,
        width=precision,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        delay_ms=delay_ms,
    )
    with status_line("preparing", quiet=quiet) as show:
        report = run.bench(options, show)
    result = to_json(report)
    if not quiet:
        print_cost(of(result), plain(stderr=into.is_stdout), verbose=verbose)
    into.write(result)
    sys.exit(report.status)
