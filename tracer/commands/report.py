"""`eofrace report`: a run, a trace, or what bench has measured, told for people, for a CI, or for another tool."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from tracer.report.source import Source

_MODULES = {
    "html": "html",
    "text": "text",
    "junit": "junit",
    "json": "document",
    "perfetto": "perfetto",
    "markdown": "markdown",
}
"""Format -> module of tracer.report that has it: write(source, target)."""

_OF_COSTS = "svg"
"""The format that only what bench has measured has (tracer/report/cost)."""

_SUFFIXES = {
    ".html": "html",
    ".xml": "junit",
    ".json": "json",
    ".perfetto-trace": "perfetto",
    ".pftrace": "perfetto",
    ".md": "markdown",
    ".svg": _OF_COSTS,
}
"""End of a file's name -> format, where none is asked for."""

_OF_FILES = {"html": "a page for a browser", "perfetto": "binary"}
"""Formats that are no use in a terminal, and what they are."""

_EPILOG = """\b
Examples:
  eofrace verify -o out; eofrace report out           the run again, as text
  eofrace report out --format junit -o eofrace.xml    for a CI's dashboard
  eofrace report out --format markdown | mail -s eofrace you@example.org
  eofrace report out -o eofrace.html                  for a browser
  eofrace report run.parquet -o run.perfetto-trace    for ui.perfetto.dev
  eofrace report out --format json | jq .verdict
  eofrace bench --json cost.json; eofrace report cost.json -o cost.svg    a plot

\b
Exit status: 0 confirmed, 1 unsafe or corrupt, 3 inconclusive, in every
format, once the report is complete; 2 wrong usage or bad input, 4 this
host cannot do it."""


@click.command(epilog=_EPILOG)
@click.argument("path", metavar="TRACE|OUTDIR|BENCH.json", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice([*_MODULES, _OF_COSTS]),
    help="What to write. Of bench: text, markdown, html, svg.  "
    "[default: what FILE is called by: .html, .xml (junit), .json, .md, .svg, .perfetto-trace; else text]",
)
@click.option(
    "-o",
    "--output",
    "output",
    metavar="FILE",
    help="Where to; it is there whole or not at all.  [default: standard output, where the format suits one]",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def report(path: Path, format_name: str | None, output: str | None, quiet: bool) -> None:
    """Tell of a run that `verify -o OUTDIR` has kept, of a trace, or of what `bench --json` has measured.

    The traces are judged again, by all rules. What is missing or inconclusive stands in every format, and where a
    trace shows more than its verify.json says, the report says so.

    The exit status is the verdict's, as that of verify and analyze is. A pipeline that ends with a report must not be
    green because writing the report went well: 1 and 3 mean that the report is there, and what is in it; only 2 and 4
    that there is none.
    """
    from tracer.output import STDOUT, check_writable
    from tracer.report.console import status_line
    from tracer.report.cost.source import is_one
    from tracer.report.escape import printable
    from tracer.report.source import VERIFY, load
    from tracer.report.standing import assess_all, concluded

    target = output if output is not None else STDOUT
    format_name = format_name or _SUFFIXES.get(Path(target).suffix, "text")
    if format_name in _OF_FILES and (output is None or (output == STDOUT and sys.stdout.isatty())):
        raise UsageError(f"{format_name} is {_OF_FILES[format_name]}: name a file with -o")
    if path.is_file() and path.name != VERIFY and is_one(path):
        sys.exit(_cost(path, format_name, target))
    if format_name == _OF_COSTS:
        raise UsageError("a plot as SVG is of what bench has measured: name the file of its --json")
    write = _writer(format_name)
    if target != STDOUT:
        check_writable(target)
    with status_line("reading", quiet=quiet) as status:
        source = load(path, lambda name: status(f"judging {printable(name)}"))
        status("writing")
        if format_name != "text" or target != STDOUT:
            write(source, target)
    if format_name == "text" and target == STDOUT:
        from tracer.report.console import Console
        from tracer.report.text import print_source

        print_source(source, Console(highlight=False, soft_wrap=True, markup=False))
    sys.exit(int(concluded(source, assess_all(source))[0].status))


def _cost(path: Path, format_name: str, target: str) -> int:
    """Tell of what bench has measured. Returns the exit status that it had."""
    from tracer.output import STDOUT, check_writable
    from tracer.report.console import plain
    from tracer.report.cost import writer
    from tracer.report.cost.source import load
    from tracer.report.cost.text import print_cost

    write = writer(format_name)
    if target != STDOUT:
        check_writable(target)
    cost = load(path)
    if format_name == "text" and target == STDOUT:
        print_cost(cost, plain(stderr=False), verbose=True)
    else:
        write(cost, target)
    return int(cost.status)


def _writer(format_name: str) -> Callable[["Source", str], None]:
    """What writes a format. Raises UnsupportedError."""
    name = f"tracer.report.{_MODULES[format_name]}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UnsupportedError(f"this version has no {format_name.upper()} report: choose another --format") from None
    write: Callable[[Source, str], None] = module.write
    return write
