"""The one kind of rich console that commands print on."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NoReturn

import rich.console


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
    with console.status(first) as status:
        yield status.update


def wide(width: int, *, stderr: bool) -> Console:
    """A console for a table of `width` columns: never narrower, as rich would cut its words off."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=max(width, console.width))
