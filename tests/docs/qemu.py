"""docs/qemu.md as one script: its commands as they stand, in its order, and what holds them together."""

from pathlib import Path

from markdown_it import MarkdownIt

GLUE = {
    # The page's control waits until QEMU has opened the image. So much is needed here.
    "(sleep 8;": "(sleep 4;",
    # "Ctrl-C ends it; meanwhile, in another shell:", once it records, and the daemon listens.
    "./run trace -p $! -o daemon.parquet          # Ctrl-C ends it; meanwhile, in another shell:": """\
daemon=$!
until [ -S /run/disk.sock ]; do kill -0 $daemon; sleep 0.1; done
set -m
./run trace -p $daemon -o daemon.parquet 2> told &
recorder=$!
set +m
until grep -q recording told; do kill -0 $recorder; sleep 0.1; done""",
}
"""What is not executed as it stands, and what is instead."""

BEFORE = """\
set -eu
mount -t tmpfs eofrace /run
"""

AFTER = """
kill -INT $recorder
wait $recorder
kill $daemon
wait $daemon
"""


def script_of(page: Path, glue: dict[str, str] | None = None) -> str:
    """The commands of all blocks; what follows an empty line in one is output. With `glue` in place of some lines."""
    blocks = [
        token.content.split("\n\n")[0]
        for token in MarkdownIt("commonmark").parse(page.read_text())
        if token.type == "code_block"
    ]
    text = "\n".join(block.rstrip("\n") for block in blocks) + "\n"
    for old, new in (glue or {}).items():
        if old not in text:
            raise ValueError(f"{page.name} has no {old!r} any more")
        text = text.replace(old, new)
    return text
