"""`campaign` in the terminal, at 80 columns: how far a run is and what it has shown; what got worse since another."""

import textwrap

from rich.text import Text

from tracer.bench.statistics import CONFIDENCE, ROUNDS, Conclusion
from tracer.campaign import rows
from tracer.campaign.compare import Changed, Comparison
from tracer.campaign.status import UNFINISHED, VERDICTS, Summary
from tracer.errors import Status
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.tables import Column, print_table

WIDTH = 80

_MOST = 20
"""Cells of a kind that are named; --json has them all."""

_COLUMNS = (*VERDICTS.values(), rows.ERROR, UNFINISHED)
_STYLES = {"hazard": "red", "inconclusive": "yellow", rows.ERROR: "yellow", UNFINISHED: "yellow"}
_CONCLUSIONS = {Conclusion.FASTER: "green", Conclusion.SLOWER: "red", Conclusion.OPEN: ""}


def print_status(summary: Summary, console: Console) -> None:
    """A row for each command, and the cells that are not fine."""
    grid: list[list[str | Text]] = []
    for command, count in summary.counts.items():
        counted = [Text(str(count[name]), style=_STYLES.get(name, "") if count[name] else "") for name in _COLUMNS]
        grid.append([command, str(count.total()), *counted])
    print_table(console, [Column("command", left=True), *map(Column, ("cells", *_COLUMNS))], grid)
    for one in summary.noted[:_MOST]:
        _print(console, f"{one.what}: {one.name}: {one.reason}", _STYLES[one.what])
    _more(console, len(summary.noted))
    going = ", running now" if summary.running else ""
    _print(
        console,
        f"{summary.campaign}, run {summary.run}: {summary.finished} of {summary.cells} cells finished{going}; begun"
        f" {summary.started} with eofrace {summary.version} on Linux {summary.host_kernel}",
    )
    if summary.others:
        _print(console, f"other runs: {', '.join(summary.others[-10:])}")
    if summary.finished < summary.cells and not summary.running:
        _print(console, "the same command again does what is left, and nothing twice")


def print_comparison(found: Comparison, console: Console) -> None:
    """Verdicts that changed, a table of ratios, what one side lacks, and a sentence."""
    for one in sorted(found.verdicts, key=lambda one: not one.worse)[:_MOST]:
        word, style = ("WORSE", "red") if one.worse else ("better", "green")
        _print(console, f"{word}: {one.name}: {one.old}, now {one.new}: {one.reason}", style)
    _more(console, len(found.verdicts))
    for change in sorted(found.ratios, key=lambda one: _ORDER.index(one.conclusion))[:_MOST]:
        _print_ratio(change, console)
    _more(console, len(found.ratios))
    for cells, which, style in ((found.only_old, "NEW", "yellow"), (found.only_new, "OLD", "")):
        for name in cells[:_MOST]:
            _print(console, f"not in {which}: {name}", style)
        _more(console, len(cells))
    for name in found.unsure[:_MOST]:
        _print(console, f"not known: {name}", "yellow")
    _more(console, len(found.unsure))
    _print(console, f"old: {found.old}")
    _print(console, f"new: {found.new}")
    if found.ratios:
        _print(
            console,
            f"{len(found.ratios)} ratios compared, each with a {CONFIDENCE:.0%} interval; of those that have not"
            " changed, two to four in a hundred are said to have",
        )
    slower = f"{found.worse} got worse" if found.worse else "nothing got worse"
    what = slower if found.compared else "nothing to compare: the runs have no cell in common"
    lacking = f"; {len(found.only_old)} have no result any more" if found.only_old else ""
    lacking += f"; {len(found.unsure)} say nothing" if found.unsure else ""
    _print(
        console,
        f"{found.compared} results compared: {what}{lacking}",
        {Status.HAZARD: "red", Status.INCONCLUSIVE: "yellow"}.get(found.status, "green"),
    )


_ORDER = (Conclusion.SLOWER, Conclusion.FASTER, Conclusion.OPEN)


def _print_ratio(one: Changed, console: Console) -> None:
    few = f"too few rounds ({one.change.rounds} of {ROUNDS})" if one.change.rounds < ROUNDS else one.conclusion.value
    word = "WORSE: " if one.conclusion is Conclusion.SLOWER else ""
    _print(
        console,
        f"{word}{one.name}: {one.old:.2f}, now {one.new:.2f} times {one.peer}: {few}"
        f" (x {one.change.ratio:.2f}, {one.change.low:.2f} to {one.change.high:.2f})",
        _CONCLUSIONS[one.conclusion],
    )


def _more(console: Console, count: int) -> None:
    if count > _MOST:
        _print(console, f"... and {count - _MOST} more (--json has all)")


def _print(console: Console, text: str, style: str = "") -> None:
    """A paragraph of at most `WIDTH` columns; a word that is longer is not cut, so that it can be copied."""
    lines = textwrap.wrap(
        printable(text), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        console.print(Text(line, style=style))
