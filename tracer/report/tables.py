"""Tables that fit where they are shown: whole columns are left out, rather than words cut or lines folded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tracer.report.console import Console

Row = Sequence[str | Text]

NARROW = 80
"""Columns that every terminal is taken to have."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    title: str = ""
    """Its name over several lines; empty: as it is."""
    left: bool = False
    rank: int = 0
    """0: always shown. Of the others, those of the highest rank are the first to go."""


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Row], ends: Iterable[int] = ()) -> None:
    """Print rows, with a rule below those whose index is in `ends`; and which columns there was no room for."""
    shown, left_out = fitted(console, columns, rows)
    table = made([columns[at] for at in shown], [[row[at] for at in shown] for row in rows], frozenset(ends))
    before = console.width
    console.width = max(before, _wide(console, table))
    try:
        console.print(table)
    finally:
        console.width = before
    if left_out:
        told(console, Text(f"not shown for want of room: {', '.join(left_out)} (the JSON has all)", style="dim"))


def fitted(console: Console, columns: Sequence[Column], rows: Sequence[Row]) -> tuple[list[int], list[str]]:
    """Indices of the columns that there is room for, and names of the others."""
    room = room_of(console)
    shown = list(range(len(columns)))
    left_out: list[str] = []
    while room is not None:
        table = made([columns[at] for at in shown], [[row[at] for at in shown] for row in rows], frozenset())
        last = max(columns[at].rank for at in shown)
        if last == 0 or _wide(console, table) <= room:
            break
        left_out[:0] = [columns[at].name for at in shown if columns[at].rank == last]
        shown = [at for at in shown if columns[at].rank < last]
    return shown, left_out


def made(columns: Sequence[Column], rows: Sequence[Row], ends: frozenset[int]) -> Table:
    """The table as rich has it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        justify: JustifyMethod = "left" if column.left else "right"
        table.add_column(column.title or column.name, justify=justify, no_wrap=True, vertical="bottom")
    for number, row in enumerate(rows):
        table.add_row(*row, end_section=number in ends)
    return table


def room_of(console: Console) -> int | None:
    """Columns that a terminal has; None: as many as it takes, as in a pipe or a file."""
    # COLUMNS says nothing there: every program that was started by one with readline has it.
    return max(NARROW, console.width) if console.is_terminal else None


def told(console: Console, text: Text, *, margin: str = "") -> None:
    """Print a sentence: folded between words on a terminal; a line for each elsewhere, to search in.

    `margin` is before every line. Lines that follow an indented one are indented as it is.
    """
    if not console.is_terminal:
        console.print(Text(margin) + text, soft_wrap=True)
        return
    indent = len(text.plain) - len(text.plain.lstrip(" "))
    margin += " " * indent
    for line in text[indent:].wrap(console, max(NARROW, console.width) - len(margin)):
        line.rstrip()
        console.print(Text(margin) + line, soft_wrap=True)


def _wide(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=100_000), table).maximum
