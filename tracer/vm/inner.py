"""The eofrace command that is to run inside: checked before the boot, and what it will write found out.

An output file must appear where it would if the command ran on the host. So the directory it goes to is shared with
the guest, writable; nothing else of the host's is.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from tracer.errors import UsageError
from tracer.report.escape import printable
from tracer.vm.command import Share

_OUTPUT_OPTIONS = {"-o", "--output", "--json"}
_HOST_DIRECTORY_OPTIONS = {"--dir"}
_NOT_SHARED = ("/", "/dev", "/proc", "/sys", "/etc", "/usr", "/bin", "/lib", "/var/tmp", "/tmp")  # noqa: S108
"""Writable for a guest that may run any kernel: no. (Directories below /tmp and /var/tmp: yes.)"""


@dataclass(frozen=True, slots=True)
class Inner:
    """A command, and the directories it writes to."""

    arguments: tuple[str, ...]
    shares: tuple[Share, ...]


def parse(main: click.Group, arguments: Sequence[str]) -> Inner:
    """Let click parse `arguments` as it would inside. Raises what it raises, and `UsageError` for what cannot be."""
    words = list(arguments)
    with main.make_context("eofrace", list(words)) as context:
        rest = [*context._protected_args, *context.args]
        if not rest:
            raise UsageError("name the command to run inside: eofrace vm run -- verify")
        name, command, left = main.resolve_command(context, rest)
        assert command is not None
        if name == "vm":
            raise UsageError("no VM inside the VM: name another command")
        if name == "campaign":
            raise UsageError("a campaign boots the VM by itself: name its kernel in the campaign's file")
        with command.make_context(name, left, parent=context) as inner:
            outputs = list(_outputs(command, inner))
    return Inner(tuple(words), _shares(outputs))


def _outputs(command: click.Command, context: click.Context) -> Iterator[str]:
    """Paths that the parsed command will write to."""
    for parameter in command.params:
        value = context.params.get(parameter.name or "")
        if value is None or not isinstance(parameter, click.Option):
            continue
        options = {*parameter.opts, *parameter.secondary_opts}
        if options & _HOST_DIRECTORY_OPTIONS:
            raise UsageError(
                f"{parameter.opts[0]} {printable(str(value))} lies on the host: inside it would be 9p; "
                "leave it out (the VM makes scratch file systems of its own)"
            )
        if options & _OUTPUT_OPTIONS:
            values = value if isinstance(value, (list, tuple)) else (value,)
            yield from (os.fspath(each) for each in values)


def _shares(outputs: Sequence[str]) -> tuple[Share, ...]:
    """The directories to share, without those inside one another."""
    directories = sorted({directory for path in outputs if (directory := _directory(path)) is not None})
    kept: list[str] = []
    for directory in directories:
        if not any(directory.startswith(f"{above}/") for above in kept):
            kept.append(directory)
    return tuple(Share(Path(directory)) for directory in kept)


def _directory(path: str) -> str | None:
    """The directory that `path` needs writable: itself, or the nearest above it that is there. None: no directory.

    Links are followed in the directory's own name, as the guest sees the same ones.
    """
    if path == "-" or path.startswith(("/dev/", "/proc/self/fd/")):
        return None
    absolute = os.path.abspath(path)
    directory = absolute if os.path.isdir(absolute) else os.path.dirname(absolute)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    directory = os.path.realpath(directory)
    if directory in _NOT_SHARED or directory.startswith(("/dev/", "/proc/", "/sys/")):
        raise UsageError(
            f"{printable(path)}: {directory} is not shared with a guest: name an output in a directory of its own"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"{printable(path)}: {printable(directory)} is not writable: name another directory")
    return directory
