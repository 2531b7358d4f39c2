"""`eofrace watch`: hear of dangerous pairs of operations as they happen."""

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tracer.commands.selecting import mechanism_option, selecting, targets

if TYPE_CHECKING:
    from tracer.watch.result import Event, State

_EPILOG = """\b
Examples:
  eofrace watch --comm qemu-system-x86      every guest, those to come, too
  eofrace watch -p "$(pidof postgres)" --json-lines | jq .path
  eofrace watch --path disk.qcow2 --duration 3600
  eofrace watch --comm qemu-system-x86 -q \\
      --metrics /var/lib/node_exporter/eofrace.prom
  eofrace watch -- fio job.fio              a command, with its children

\b
Exit status: 0 nothing dangerous was seen, 1 a hazard or a loss,
2 wrong usage, 3 inconclusive (nothing seen, or not everything),
4 this host cannot do it."""


WATCHING = "eofrace: watching; Ctrl-C ends it"
"""Told on stderr as soon as nothing can escape."""


@click.command(epilog=_EPILOG)
@selecting("Watch")
@click.option(
    "json_lines", "--json-lines", is_flag=True, help="Print each hazard as a JSON object on a line of its own."
)
@click.option(
    "metrics_file",
    "--metrics",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep metrics for Prometheus in this file, as its node exporter's textfile collector reads it.",
)
@click.option(
    "interval",
    "--metrics-interval",
    metavar="S",
    type=click.FloatRange(min=1),
    default=15,
    show_default=True,
    help="Seconds between two writings of it.",
)
@mechanism_option
@click.option("json_file", "--json", metavar="FILE", help="Write the summary as JSON; - is stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No hazards in words, no progress and no summary.")
@click.pass_context
def watch(
    ctx: click.Context,
    /,
    json_lines: bool,
    metrics_file: Path | None,
    interval: float,
    mechanism: str,
    json_file: str | None,
    quiet: bool,
    **selected: Any,
) -> None:
    """Watch processes or files for weeks, and tell of dangerous pairs of operations as they happen.

    The pairs of `trace`, by the same rules, but found in the kernel: nothing else leaves it and nothing is kept.
    docs/watch.md says which rules, what it costs, and how to run it as a service. It ends with the command or the
    processes, after --duration, or by Ctrl-C.
    """
    from tracer.errors import EofraceError, UsageError
    from tracer.output import STDOUT, JsonFile, check_writable
    from tracer.report.console import status_line
    from tracer.report.watch_text import event_line, print_watched
    from tracer.watch import run

    options = run.Options(**targets(selected, ctx), mechanism=mechanism)
    if json_lines and json_file == STDOUT:
        raise UsageError("--json-lines has standard output already: name a file for --json")
    if not math.isfinite(interval):
        raise UsageError("--metrics-interval: name a number of seconds")
    into = JsonFile(json_file)
    if metrics_file is not None:
        check_writable(metrics_file)
    metrics_fail = False
    to_stderr = bool(options.command) or json_lines or into.is_stdout
    due = 0.0

    with status_line("attaching", quiet=quiet) as show:

        def tell(event: "Event") -> None:
            if json_lines:
                click.echo(json.dumps(event.to_json(), allow_nan=False))
            elif not quiet:
                click.echo(event_line(event), err=to_stderr)

        def progress(state: "State") -> None:
            nonlocal due, metrics_fail
            show(_line(state))
            if metrics_file is not None and time.monotonic() >= due:
                due = time.monotonic() + interval
                try:
                    _write_metrics(metrics_file, state, running=True)
                    metrics_fail = False
                except (OSError, EofraceError) as error:
                    # A disk that is full for an hour must not end what is to run for weeks: the file's age tells.
                    if not metrics_fail:
                        click.echo(f"eofrace: --metrics: {error}", err=True)
                    metrics_fail = True

        watched = run.watch(
            options, tell, progress, (lambda: None) if quiet else (lambda: click.echo(WATCHING, err=True))
        )
    if metrics_file is not None:
        _write_metrics(metrics_file, watched.state, running=False)
    into.write(watched.to_json())
    if not quiet:
        print_watched(watched, stderr=to_stderr)
    ctx.exit(int(watched.status))


def _write_metrics(path: Path, state: "State", *, running: bool) -> None:
    from tracer.watch import metrics  # Prometheus' library, 12 MiB, only where it is asked for

    metrics.write(path, state, running=running)


def _line(state: "State") -> str:
    """The counts so far."""
    return (
        f"{state.seconds:.0f} s: {sum(state.operations.values()):,} operations, "
        f"{state.post_eof_fallocates:,} post-EOF fallocates, {state.counts.exposed:,} dangerous pairs, "
        f"{sum(state.lost.values()):,} not judged; Ctrl-C ends it"
    )
