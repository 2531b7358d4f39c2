"""`eofrace probe`: is this kernel's fallocate safe against asynchronous writes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tracer.probe.observation import DEFAULT_MODES, MODES

_EPILOG = """\b
Examples:
  eofrace probe                          XFS, ext4 and btrfs, every mode of fallocate
  eofrace probe --fs xfs -v              one file system; order of events, kernel stacks
  eofrace probe --json - | jq '.results[] | select(.verdict == "racy")'
  eofrace probe --dir /srv/images        a file system that is mounted already, by repetition

\b
Exit status: 0 all safe, 1 one is racy, 2 wrong usage,
3 inconclusive, 4 this host cannot do it.
On a directory nothing but a race can be proved: without one it is 3."""


@click.command(epilog=_EPILOG)
@click.option(
    "--fs",
    "file_systems",
    multiple=True,
    metavar="FS",
    help="Probe this file system, on a scratch disk; may be repeated.  [default: xfs ext4 btrfs]",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Probe the file system of this directory, by repetition: no write can be held there.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(list(MODES)),
    help="Mode of fallocate; may be repeated.  [default: plain, zero-range, keep-size]",
)
@click.option("--tries", type=click.IntRange(1, 1000), default=3, show_default=True, help="Tries for each mode.")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Show the order of events and the kernel stacks, too.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no table: the exit status and files alone.")
def probe(
    file_systems: Sequence[str],
    directory: Path | None,
    modes: Sequence[str],
    tries: int,
    json_file: str | None,
    verbose: bool,
    quiet: bool,
) -> None:
    """Find out whether fallocate can cut off a write in flight.

    On a scratch file system a write beyond EOF is held in flight at the disk; fallocate is started below it, and seen
    to wait or not; the write is released; size and content are compared. Nothing depends on timing: on a kernel with
    the race (XFS before 5.5) every try loses the write.
    """
    from tracer.errors import UsageError
    from tracer.output import JsonFile
    from tracer.probe import run
    from tracer.probe.result import to_json
    from tracer.report.console import plain, status_line
    from tracer.report.probe_text import print_report

    if directory is not None and file_systems:
        raise UsageError("--fs makes a scratch file system and --dir names one that is there: use one of them")
    into = JsonFile(json_file)
    with status_line("preparing", quiet=quiet) as show:
        report = run.probe(
            tuple(dict.fromkeys(file_systems)) or run.FILE_SYSTEMS,
            modes=tuple(dict.fromkeys(modes)) or DEFAULT_MODES,
            tries=tries,
            directory=directory,
            progress=lambda fs, mode, number, tries: show(f"{fs} {mode}: try {number} of {tries}"),
        )
    if not quiet:
        print_report(report, os.uname().release, plain(stderr=into.is_stdout), verbose=verbose)
    into.write(to_json(report))
    sys.exit(report.status)
