"""The options by which `trace` and `watch` are told whose operations on what, and until when."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from tracer.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

mechanism_option = click.option(
    "mechanism",
    "--mechanism",
    type=click.Choice(["auto", "kprobe", "kfunc", "tracepoint"]),
    default="auto",
    show_default=True,
    help="How to attach where there is a choice.",
)


def selecting(verb: str) -> Callable[[F], F]:
    """Give a command the options that `targets` takes; `verb` is what it does, capitalised."""
    options = (
        click.option(
            "pids", "-p", "--pid", multiple=True, metavar="PID", type=click.IntRange(1), help=f"{verb} this process."
        ),
        click.option(
            "comms",
            "--comm",
            multiple=True,
            metavar="NAME",
            help=f"{verb} every process of this command name, now or later.",
        ),
        click.option(
            "files",
            "--path",
            multiple=True,
            metavar="FILE",
            type=click.Path(path_type=Path),
            help=f"{verb} operations on this file; with a process, only its operations there.",
        ),
        click.option(
            "seconds",
            "--duration",
            metavar="S",
            type=click.FloatRange(min=0, min_open=True),
            help="Stop after S seconds.",
        ),
        click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]"),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def targets(given: Mapping[str, Any], ctx: click.Context) -> dict[str, Any]:
    """The arguments of `tracer.capture.targets.Targets`. Raises UsageError."""
    pids, comms, files, command = (given[name] for name in ("pids", "comms", "files", "command"))
    if not (pids or comms or files or command):
        raise UsageError(
            f"say what to {ctx.info_name}: -p PID, --comm NAME, --path FILE or -- COMMAND ({ctx.command_path} --help)"
        )
    if any(not name or "\0" in name for name in comms):
        raise UsageError("--comm: an empty name: use what `ps -o comm` shows")
    if given["seconds"] is not None and not math.isfinite(given["seconds"]):
        raise UsageError("--duration: name a number of seconds")
    return {
        "pids": tuple(dict.fromkeys(pids)),
        "comms": tuple(dict.fromkeys(comms)),
        "files": files,
        "command": command,
        "seconds": given["seconds"],
    }
