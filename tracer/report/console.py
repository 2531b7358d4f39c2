"""The one kind of rich console that commands print on."""

from typing import NoReturn

import rich.console


class Console(rich.console.Console):
    """A console that lets a closed pipe be what it is: rich would end the process with status 1, "a hazard"."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich in the handler of the BrokenPipeError; raises another one."""
        raise BrokenPipeError
