"""The commands in the code blocks of README.md and docs/."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]

STARTS = (
    "./run", ".ci/run", "eofrace ", ".venv/bin/", "duckdb", "make", "truncate", "qemu-img", "qemu-storage-daemon",
    "seq", "rm", "size=$(", "git", "EOFRACE_", "cat", "man", "eval",
)  # fmt: skip
"""How a line begins that is a command."""

OUTPUT = re.compile(
    r"(file +(size|held)|file system +fallocate|(write|fallocate) waits in:|fallocate (plain|zero-range|keep-size) |# )"
)
"""How a line of output, or a remark, begins that looks like a command: there is a program of that name."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command, its lines joined."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def pages() -> list[Path]:
    """What is looked through: all but what is made of the code, whose examples tests of the commands have."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return found + sorted(path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts)


def commands() -> Iterator[Command]:
    """Every command, in order."""
    for path in pages():
        for number, line in _lines(path):
            text = re.sub(r"\s{2,}#.*|\s#\s.*", "", line.removeprefix("$ ")).strip()
            if text.startswith(STARTS):
                yield Command(str(path.relative_to(ROOT)), number, text)


def missed() -> Iterator[Command]:
    """Lines that are no command by STARTS, and look like one: their first word is a program."""
    for path in pages():
        for number, line in _lines(path):
            word = line.split()[0] if line.split() else ""
            is_program = word in ("$", "#") or word.startswith("./") or _is_there(word)
            if is_program and not line.removeprefix("$ ").startswith(STARTS) and not OUTPUT.match(line):
                yield Command(str(path.relative_to(ROOT)), number, line)


def code(language: str) -> Iterator[tuple[str, str]]:
    """Page and text of every code block that says that it is in that language."""
    for path in pages():
        for token in MarkdownIt("commonmark").enable("table").parse(path.read_text()):
            if token.type == "fence" and token.info.strip() == language:
                yield str(path.relative_to(ROOT)), token.content


def _is_there(word: str) -> bool:
    return word.islower() and shutil.which(word) is not None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of code blocks that are no other language, those that go on joined."""
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text()):
        if token.type not in ("code_block", "fence") or token.info.strip() not in ("", "sh"):
            continue
        assert token.map is not None
        first = token.map[0] + (2 if token.type == "fence" else 1)
        joined = ""
        for number, line in enumerate(token.content.splitlines(), first):
            if line.endswith("\\"):
                joined += line[:-1].strip() + " "
                continue
            yield number, (joined + line.strip())
            joined = ""
