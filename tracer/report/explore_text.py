"""`explore` in the terminal: a row for each cell, a sentence for what was found, and a counterexample of each model."""

from rich.text import Text

from tracer.analysis.hazards import Verdict
from tracer.explore.run import Cell, Report
from tracer.explore.shrink import switches
from tracer.explore.space import Runs
from tracer.explore.story import tell
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.tables import Column, Row, print_table, told

_COLUMNS = (
    Column("strategy", left=True),
    Column("model", left=True),
    Column("guest", left=True),
    Column("schedules", "sche-\ndules"),
    Column("states", rank=4),
    Column("safe", rank=3),
    Column("exposed", "ex-\nposed", rank=2),
    Column("lost"),
    Column("deadlock", "dead-\nlock", rank=1),
    Column("verdict", left=True),
)


def print_report(report: Report, console: Console) -> None:
    """Print the table, the sentences and a story."""
    print_table(console, _COLUMNS, [_row(cell) for cell in report.cells])
    models: set[str] = set()
    for cell in report.cells:
        line = Text(f"{cell.name}: ", style="bold")
        role = " (the control, expected)" if cell.is_control and cell.verdict.rank > 1 else ""
        line.append(cell.verdict.value, style=STYLES[cell.verdict]).append(f"{role}: {cell.reason}.", style="not bold")
        if cell.verdict is not Verdict.CONFIRMED:
            told(console, line)
        for what, count in cell.found.disagreements.items():
            told(console, Text(f"finding: {cell.name}: {what}, in {count} schedules", style="yellow"))
        for loss in cell.crash_losses:
            told(console, Text(f"finding: {cell.name}: no power at step {loss.step}: {loss.what}", style="yellow"))
        if cell.counterexample is not None:
            told(console, Text(f"  kept: eofrace explore --replay {printable(cell.counterexample)}"))
        if cell.example is not None and cell.shrunk is not None and cell.space.model.name not in models:
            models.add(cell.space.model.name)
            count = switches(cell.example.choices)
            outcome = cell.example.outcome.value
            told(console, Text(f"\n{cell.name}, {cell.shrunk.guest}: {outcome}, with {count} switches:"))
            for step in tell(Runs(cell.shrunk), cell.example.choices):
                told(console, Text("  " + printable(step)))
            console.line()
    if report.interrupted:
        told(console, Text("stopped early: what is not complete is inconclusive", style="yellow"))


def _row(cell: Cell) -> Row:
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
