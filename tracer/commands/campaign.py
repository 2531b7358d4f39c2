"""`eofrace campaign`: a matrix of runs, resumed after anything, kept over time and compared."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.errors import Status, UsageError
from tracer.report.escape import printable

if TYPE_CHECKING:
    from tracer.campaign.status import Summary
    from tracer.campaign.store import Run, Store
    from tracer.output import JsonFile

_EPILOG = """\b
Examples:
  eofrace campaign nightly.toml                    all cells, into nightly.campaign/
  eofrace campaign nightly.toml                    again: what is left, nothing twice
  eofrace campaign nightly.toml --new              another run of all cells
  eofrace campaign nightly.toml --run $CI_JOB_ID   begin the run of that name, or go on with it
  eofrace campaign explore.toml --scheduler tcp://head:8786   on a Dask cluster
  eofrace campaign status nightly.campaign         how far, and what has to be looked at
  eofrace campaign compare nightly.campaign        what got worse from the last run but one
  eofrace campaign compare old/results.parquet nightly.campaign@7

\b
A campaign's file is TOML; a list is an axis, and the cells are the product:
  campaign = "nightly"
  [verify]
  strategy = ["serialise", "no-alloc-space"]
  kernel = ["host", "debian"]
  seed = { first = 1, last = 20 }

\b
Exit status: 0 all cells are finished and fine (compare: nothing got worse),
1 a hazard where none may be (something got worse), 2 wrong usage,
3 a cell is inconclusive, failed or not finished, 4 this host cannot do it."""


class _RunByDefault(click.Group):
    """`campaign FILE` is `campaign run FILE`; a file called status is ./status."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word `run` before what is neither a subcommand nor a call for help."""
        if not args:
            raise click.UsageError("name a campaign's file, or status or compare", ctx)
        if args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


_json_option = click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
_quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing: files and the exit status alone.")


@click.group(cls=_RunByDefault, epilog=_EPILOG, subcommand_metavar="FILE | COMMAND [ARGS]...")
def campaign() -> None:
    """Run a matrix of verify, explore or bench, described in a file.

    Each cell is a process of its own. What is finished is kept whatever happens: after a kill the same command goes on
    with what is left. All runs end in one Parquet table, DIR/results.parquet.
    """


@campaign.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="[default: FILE with .campaign for .toml]"
)
@click.option("--new", is_flag=True, help="Begin another run, whatever there is.")
@click.option("--run", "name", metavar="NAME", help="Go on with this run, or begin it.  [default: the last one]")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Cells at a time, at most.  [default: the cores]")
@click.option("--scheduler", metavar="ADDRESS", help="Run the cells on a Dask cluster.")
@_json_option
@_quiet_option
def run(
    file: Path,
    output: Path | None,
    new: bool,
    name: str | None,
    jobs: int | None,
    scheduler: str | None,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Run what is not finished of the campaign in FILE. `eofrace campaign FILE` is short for it."""
    from tracer.campaign.plan import NAME, load
    from tracer.campaign.run import Options
    from tracer.campaign.run import campaign as run_campaign
    from tracer.campaign.store import Store
    from tracer.output import JsonFile
    from tracer.report.console import status_line

    if name is not None and not NAME.fullmatch(name):
        raise UsageError("--run: letters, digits, dots, dashes and underscores, 64 at most")
    if jobs is not None and scheduler is not None:
        raise UsageError("--jobs or --scheduler: a cluster runs as many cells as its workers can")
    into = JsonFile(json_file)
    plan = load(file)
    directory = output or _directory_of(file)
    options = Options(directory, name, new, jobs or len(os.sched_getaffinity(0)), scheduler)
    with status_line(f"{len(plan.cells)} cells", quiet=quiet) as show:
        done = run_campaign(plan, options, show)
    sys.exit(_show(Store(directory), done, into, quiet=quiet, running=False))


@campaign.command()
@click.argument("where", type=click.Path(path_type=Path), metavar="DIR|FILE")
@click.option("--run", "name", metavar="NAME", help="Of this run.  [default: the last one]")
@_json_option
@_quiet_option
def status(where: Path, name: str | None, json_file: str | None, quiet: bool) -> None:
    """Say how far a campaign is, and which cells have to be looked at.

    Exit status: 0 all finished and fine, 1 a hazard, 3 a cell is inconclusive, failed or not finished.
    """
    from tracer.campaign.store import Store
    from tracer.output import JsonFile

    into = JsonFile(json_file)
    directory = where if where.is_dir() or not where.exists() else _directory_of(where)
    if not directory.is_dir():
        raise UsageError(f"{printable(str(directory))}: there is no such campaign: run it, or name its directory")
    store = Store(directory)
    sys.exit(_show(store, store.run(name), into, quiet=quiet, running=store.busy()))


@campaign.command()
@click.argument("old")
@click.argument("new", required=False)
@_json_option
@_quiet_option
def compare(old: str, new: str | None, json_file: str | None, quiet: bool) -> None:
    """Say what got worse from run OLD to run NEW.

    Each is a campaign's directory, or its Parquet table: the last run in it, or with @RUN another one. With one of
    them alone, its last run is compared with the one before.

    Exit status: 0 nothing got worse, 1 something did, 3 nothing to compare, or NEW lacks results.
    """
    from tracer.campaign import compare as comparing
    from tracer.output import JsonFile
    from tracer.report.campaign_text import WIDTH, print_comparison
    from tracer.report.console import wide

    into = JsonFile(json_file)
    before = comparing.load(old, before=1 if new is None else 0)
    after = comparing.load(old if new is None else new)
    try:
        found = comparing.compare(before, after)
    except (KeyError, TypeError, ValueError) as error:  # a table that somebody else has made
        raise UsageError(f"these tables cannot be compared: {printable(str(error))[:200]}") from error
    if not quiet:
        print_comparison(found, wide(WIDTH, stderr=into.is_stdout))
    into.write(found.to_json())
    sys.exit(found.status)


def _show(store: "Store", run: "Run", into: "JsonFile", *, quiet: bool, running: bool) -> Status:
    from tracer.campaign import status as looking
    from tracer.report.campaign_text import WIDTH, print_status
    from tracer.report.console import wide

    others = [one.name for one in store.runs() if one.name != run.name]
    summary: Summary = looking.of(run, running=running, others=others)
    if not quiet:
        print_status(summary, wide(WIDTH, stderr=into.is_stdout))
    into.write(summary.to_json())
    return summary.status


def _directory_of(file: Path) -> Path:
    """Beside the campaign's file."""
    return file.with_suffix(".campaign") if file.suffix == ".toml" else file.with_name(f"{file.name}.campaign")
