"""`eofrace trace`, for people: what happened, to which files, and what of it is dangerous."""

import os

from rich.text import Text

from tracer.capture.result import Captured
from tracer.report.colours import STYLES
from tracer.report.console import Console, plain
from tracer.report.escape import printable
from tracer.report.hazard_text import print_hazards
from tracer.report.tables import Column, Row, print_table, told

BUSIEST = 10


def print_captured(captured: Captured, *, stderr: bool) -> None:
    """Print the summary."""
    console = plain(stderr=stderr)
    totals = captured.totals
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(totals.kinds.items(), key=lambda item: -item[1]))
    rate = totals.operations / captured.seconds if captured.seconds else 0.0
    told(
        console,
        Text(f"{totals.operations:,} operations in {captured.seconds:.1f} s ({rate:,.0f}/s): {kinds or 'none'}"),
    )
    if captured.exit_status is not None:
        told(console, Text(f"the command ended with {command_end(captured.exit_status)}"))
    elif captured.ended_by:
        told(console, Text(f"recording ended: {captured.ended_by}"))
    if totals.failed:
        told(console, Text(f"{totals.failed:,} of them failed"))
    lost = ", ".join(f"{count:,} {reason}" for reason, count in totals.dropped.items() if count)
    if lost:
        told(console, Text(f"lost in the kernel: {lost}", style="bold yellow"))
    if totals.begun_before:
        told(console, Text(f"{totals.begun_before:,} in flight when recording began", style="yellow"))
    if totals.unfinished:
        told(console, Text(f"{totals.unfinished:,} in flight at the end", style="yellow"))
    if totals.files:
        _print_files(captured, console)
    if captured.analysis is not None:
        print_hazards(captured.analysis.hazards, console)
    for what, why in captured.gaps.items():
        told(console, Text(f"note: not seen: {printable(f'{what}: {why}')}"))
    for note in captured.notes:
        told(console, Text(f"note: {printable(note)}"))
    if captured.trace is not None:
        told(console, Text(f"trace: {printable(str(captured.trace))}"))
    if captured.analysis is not None:
        verdict = captured.analysis.verdict
        told(console, Text.assemble("verdict: ", (verdict.value, STYLES[verdict]), f" ({_why(captured)})"))


def command_end(status: int) -> str:
    """How a command ended, of its status, or minus the signal."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _shown(captured: Captured, file: tuple[int, int]) -> str:
    path = captured.paths.get(file)
    shown = printable(path) if path else f"inode {file[1]} of device {os.major(file[0])}:{os.minor(file[0])}"
    earlier = captured.earlier.get(file)
    return f"{shown} (and before, by the same number: {printable(', '.join(earlier))})" if earlier else shown


def _print_files(captured: Captured, console: Console) -> None:
    """The table; a path is the last column, and never broken."""
    busiest = captured.busiest()
    rows: list[Row] = [
        [f"{count.operations:,}", f"{count.bytes:,} B", Text(_shown(captured, file))]
        for file, count in busiest[:BUSIEST]
    ]
    rest = busiest[BUSIEST:]
    if rest or captured.totals.evicted:
        operations = sum(count.operations for _, count in rest) + captured.totals.others.operations
        files = f"in {len(rest) + captured.totals.evicted:,} other files"
        rows.append([f"{operations:,}", "", f"{files} or fewer" if captured.totals.evicted else files])
    print_table(console, (Column("operations"), Column("written"), Column("file", left=True)), rows)


def _why(captured: Captured) -> str:
    assert captured.analysis is not None
    pairs = {rule: count for rule, count in captured.analysis.counts.items() if count.exposed}
    if pairs:
        return "; ".join(
            f"{rule}: {count.exposed:,} pairs exposed, {count.kernel_serialised:,} of them ordered by the kernel, "
            f"{count.lost:,} lost"
            for rule, count in pairs.items()
        )
    return "; ".join(captured.analysis.doubts) or "no rule found anything, and nothing that it needs is missing"
