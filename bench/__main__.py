"""`python -m bench`: one command for each thing that is measured."""

import sys

import click

from bench.analysis import analysis
from bench.command import blockstack
from bench.explore import explore
from bench.opening import opening
from bench.report import report
from bench.tracing import tracing
from tracer.errors import EofraceError


@click.group(help=__import__("bench").__doc__)
def main() -> None:
    """See the package."""


main.add_command(analysis)
main.add_command(blockstack)
main.add_command(explore)
main.add_command(opening)
main.add_command(report)
main.add_command(tracing)

if __name__ == "__main__":
    try:
        main()
    except EofraceError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(error.status)
