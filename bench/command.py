"""`python -m bench blockstack`: blockstack against qemu-img bench."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from bench import CONFIDENCE
from tracer.bench.sides import QEMU, Images, check, run
from tracer.bench.statistics import estimate
from tracer.bench.workload import CLUSTER, KIB, MIB, Image, Workload, named
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.output import JsonFile
from tracer.report.console import plain
from tracer.report.tables import Column, print_table

SCHEMA = "eofrace.bench-blockstack/1"
_ROUNDS = 5
_OURS = "serialise"
"""The strategy that blockstack has unless somebody says otherwise, and QEMU has."""


def _rows() -> dict[str, tuple[Workload, float]]:
    known = named()
    # qemu-img bench knows no random offsets. A step that has no divisor in common with the number of blocks comes by
    # every block once, 96 MiB and a block from the one before.
    title = "4 KiB random reads (the same permutation of all blocks for both)"
    step, size = 96 * MIB + 4 * KIB, 256 * MIB
    random_read = Workload("random-read", title, 4 * KIB, step, image=Image.FILLED, reads=100, within=size)
    return {
        "allocate": (dataclasses.replace(known["sub-cluster"], count=8_000), 1.0),
        "overwrite": (dataclasses.replace(known["overwrite"], count=50_000), 0.5),
        "random-read": (dataclasses.replace(random_read, count=50_000), 0.5),
        "unaligned": (dataclasses.replace(known["straddling"], count=50_000), 1.0),
    }


ROWS = _rows()
"""Issue 4's rows: what is done, and the ratio to qemu-img bench that is wanted."""

_EPILOG = """\b
Examples:
  python -m bench blockstack                          all rows, on a scratch XFS; needs root
  python -m bench blockstack --row overwrite --row random-read --rounds 9
  python -m bench blockstack --part 0.1 --json -      a tenth of the requests; JSON on stdout

\b
Exit status: 0 every row is reached, 1 one is not, 4 this host cannot do it."""


@click.command(epilog=_EPILOG)
@click.option("--row", "names", multiple=True, type=click.Choice(list(ROWS)), help="[default: all]")
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
    into = JsonFile(json_file)
    chosen = {
        name: (dataclasses.replace(workload, count=max(workload.depth, int(workload.count * part))), at_least)
        for name, (workload, at_least) in ROWS.items()
        if not names or name in names
    }
    size = 1024 * MIB + 2 * max(workload.size for workload, _ in chosen.values())
    with loop_scratch("xfs", size, default_directory()) as scratch:
        results = [_row(scratch, name, *row, rounds, aio) for name, row in chosen.items()]
    into.write({"schema": SCHEMA, "aio": aio, "rows": results})
    if not into.is_stdout:
        _print(results)
    sys.exit(0 if all(result["reached"] for result in results) else 1)


def _row(scratch: Scratch, name: str, workload: Workload, at_least: float, rounds: int, aio: str) -> dict[str, Any]:
    images = Images(scratch.path, workload, CLUSTER)
    seconds: dict[str, list[float]] = {QEMU: [], _OURS: []}
    kept: dict[str, Path] = {}  # images full of data, which no run changes the shape of
    for number in range(rounds):
        for side in list(seconds)[:: 1 if number % 2 == 0 else -1]:
            path = kept.get(side) or images.make(f"{name}-{side.partition(' ')[0]}")
            seconds[side].append(run(side, path, workload, aio=aio, cluster_size=CLUSTER, seed=1)["seconds"])
            if side == _OURS:
                check(path)
            if workload.image is Image.FILLED:
                kept[side] = path
            else:
                path.unlink()
    for path in kept.values():
        path.unlink()
    found = estimate(seconds[QEMU], seconds[_OURS], CONFIDENCE)
    return {
        "row": name,
        "title": workload.title,
        "peer": QEMU,
        "requests": workload.count,
        "depth": workload.depth,
        "rounds": rounds,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "at_least": at_least,
        "reached": found.ratio >= at_least,
    }


def _print(results: list[dict[str, Any]]) -> None:
    heads = ("requests", "ratio to qemu-img bench", f"{CONFIDENCE:.0%} interval", "at least")
    columns = [Column("row", left=True), *map(Column, heads), Column("", left=True)]
    rows = [
        (
            one["title"],
            str(one["requests"]),
            f"{one['ratio']:.2f}",
            f"{one['low']:.2f} to {one['high']:.2f}",
            f"{one['at_least']:.1f}",
            "reached" if one["reached"] else "not reached",
        )
        for one in results
    ]
    print_table(plain(stderr=False), columns, rows)
