"""`verify` in the terminal: one table, a sentence for every verdict that is not `confirmed`, and what was missing."""

import os
from collections.abc import Callable

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from tracer.analysis.hazards import Verdict
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.verify.cell import Cell
from tracer.verify.matrix import Report

WIDTH = 120
"""Columns that the table takes; a narrower terminal folds its lines."""

_ORDINARY = (
    ("strategy", 20),
    ("fallocate", 10),
    ("zero-\nwrites", 6),
    ("post-EOF\nfallocs", 8),
    ("con-\nflicts", 6),
    ("ex-\nposed", 6),
    ("kernel-\nserial.", 7),
    ("lost\nbytes", 10),
    ("drop-\nped", 5),
    ("wai-\nted", 6),
    ("smallest\ngap", 10),
    ("verdict", 12),
)
_HELD = (
    ("strategy", 20),
    ("fallocate", 10),
    ("case", 14),
    ("con-\nflicts", 6),
    ("ex-\nposed", 5),
    ("kernel-\nserial.", 7),
    ("lost\nwrites", 6),
    ("lost\nbytes", 8),
    ("drop-\nped", 5),
    ("wai-\nted", 5),
    ("held", 9),
    ("verdict", 12),
)
_FORMATS = (("format", 30), *_ORDINARY[1:6], *_ORDINARY[7:9], *_ORDINARY[10:])
"""Title and width of each column; of a run on a held disk what is small is in the zero-writes, and what matters in the
writes that were lost: of metadata no byte of the guest's is."""

_LEFT = ("strategy", "format", "fallocate", "case", "verdict")


def print_report(report: Report, console: Console, *, verbose: bool) -> None:
    """Print the table, the sentences and the notes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    columns, row = _columns(report)
    for title, width in columns:
        justify: JustifyMethod = "left" if title in _LEFT else "right"
        table.add_column(title, justify=justify, min_width=width, no_wrap=True, vertical="bottom")
    for cell, following in zip(report.cells, [*report.cells[1:], None], strict=True):
        end = following is None or (following.fallocate, following.case) != (cell.fallocate, cell.case)
        table.add_row(*row(cell), end_section=end)
    console.print(table)
    for cell in report.cells:
        verdict = cell.judgement.verdict
        if verdict is Verdict.CONFIRMED and not verbose:
            continue
        role = " (the control, expected)" if cell.is_control and verdict in (Verdict.UNSAFE, Verdict.CORRUPT) else ""
        line = Text(f"{cell.name}: ", style="bold")
        line.append(verdict.value, style=STYLES[verdict]).append(f"{role}: {cell.judgement.reason}.", style="not bold")
        console.print(line)
    if verbose:
        _print_details(report, console)
    console.print(Text(_conditions(report)))
    for hook, why in report.gaps.items():
        console.print(Text(f"note: not attached: {hook}: {why}", style="yellow"))
    for note in dict.fromkeys((*report.notes, *(note for cell in report.cells for note in cell.notes))):
        console.print(Text(f"note: {printable(note)}", style="yellow"))
    overall = report.overall
    console.print(Text(f"verdict: {overall.verdict}", style=STYLES[overall.verdict]).append(f" ({overall.reason})"))


def _columns(report: Report) -> tuple[tuple[tuple[str, int], ...], Callable[[Cell], list[str | Text]]]:
    """Of the table, and what fills a row."""
    if report.options.format != "qcow2":
        return _FORMATS, _format_row
    return (_HELD, _held_row) if report.options.held else (_ORDINARY, _row)


def _row(cell: Cell) -> list[str | Text]:
    counts = cell.counts
    return [
        cell.strategy,
        cell.fallocate,
        str(cell.zero_writes),
        str(cell.post_eof_fallocates),
        str(counts.conflicts),
        str(counts.exposed),
        str(counts.kernel_serialised),
        str(counts.lost_bytes),
        str(counts.dropped),
        str(cell.waits),
        _duration(cell.min_gap_ns),
        _verdict(cell),
    ]


def _format_row(cell: Cell) -> list[str | Text]:
    row = _row(cell)
    return [cell.subject, *row[1:6], *row[7:9], *row[10:]]


def _held_row(cell: Cell) -> list[str | Text]:
    counts = cell.counts
    return [
        cell.strategy,
        cell.fallocate,
        cell.case or "-",
        str(counts.conflicts),
        str(counts.exposed),
        str(counts.kernel_serialised),
        str(counts.lost),
        str(counts.lost_bytes),
        str(counts.dropped),
        str(cell.waits),
        "-" if cell.held_ms is None else f"{cell.held_ms:.1f} ms",
        _verdict(cell),
    ]


def _verdict(cell: Cell) -> Text:
    verdict = cell.judgement.verdict
    return Text(verdict.value, style=STYLES[verdict])


def _duration(nanoseconds: int | None) -> str:
    if nanoseconds is None:
        return "-"
    return f"{nanoseconds / 1000:.1f} us"


def _conditions(report: Report) -> str:
    """What the table rests on, in one paragraph: file system, engine, evidence, seed, and how to have it again."""
    first = report.cells[0]
    options = report.options
    how = f"evidence: {first.evidence}"
    if first.evidence == "driver":
        how += " (the driver's own clock: the kernel was not watched; `eofrace doctor` says what it takes)"
    if options.held:
        return (
            f"{first.fs} on a held disk, aio={first.aio}, kernel {report.kernel}; {how}; every schedule was chosen, and"
            " each conflict is one pair of a zero-write and a write behind it in one order"
        )
    what = "writes" if options.format == "qcow2" else f"requests to a disk that is {options.format}"
    return (
        f"{first.fs}, aio={first.aio}, kernel {report.kernel}; {how}; {options.writes} guest {what},"
        f" {options.depth} in flight, clusters of {options.cluster_size} bytes, seed {options.seed}"
        f" (again: --seed {options.seed})"
    )


def _print_details(report: Report, console: Console) -> None:
    for cell in report.cells:
        counts = cell.counts
        parts = [
            f"{cell.guest_writes} guest writes, {counts.lost} writes lost, {counts.lost_bytes_traced} bytes lost by"
            f" the trace, {counts.unfinished} unfinished, {counts.unaccounted} unaccounted for"
        ]
        if cell.qemu_img_check is not None:
            parts.append("qemu-img check: " + ", ".join(f"{n} {what}" for what, n in cell.qemu_img_check.items()))
        if cell.block_io_delay_ns is not None:
            waited = {tid: spent for tid, spent in cell.block_io_delay_ns.items() if spent}
            parts.append(
                "block I/O delay: "
                + (", ".join(f"{_thread(tid)} {spent / 1e6:.1f} ms" for tid, spent in waited.items()) or "none")
                + f" ({len(cell.block_io_delay_ns)} threads)"
            )
        parts += [f"{one.order}: {one.problem or one.course}" for one in cell.rounds]
        if cell.trace is not None:
            parts.append(f"trace: {printable(cell.trace)}")
        console.print(Text(f"{cell.name}: " + "; ".join(parts)))
    for hook, mechanism in report.mechanisms.items():
        console.print(Text(f"hook {hook}: {mechanism}"))


def _thread(tid: int) -> str:
    return "main" if tid == os.getpid() else f"worker {tid}"
