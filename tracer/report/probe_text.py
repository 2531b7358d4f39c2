"""`probe` in the terminal: a row for each mode of each file system, and below it the evidence in words."""

from rich.text import Text

from tracer.probe.judge import Verdict
from tracer.probe.result import Report, Result
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.tables import Column, Row, print_table, told

_STYLES = {
    Verdict.SAFE: "green",
    Verdict.RACY: "bold red",
    Verdict.UNSUPPORTED: "dim",
    Verdict.INCONCLUSIVE: "yellow",
}

_COLUMNS = (
    Column("file system", "file\nsystem", left=True),
    Column("fallocate", left=True),
    Column("verdict", left=True),
    Column("tries", rank=2),
    Column("held ms", "held\nms", rank=3),
    Column("size expected", "size\nexpected", rank=1),
    Column("size found", "size\nfound", rank=1),
    Column("fallocate waited in", "fallocate\nwaited in", left=True),
)


def print_report(report: Report, kernel: str, console: Console, *, verbose: bool) -> None:
    """Print the table, then a sentence for each mode; with `verbose` the order of events and the stacks, too."""
    systems = [result.fs for result in report.results]
    ends = [at for at, fs in enumerate(systems) if systems[at + 1 : at + 2] not in ([], [fs])]
    print_table(console, _COLUMNS, [_row(result) for result in report.results], ends)
    for result in report.results:
        line = Text(f"{result.fs} {result.mode}: ", style="bold")
        line.append(result.verdict.value, style=_STYLES[result.verdict])
        told(console, line.append(f": {printable(result.judgement.evidence)}.", style="not bold"))
        if verbose:
            _print_details(result, console)
    told(console, Text(f"kernel {kernel}; {_source(report)}"))
    for note in report.notes:
        told(console, Text(f"note: {printable(note)}", style="yellow"))


def _row(result: Result) -> Row:
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
        told(console, Text(f"    {(event.t - start) / 1000:12.1f} us  {event.what}{size}"))
    for name, waiting in (("write", seen.writer if seen.in_submit else None), ("fallocate", seen.fallocate)):
        if waiting is not None:
            told(console, Text(f"    {name} in: {' < '.join(waiting.stack)}"))
