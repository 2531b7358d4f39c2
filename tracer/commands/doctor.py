"""`eofrace doctor`: what this host can trace and mount, and what to install or change."""

import sys
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from tracer import host
from tracer.errors import Status
from tracer.output import JsonFile
from tracer.report.console import Console
from tracer.report.escape import printable

_EPILOG = """\b
Examples:
  eofrace doctor                       the table
  eofrace doctor --dir /mnt/images     try direct I/O and scratch files there
  eofrace doctor --json - | jq '.facts[] | select(.ok | not)'

\b
Exit status: 0 this host can give kernel evidence (scratch XFS, eBPF),
4 it cannot: `eofrace verify` then runs on driver evidence."""


@click.command(epilog=_EPILOG)
@click.option("--json", "json_file", metavar="FILE", help="Write the facts as JSON to FILE; - for stdout.")
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Try files in this directory.  [default: $TMPDIR, /var/tmp]",
)
@click.option("--attach/--no-attach", default=True, help="Attach the eBPF programs, too.  [default: attach]")
def doctor(json_file: str | None, directory: Path | None, attach: bool) -> None:
    """Try what this host can do, and say what to install or change.

    Every line is the outcome of doing the thing once; nothing stays behind. Lines marked `no` with a remedy are
    needed for kernel evidence; those marked `-` add to it.
    """
    into = JsonFile(json_file)
    found = host.look(directory, hooks=attach)
    into.write({"schema": "eofrace.doctor/1", **host.to_json(found)})
    if not into.is_stdout:
        _show(found)
    sys.exit(Status.OK if found.kernel_evidence else Status.UNSUPPORTED)


def _show(found: host.Host) -> None:
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for fact in found.facts:
        mark, style = ("yes", "green") if fact.ok else ("no", "red") if fact.required else ("-", "yellow")
        detail = Text(printable(fact.detail))
        if fact.remedy:
            detail.append(f"\n{printable(fact.remedy)}", "bold" if fact.required else "dim")
        table.add_row(fact.name, Text(mark, style), detail)
    console.print(table)
    if found.kernel_evidence:
        console.print("Kernel evidence: [green]yes[/]. `eofrace verify` uses a scratch XFS and eBPF.")
        return
    lacking = ", ".join(fact.name for fact in found.missing)
    console.print(f"Kernel evidence: [red]no[/] (lacking: {lacking}). `eofrace verify` still runs, on driver evidence.")
