"""`explore` in the terminal: a row for each cell, a sentence for what was found, and a counterexample of each model."""

from rich import box
from rich.table import Table
from rich.text import Text

from tracer.analysis.hazards import Verdict
from tracer.explore.run import Cell, Report
from tracer.explore.shrink import switches
from tracer.explore.space import Runs
from tracer.explore.story import tell
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable

WIDTH = 120
"""Columns that the table takes."""

_COLUMNS = ("strategy", "model", "guest", "schedules", "states", "safe", "exposed", "lost", "deadlock", "verdict")


def print_report(report: Report, console: Console) -> None:
    """Print the table, the sentences and a story."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in _COLUMNS:
        justify = "left" if name in ("strategy", "model", "guest", "verdict") else "right"
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for cell in report.cells:
        table.add_row(*_row(cell))
    console.print(table)
    told: set[str] = set()
    for cell in report.cells:
        line = Text(f"{cell.name}: ", style="bold")
        role = " (the control, expected)" if cell.is_control and cell.verdict.rank > 1 else ""
        line.append(cell.verdict.value, style=STYLES[cell.verdict]).append(f"{role}: {cell.reason}.", style="not bold")
        if cell.verdict is not Verdict.CONFIRMED:
            console.print(line)
        for what, count in cell.found.disagreements.items():
            console.print(Text(f"finding: {cell.name}: {what}, in {count} schedules", style="yellow"))
        for loss in cell.crash_losses:
            console.print(Text(f"finding: {cell.name}: no power at step {loss.step}: {loss.what}", style="yellow"))
        if cell.counterexample is not None:
            console.print(Text(f"  kept: eofrace explore --replay {printable(cell.counterexample)}"))
        if cell.example is not None and cell.shrunk is not None and cell.space.model.name not in told:
            told.add(cell.space.model.name)
            count = switches(cell.example.choices)
            outcome = cell.example.outcome.value
            console.print(Text(f"\n{cell.name}, {cell.shrunk.guest}: {outcome}, with {count} switches:"))
            for step in tell(Runs(cell.shrunk), cell.example.choices):
                console.print(Text("  " + printable(step)))
            console.print()
    if report.interrupted:
        console.print(Text("stopped early: what is not complete is inconclusive", style="yellow"))


def _row(cell: Cell) -> list[str | Text]:
    found = cell.found
    more = "" if cell.bound is None and found.complete else "+"
    counts = [f"{found.outcomes[name]:,}" for name in ("safe", "exposed", "lost", "deadlock")]
    return [
        cell.space.strategy.name,
        cell.space.model.name,
        printable(str(cell.space.guest)) + (" (tight)" if cell.space.tight else ""),
        f"{found.tally.schedules:,}{more}",
        f"{found.tally.states:,}",
        *counts,
        Text(cell.verdict.value, style=STYLES[cell.verdict]),
    ]
