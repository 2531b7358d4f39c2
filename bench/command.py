"""`python -m bench blockstack`: blockstack against qemu-img bench."""

import json
import sys
from typing import Any

import click
from rich.table import Table

from bench import measure
from bench.ratio import Ratio, ratio
from bench.workload import MIB, WORKLOADS, Workload
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.output import STDOUT, check_writable, write_text
from tracer.report.console import wide

SCHEMA = "eofrace.bench-blockstack/1"
_ROUNDS = 5

_EPILOG = """\b
Examples:
  python -m bench blockstack                          all rows, on a scratch XFS; needs root
  python -m bench blockstack --row overwrite --row random-read --rounds 9
  python -m bench blockstack --part 0.1 --json -      a tenth of the requests; JSON on stdout

\b
Exit status: 0 every row is reached, 1 one is not, 4 this host cannot do it."""


@click.command(epilog=_EPILOG)
@click.option(
    "--row", "names", multiple=True, type=click.Choice([row.name for row in WORKLOADS]), help="[default: all]"
)
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=_ROUNDS, show_default=True, help="Of both, interleaved."
)
@click.option("--part", type=click.FloatRange(0.001, 1), default=1.0, help="Do only this part of the requests.")
@click.option("--aio", type=click.Choice(["native", "threads", "io_uring"]), default="native", show_default=True)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
def blockstack(names: tuple[str, ...], rounds: int, part: float, aio: str, json_file: str | None) -> None:
    """Ratios of blockstack to `qemu-img bench`: cache none, the same requests on images made alike.

    A ratio of 1 is as fast as qemu-img bench, 2 twice as fast; the interval is a 90 % bootstrap over the rounds.
    """
    if json_file is not None:
        check_writable(json_file)
    rows = [workload.scaled(part) for workload in WORKLOADS if not names or workload.name in names]
    size = 1024 * MIB + 2 * max(workload.size for workload in rows)
    with loop_scratch("xfs", size, default_directory()) as scratch:
        results = [_row(scratch, workload, rounds, aio) for workload in rows]
    if json_file is not None:
        write_text(json_file, json.dumps({"schema": SCHEMA, "aio": aio, "rows": results}, indent=2) + "\n")
    if json_file != STDOUT:
        _print(results)
    sys.exit(0 if all(result["reached"] for result in results) else 1)


def _row(scratch: Scratch, workload: Workload, rounds: int, aio: str) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    sides = [("peer", measure.peer), ("ours", measure.ours)]
    for number in range(rounds):
        for side, run in sides if number % 2 == 0 else sides[::-1]:
            path = scratch.path / f"{workload.name}-{side}.qcow2"
            if not (workload.filled and path.exists()):
                measure.prepare(path, workload)
            seconds[side].append(run(path, workload, aio))
            if side == "ours":
                measure.check(path)
            if not workload.filled:
                path.unlink()
    for side, _ in sides:
        (scratch.path / f"{workload.name}-{side}.qcow2").unlink(missing_ok=True)
    found = ratio(seconds["ours"], seconds["peer"])
    return {
        "row": workload.name,
        "title": workload.title,
        "peer": "qemu-img bench",
        "requests": workload.count,
        "depth": workload.depth,
        "rounds": rounds,
        "ratio": found.median,
        "low": found.low,
        "high": found.high,
        "at_least": workload.at_least,
        "reached": found.median >= workload.at_least,
    }


def _print(results: list[dict[str, Any]]) -> None:
    table = Table("row", "requests", "ratio to qemu-img bench", "90 % interval", "at least", "")
    for result in results:
        found = Ratio(result["ratio"], result["low"], result["high"])
        table.add_row(
            result["title"],
            str(result["requests"]),
            f"{found.median:.2f}",
            f"{found.low:.2f} to {found.high:.2f}",
            f"{result['at_least']:.1f}",
            "reached" if result["reached"] else "not reached",
        )
    wide(130, stderr=False).print(table)
