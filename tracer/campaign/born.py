"""How the process of a cell begins: with an end if its parent has one."""

import sys

from tracer.parent import die_with

CODE = "import sys; sys.path.insert(0, sys.argv[1]); from tracer.campaign.born import main; main()"
"""For python -c, with the directory of this eofrace, the parent's process id, and the words of the command."""


def main() -> None:
    """Die with the parent, and be the eofrace that argv says."""
    _, _, parent, *words = sys.argv
    die_with(int(parent))
    from tracer.commands import main as eofrace

    eofrace(words)
