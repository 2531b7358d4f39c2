"""`eofrace completion`: the script that lets a shell complete commands, options and file names."""

import click
from click.shell_completion import get_completion_class

from tracer.commands import COMPLETE, main

_EPILOG = """\b
Examples:
  eval "$(eofrace completion bash)"              in this shell
  eofrace completion bash > /etc/bash_completion.d/eofrace
  eofrace completion zsh > ~/.zfunc/_eofrace     a directory in $fpath
  eofrace completion fish > ~/.config/fish/completions/eofrace.fish

\b
Exit status: 0, or 2 for wrong usage."""


@click.command(epilog=_EPILOG)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete what is typed behind `eofrace`.

    It asks `eofrace` itself, so that it knows the commands and options of the version that is installed.
    """
    made = get_completion_class(shell)
    assert made is not None
    complete = made(main, {}, "eofrace", COMPLETE)
    # Not source(): for bash that looks for a bash on this host, which need not be the one that will use it.
    click.echo(complete.source_template % complete.source_vars())
