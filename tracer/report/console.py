"""The one kind of rich console that commands print on."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn

import rich.console
from rich.text import Text


class Console(rich.console.Console):
    """A console that lets a closed pipe be what it is: rich would end the process with status 1, "a hazard"."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich in the handler of the BrokenPipeError; raises another one."""
        raise BrokenPipeError


@contextlib.contextmanager
def status_line(first: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """What changes the line of progress on stderr, if that is a terminal and nobody asked for silence."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status(Text(first)) as status:
        yield lambda text: status.update(Text(text))  # not markup: there are names in it


def plain(*, stderr: bool) -> Console:
    """A console for a report: nothing is highlighted, and lines stay as they are (`tracer.report.tables` fits them)."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False)


def wide(width: int, *, stderr: bool) -> Console:
    """A console for a table of `width` columns: never narrower, as rich would cut its words off."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=max(width, console.width))
