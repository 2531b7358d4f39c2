"""`verify` while it runs: on a terminal a table that grows a row a cell, elsewhere a line for each that has ended."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.text import Text

from tracer.analysis.hazards import Verdict
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import shortened
from tracer.report.tables import Column, Row, fitted, made

_COLUMNS = (
    Column("cell", left=True),
    Column("done"),
    Column("conflicts", "con-\nflicts", rank=2),
    Column("exposed", "ex-\nposed", rank=1),
    Column("lost bytes", "lost\nbytes", rank=1),
    Column("verdict", left=True),
)
_BAR = 12
_BESIDE = 6
"""Lines of a terminal that are no cells."""


class Told(Protocol):
    """Is told how the run goes."""

    def started(self, strategy: str, fallocate: str, number: int, total: int) -> None:
        """Cell `number` of `total` begins."""

    def acknowledged(self) -> None:
        """One more step of the cell is done."""

    def finished(self, name: str, cell: Mapping[str, Any]) -> None:
        """A cell has ended; it is as verify.json has it."""


@dataclass(slots=True)
class Lines:
    """A line for each cell that has ended, on stderr."""

    verbose: bool = False

    def started(self, strategy: str, fallocate: str, number: int, total: int) -> None:
        """See `Told`."""
        if self.verbose:
            print(f"[{number}/{total}] {strategy} x {fallocate}", file=sys.stderr, flush=True)

    def acknowledged(self) -> None:
        """See `Told`."""

    def finished(self, name: str, cell: Mapping[str, Any]) -> None:
        """See `Told`."""
        print(f"{shortened(name, 200)}: {cell['verdict']}", file=sys.stderr, flush=True)


class Silence:
    """Nothing at all."""

    def started(self, strategy: str, fallocate: str, number: int, total: int) -> None:
        """See `Told`."""

    def acknowledged(self) -> None:
        """See `Told`."""

    def finished(self, name: str, cell: Mapping[str, Any]) -> None:
        """See `Told`."""


class LiveTable:
    """The cells so far, and how far the one is that runs. It is drawn four times a second, by a thread of rich."""

    def __init__(self, console: Console, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`steps` of a cell make it complete."""
        self._console = console
        self._steps = steps
        self._clock = clock
        self._begun = clock()
        self._rows: list[Row] = []
        self._running = ""
        self._number = self._total = self._done = 0

    def started(self, strategy: str, fallocate: str, number: int, total: int) -> None:
        """See `Told`."""
        self._number, self._total, self._done = number, total, 0
        self._running = f"{strategy} x {fallocate}"

    def acknowledged(self) -> None:
        """See `Told`."""
        self._done += 1

    def finished(self, name: str, cell: Mapping[str, Any]) -> None:
        """See `Told`."""
        verdict = Verdict(cell["verdict"])
        figures = [str(cell[field]) for field in ("conflicts", "exposed", "lost_bytes")]
        word = Text(verdict.value, style=STYLES[verdict])
        self._rows.append([Text(shortened(name, 50)), "100 %", *figures, word])
        self._running = ""

    def __rich__(self) -> Group:
        """The table as it is now: as many of the last cells as the terminal has lines for."""
        rows = list(self._rows)
        if self._running:
            part = min(self._done / self._steps, 1.0) if self._steps else 0.0
            bar = "#" * round(part * _BAR)
            rows.append(
                [Text(shortened(self._running, 50)), f"{100 * part:.0f} %", "", "", "", Text(f"{bar:.<{_BAR}}")]
            )
        hidden = max(0, len(rows) - max(1, self._console.height - _BESIDE))
        shown, _ = fitted(self._console, _COLUMNS, rows)
        table = made([_COLUMNS[at] for at in shown], [[row[at] for at in shown] for row in rows[hidden:]], frozenset())
        seconds = int(self._clock() - self._begun)
        foot = f"cell {self._number} of {self._total}" if self._total else "preparing"
        above = f", {hidden} above" if hidden else ""
        return Group(table, Text(f"{foot}{above}, {seconds // 60}:{seconds % 60:02}"))


@contextlib.contextmanager
def shown(steps: int, *, quiet: bool, verbose: bool) -> Iterator[Told]:
    """What suits standard error, until the block ends; a table is gone then: the report comes in its place."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield Silence()
    elif console.is_terminal and not console.is_dumb_terminal:
        table = LiveTable(console, steps)
        with Live(get_renderable=table.__rich__, console=console, refresh_per_second=4, transient=True):
            yield table
    else:
        yield Lines(verbose)
