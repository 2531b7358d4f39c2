"""The tables in a terminal of 80 columns: one for each workload, and where the time went."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from tracer.bench.statistics import Conclusion
from tracer.output import write_text
from tracer.report.console import Console
from tracer.report.cost.source import TOO_FEW, Cost, Measured, Side
from tracer.report.escape import printable
from tracer.report.tables import Column, print_table, told

_STYLES = {Conclusion.FASTER: "green", Conclusion.SLOWER: "magenta", TOO_FEW: "yellow"}

FIGURES: tuple[tuple[str, str, float, int, int], ...] = (
    ("fallocates", "fallo-\ncates", 1, 0, 0),
    ("fallocate_ns", "ms in\nthem", 1e-6, 0, 0),
    ("fallocates_together", "at\nonce", 1, 1, 0),
    ("asleep_ns/inode_dio_wait", "ms in\ndio_wait", 1e-6, 0, 1),
    ("asleep_ns/lock", "ms for\nthe lock", 1e-6, 0, 1),
    ("waited", "wai-\nted", 1, 0, 0),
    ("waited_ns", "ms\nwaited", 1e-6, 0, 0),
    ("block_io_delay_ns", "ms I/O\ndelay", 1e-6, 0, 2),
    ("written_bytes", "MiB\nwritten", 2**-20, 1, 0),
    ("device_bytes", "MiB to\ndevice", 2**-20, 1, 0),
    ("device_writes", "writes to\ndevice", 1, 0, 2),
    ("extents", "ex-\ntents", 1, 0, 0),
)
"""Of watched runs: path in the JSON, head of the column, unit of the column to that of the JSON, digits, and rank of
the column (tracer/report/tables.py). Of what the JSON has for each thread it is the sum.
"""

FIGURE_HEADS = [title.replace("-\n", "").replace("\n", " ") for _, title, _, _, _ in FIGURES]
"""Heads on one line."""

TIMES = ("side", "seconds", "CPU", "ratio", "interval")


def write(cost: Cost, target: str) -> None:
    """Write the tables. Raises like `tracer.output.write_text`."""
    file = io.StringIO()
    print_cost(cost, Console(file=file, highlight=False, soft_wrap=True, markup=False), verbose=True)
    write_text(target, file.getvalue())


def print_cost(cost: Cost, console: Console, *, verbose: bool) -> None:
    """Print the tables, the figures and the notes."""
    for measured in cost.measured:
        told(console, Text(printable(f"{measured.name}: {measured.title}"), style="bold"))
        told(console, Text(measured.rounds))
        columns = [Column(name, left=not at) for at, name in enumerate(TIMES)]
        _print(console, [*columns, Column(f"than {printable(cost.baseline)}", left=True)], map(_times, measured.sides))
        if verbose:
            _print_latencies(measured, console)
        if any(side.figures for side in measured.sides):
            columns = [Column("where it goes", title="where it goes\n(watched runs)", left=True)]
            heads = zip(FIGURES, FIGURE_HEADS, strict=True)
            columns += [Column(head, title=title, rank=rank) for (_, title, _, _, rank), head in heads]
            _print(console, columns, ([printable(side.name), *figures(side)] for side in measured.sides))
    told(console, Text(printable(cost.conditions)))
    for note in cost.notes:
        told(console, Text(f"note: {printable(note)}", style="yellow"))


def _print(console: Console, columns: Sequence[Column], rows: Any) -> None:
    print_table(console, columns, list(rows))


def times(side: Side) -> list[str]:
    """The columns of `TIMES`."""
    cpu = "-" if side.cpu is None else f"{side.cpu:.2f}"
    found = side.ratio
    ratio = ["1", ""] if found is None else [f"{found.ratio:.2f}", f"{found.low:.2f} to {found.high:.2f}"]
    return [printable(side.name), f"{side.seconds:.2f}", cpu, *ratio]


def _times(side: Side) -> list[str | Text]:
    return [*times(side), Text(side.conclusion, style=_STYLES.get(side.conclusion, ""))]


def latencies(measured: Measured) -> list[list[str]]:
    """Side, class of requests, and p50, p99, p99.9 in ms."""
    return [
        [printable(side.name), printable(name), *(f"{points[one] / 1000:.2f}" for one in ("p50", "p99", "p99.9"))]
        for side in measured.sides
        for name, points in side.latency_us.items()
    ]


def _print_latencies(measured: Measured, console: Console) -> None:
    columns = [Column("latency, ms", left=True), Column("request", left=True)]
    rows = latencies(measured)
    if rows:
        _print(console, [*columns, *map(Column, ("p50", "p99", "p99.9"))], rows)


def figures(side: Side) -> list[str]:
    """The columns of `FIGURES`; "-": it could not be had."""
    return [_number(side.figures, path, scale, digits) for path, _, scale, digits, _ in FIGURES]


def _number(found: Any, path: str, scale: float, digits: int) -> str:
    for name in path.split("/"):
        found = None if found is None else found.get(name)
    value = sum(found.values()) if isinstance(found, Mapping) else found
    return "-" if value is None else f"{value * scale:.{digits}f}"
