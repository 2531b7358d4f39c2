"""The commands as click has them, in the order of the help."""

from collections.abc import Iterator
from dataclasses import dataclass

import click

from tracer.commands import main


@dataclass(frozen=True, slots=True)
class Described:
    """One command."""

    path: str
    """As it is typed: `eofrace vm run`."""
    command: click.Command
    context: click.Context

    @property
    def usage(self) -> str:
        """What follows the path."""
        return " ".join(self.command.collect_usage_pieces(self.context))

    @property
    def paragraphs(self) -> list[str]:
        """Its description, a line each."""
        return [" ".join(part.split()) for part in (self.command.help or "").split("\n\n") if part.strip()]

    @property
    def options(self) -> list[tuple[str, str]]:
        """How each option is written, and what it does."""
        records = (one.get_help_record(self.context) for one in self.command.params if isinstance(one, click.Option))
        return [record for record in records if record is not None]

    @property
    def blocks(self) -> list[tuple[str, list[str]]]:
        """What stands below the help: "Examples", "Exit status"; with lines that are as they are."""
        found = []
        for part in (self.command.epilog or "").split("\b\n"):
            lines = [line.rstrip() for line in part.strip("\n").splitlines()]
            if not any(lines):
                continue
            title, colon, rest = lines[0].partition(":")
            lines = ([rest.strip()] if rest.strip() else []) + lines[1:]
            while lines and not lines[-1]:
                lines.pop()
            found.append((title if colon else "", lines))
        return found


def described() -> Iterator[Described]:
    """Every command, those that have commands of their own before these."""
    context = main.context_class(main, info_name="eofrace", **main.context_settings)
    yield from _below("eofrace", main, context)


def _below(path: str, command: click.Command, context: click.Context) -> Iterator[Described]:
    yield Described(path, command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                below = inner.context_class(inner, info_name=name, parent=context, **inner.context_settings)
                yield from _below(f"{path} {name}", inner, below)
