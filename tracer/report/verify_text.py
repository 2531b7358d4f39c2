"""`verify` in the terminal: one table, a sentence for every verdict that is not `confirmed`, and what was missing."""

import os

from rich.text import Text

from tracer.analysis.hazards import Verdict
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.tables import told
from tracer.report.verify_table import print_cells
from tracer.verify.matrix import Report, cell_json


def print_report(report: Report, console: Console, *, verbose: bool) -> None:
    """Print the table, the sentences and the notes."""
    print_cells([cell_json(cell, report.kernel) for cell in report.cells], console)
    for cell in report.cells:
        verdict = cell.judgement.verdict
        if verdict is Verdict.CONFIRMED and not verbose:
            continue
        role = " (the control, expected)" if cell.is_control and verdict in (Verdict.UNSAFE, Verdict.CORRUPT) else ""
        line = Text(f"{cell.name}: ", style="bold")
        line.append(verdict.value, style=STYLES[verdict])
        line.append(f"{role}: {printable(cell.judgement.reason)}.", style="not bold")
        told(console, line)
    if verbose:
        _print_details(report, console)
    told(console, Text(_conditions(report)))
    for hook, why in report.gaps.items():
        told(console, Text(f"note: not attached: {hook}: {why}", style="yellow"))
    for note in dict.fromkeys((*report.notes, *(note for cell in report.cells for note in cell.notes))):
        told(console, Text(f"note: {printable(note)}", style="yellow"))
    overall = report.overall
    told(console, Text(f"verdict: {overall.verdict}", style=STYLES[overall.verdict]).append(f" ({overall.reason})"))


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
        told(console, Text(f"{cell.name}: " + "; ".join(parts)))
    for hook, mechanism in report.mechanisms.items():
        told(console, Text(f"hook {hook}: {mechanism}"))


def _thread(tid: int) -> str:
    return "main" if tid == os.getpid() else f"worker {tid}"
