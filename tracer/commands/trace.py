"""`eofrace trace`: record what any process does to its files, and judge it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.commands.selecting import mechanism_option, selecting, targets

if TYPE_CHECKING:
    from tracer.capture.result import Totals

_EPILOG = """\b
Examples:
  eofrace trace -- fio job.fio              a command, with its children
  eofrace trace -p "$(pidof qemu-system-x86_64)" --duration 60
  eofrace trace --comm postgres -o pg/      all of that name, those to come, too
  eofrace trace --path disk.qcow2           whoever writes to that file
  eofrace analyze pg/                       judge it again

\b
Exit status: 0 nothing dangerous was seen, 1 a hazard or a loss,
2 wrong usage, 3 inconclusive (nothing seen, or not everything),
4 this host cannot do it."""


RECORDING = "eofrace: recording; Ctrl-C ends it"
"""Told on stderr as soon as nothing can escape: who starts a load beside the recorder may wait for it."""


class _RingSize(click.ParamType[int]):
    """Bytes, from 4k to 1024m."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,7})([km])", str(value).lower())
        size = int(match[1]) << (10 if match[2] == "k" else 20) if match else 0
        if not 4096 <= size <= 1 << 30 or size & (size - 1):
            self.fail(f"{value!r} is no power of two from 4k to 1024m", param, ctx)
        return size


@click.command(epilog=_EPILOG)
@selecting("Trace")
@click.option(
    "output",
    "-o",
    "--output",
    metavar="TRACE",
    type=click.Path(path_type=Path),
    help="Keep the trace: a file NAME.parquet, or a directory of files of bounded size.",
)
@click.option(
    "part_operations",
    "--rotate",
    metavar="N",
    type=click.IntRange(1000),
    help="Operations in each file of a directory.  [default: 200000]",
)
@click.option(
    "ring_size",
    "--ring-size",
    metavar="SIZE",
    type=_RingSize(),
    default="16m",
    show_default=True,
    help="Room in the kernel for what was not fetched yet: a power of two, with k or m.",
)
@mechanism_option
@click.option("json_file", "--json", metavar="FILE", help="Write the summary as JSON; - is stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing: the exit status and files alone.")
@click.pass_context
def trace(
    ctx: click.Context,
    /,
    output: Path | None,
    part_operations: int | None,
    ring_size: int,
    mechanism: str,
    json_file: str | None,
    quiet: bool,
    **selected: Any,
) -> None:
    """Record what processes do to their files, and judge it.

    Writes (asynchronous, direct, buffered), fallocates and truncations of local files are recorded with their begin and
    end in the kernel; docs/trace.md says what is not seen. Processes are followed with the children that they have and
    will have. Recording ends with the command or the processes, after --duration, or by Ctrl-C.
    """
    from tracer.analysis.rules import all_rules
    from tracer.capture import run
    from tracer.capture.parts import PART_OPERATIONS
    from tracer.errors import UsageError
    from tracer.output import STDOUT, JsonFile
    from tracer.report.console import status_line
    from tracer.report.trace_text import print_captured

    options = run.Options(
        **targets(selected, ctx),
        output=output,
        part_operations=part_operations or PART_OPERATIONS,
        ring_bytes=ring_size,
        mechanism=mechanism,
    )
    if str(output) == STDOUT:
        raise UsageError("-o -: a trace does not go to standard output: name a file NAME.parquet or a directory")
    if part_operations is not None and not options.rotates:
        raise UsageError("--rotate is for a directory: name one with -o DIR/")
    into = JsonFile(json_file)
    all_rules()  # one that cannot be loaded is told of before anything is recorded
    with status_line("attaching", quiet=quiet) as show:
        captured = run.capture(
            options,
            lambda totals, seconds: show(_line(totals, seconds)),
            (lambda: None) if quiet else (lambda: click.echo(RECORDING, err=True)),
        )
    into.write(captured.to_json())
    if not quiet:
        print_captured(captured, stderr=into.is_stdout or bool(options.command))
    ctx.exit(int(captured.status))


def _line(totals: "Totals", seconds: float) -> str:
    """The counts so far."""
    dropped = sum(totals.dropped.values())
    return (
        f"{seconds:.0f} s: {totals.operations:,} operations, {len(totals.files):,} files, {dropped:,} dropped; "
        "Ctrl-C ends it"
    )
