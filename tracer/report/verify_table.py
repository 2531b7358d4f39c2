"""The table of a run of `verify`, of the cells as they are in verify.json: a run that ends and one that was kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from tracer.analysis.hazards import Verdict
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import shortened
from tracer.report.tables import Column, Row, print_table

Cell = Mapping[str, Any]

_LONGEST = 60
"""Characters of a name in the table: as many as every row will take."""

_STRATEGY = Column("strategy", left=True)
_FORMAT = Column("format", left=True)
_FALLOCATE = Column("fallocate", left=True)
_CASE = Column("case", left=True)
_ZERO_WRITES = Column("zero-writes", "zero-\nwrites", rank=5)
_POST_EOF = Column("post-EOF fallocs", "post-EOF\nfallocs", rank=4)
_CONFLICTS = Column("conflicts", "con-\nflicts")
_EXPOSED = Column("exposed", "ex-\nposed")
_SERIALISED = Column("kernel-serialised", "kernel-\nserial.", rank=3)
_LOST = Column("lost writes", "lost\nwrites")
_BYTES = Column("lost bytes", "lost\nbytes")
_DROPPED = Column("dropped", "drop-\nped")
_WAITED = Column("waited", "wai-\nted", rank=2)
_GAP = Column("smallest gap", "smallest\ngap", rank=6)
_HELD = Column("held", rank=6)
_VERDICT = Column("verdict", left=True)

_ORDINARY = (
    _STRATEGY,
    _FALLOCATE,
    _ZERO_WRITES,
    _POST_EOF,
    _CONFLICTS,
    _EXPOSED,
    _SERIALISED,
    _BYTES,
    _DROPPED,
    _WAITED,
    _GAP,
    _VERDICT,
)
_ON_HELD = (
    _STRATEGY,
    _FALLOCATE,
    _CASE,
    _CONFLICTS,
    _EXPOSED,
    _SERIALISED,
    _LOST,
    _BYTES,
    _DROPPED,
    _WAITED,
    _HELD,
    _VERDICT,
)
"""Of a run on a held disk what is small is in the zero-writes, and what matters in the writes that were lost: of
metadata no byte of the guest's is."""

_FORMATS = (
    _FORMAT,
    _FALLOCATE,
    _ZERO_WRITES,
    _POST_EOF,
    _CONFLICTS,
    _EXPOSED,
    _BYTES,
    _DROPPED,
    _GAP,
    _VERDICT,
)


def print_cells(cells: Sequence[Cell], console: Console) -> None:
    """Print the table, a rule below each column of the matrix."""
    columns = columns_of(cells)
    groups = [(cell["fallocate"], cell.get("case")) for cell in cells]
    ends = [at for at, group in enumerate(groups) if groups[at + 1 : at + 2] != [group]]
    print_table(console, columns, [row(cell, columns) for cell in cells], ends)


def columns_of(cells: Sequence[Cell]) -> tuple[Column, ...]:
    """Those that suit the kind of the run."""
    if any(cell.get("format", "qcow2") != "qcow2" for cell in cells):
        return _FORMATS
    return _ON_HELD if any(cell.get("case") for cell in cells) else _ORDINARY


def row(cell: Cell, columns: Sequence[Column]) -> Row:
    """What stands in these columns for a cell."""
    return [_shown(cell, column) for column in columns]


def _shown(cell: Cell, column: Column) -> str | Text:
    if column is _VERDICT:
        verdict = Verdict(cell["verdict"])
        return Text(verdict.value, style=STYLES[verdict])
    # Text: what looks like rich's markup in a name is none.
    return Text(_text(cell, column))


def _text(cell: Cell, column: Column) -> str:
    if column is _FORMAT:
        return shortened(subject(cell), _LONGEST)
    if column is _GAP:
        return duration(cell.get("min_gap_ns"))
    if column is _HELD:
        held = cell.get("held_ms")
        return f"{held:.1f} ms" if isinstance(held, int | float) and abs(held) < 1e12 else "-"
    value = cell.get(_FIELDS[column.name])
    return "-" if value is None else shortened(str(value), _LONGEST)


_FIELDS = {
    "strategy": "strategy",
    "fallocate": "fallocate",
    "case": "case",
    "zero-writes": "zero_writes",
    "post-EOF fallocs": "post_eof_fallocates",
    "conflicts": "conflicts",
    "exposed": "exposed",
    "kernel-serialised": "kernel_serialised",
    "lost writes": "lost",
    "lost bytes": "lost_bytes",
    "dropped": "lost_events",
    "waited": "waits",
}
"""Name of a column -> field of the cell."""


def subject(cell: Cell) -> str:
    """What is judged, where that is another format than qcow2; as `tracer.verify.cell.Cell.subject`."""
    words = [str(cell.get("format"))]
    words[0] += f": {cell['case']}" if cell.get("case") else ""
    words += [str(cell["variant"])] if cell.get("variant") else []
    words += [str(cell["strategy"])] if cell["strategy"] != "none" else []
    return ", ".join(words)


def duration(nanoseconds: float | None) -> str:
    """A time between operations, for people."""
    return "-" if nanoseconds is None else f"{nanoseconds / 1000:.1f} us"
