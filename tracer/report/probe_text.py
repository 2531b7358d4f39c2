"""`probe` in the terminal: a row for each mode of each file system, and below it the evidence in words."""

from rich import box
from rich.table import Table
from rich.text import Text

from tracer.probe.judge import Verdict
from tracer.probe.result import Report, Result
from tracer.report.console import Console
from tracer.report.escape import printable

WIDTH = 110
"""Columns that the table takes."""

_STYLES = {
    Verdict.SAFE: "green",
    Verdict.RACY: "bold red",
    Verdict.UNSUPPORTED: "dim",
    Verdict.INCONCLUSIVE: "yellow",
}

_COLUMNS = (
    "file system",
    "fallocate",
    "verdict",
    "tries",
    "held ms",
    "size expected",
    "size found",
    "fallocate waited in",
)


def print_report(report: Report, kernel: str, console: Console, *, verbose: bool) -> None:
    """Print the table, then a sentence for each mode; with `verbose` the order of events and the stacks, too."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, title in enumerate(_COLUMNS):
        table.add_column(title, justify="right" if 3 <= index <= 6 else "left", no_wrap=True)
    for number, result in enumerate(report.results):
        following = report.results[number + 1 :]
        table.add_row(*_row(result), end_section=bool(following) and following[0].fs != result.fs)
    console.print(table)
    for result in report.results:
        line = Text(f"{result.fs} {result.mode}: ", style="bold")
        line.append(result.verdict.value, style=_STYLES[result.verdict])
        console.print(line.append(f": {printable(result.judgement.evidence)}.", style="not bold"))
        if verbose:
            _print_details(result, console)
    console.print(Text(f"kernel {kernel}; {_source(report)}"))
    for note in report.notes:
        console.print(Text(f"note: {printable(note)}", style="yellow"))


def _row(result: Result) -> list[str | Text]:
    seen = result.shown
    held = (seen.t_released - seen.t_held) / 1e6 if seen is not None and seen.held and seen.t_released else None
    where = "-"
    if seen is not None and (seen.fallocate is not None or seen.returned):
        where = seen.fallocate.where if seen.fallocate is not None else "(did not wait)"
    return [
        result.fs,
        result.mode,
        Text(result.verdict.value, style=_STYLES[result.verdict]),
        str(result.tries),
        f"{held:.0f}" if held is not None else "-",
        _number(result.size_expected),
        _number(result.size_found),
        where,
    ]


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _source(report: Report) -> str:
    sources = {result.shown.source for result in report.results if result.shown is not None}
    if "kernel" in sources:
        return "order of events by eBPF" + (", in part by our own clock" if "driver" in sources else "")
    return "order of events by our own clock"


def _print_details(result: Result, console: Console) -> None:
    seen = result.shown
    if seen is None:
        return
    start = seen.events[0].t if seen.events else 0
    for event in seen.events:
        size = "" if event.size is None else f", i_size {event.size}"
        console.print(Text(f"    {(event.t - start) / 1000:12.1f} us  {event.what}{size}"))
    for name, waiting in (("write", seen.writer if seen.in_submit else None), ("fallocate", seen.fallocate)):
        if waiting is not None:
            console.print(Text(f"    {name} in: {' < '.join(waiting.stack)}"))
