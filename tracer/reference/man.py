"""Man pages, made of the click commands.

click-man (0.6.0) was tried: it follows `Group.commands`, which is empty where commands are loaded when they are asked
for, and has no room for examples and exit status.
"""

import re
from collections.abc import Sequence

from tracer.reference.clicks import Described, described


def pages() -> dict[str, str]:
    """Name of the file -> page in roff (man(7)), of every command."""
    every = list(described())
    return {f"{one.path.replace(' ', '-')}.1": _page(one, every) for one in every}


def _page(one: Described, every: Sequence[Described]) -> str:
    name = one.path.replace(" ", "-")
    first = one.paragraphs[0].split(". ")[0].rstrip(".") if one.paragraphs else one.path
    lines = [
        '.\\" Made by python -m tracer.reference; SPDX-License-Identifier: GPL-2.0-or-later',
        f".TH {_quoted(name.upper())} 1 {_quoted('')} {_quoted('eofrace')} {_quoted('eofrace')}",
        ".SH NAME",
        f"{_text(name)} \\- {_text(first[0].lower() + first[1:])}",
        ".SH SYNOPSIS",
        f".B {_text(one.path)}",
        _text(one.usage),
        ".SH DESCRIPTION",
    ]
    for paragraph in one.paragraphs:
        lines += [".PP", _text(paragraph)]
    if one.options:
        lines.append(".SH OPTIONS")
        for written, does in one.options:
            lines += [".TP", f".B {_text(written)}", _text(does)]
    below = [other for other in every if other.path.rpartition(" ")[0] == one.path]
    if below:
        lines.append(".SH COMMANDS")
        for other in below:
            lines += [".TP", f".BR {_text(other.path.replace(' ', '-'))} (1)", _text(other.paragraphs[0])]
    for title, told in one.blocks:
        lines += [f".SH {_quoted(title.upper())}", ".EX", *map(_text, told), ".EE"]
    if one.path == "eofrace":
        lines += [".SH ENVIRONMENT", *_variable("NO_COLOR", "Any text: no colours.")]
        lines += _variable("EOFRACE_DEBUG", "Any text: show where an error of the system came from.")
        lines += [
            ".SH FILES",
            "A trace is a Parquet file; docs/reference/trace.md of the source describes its columns.",
        ]
    lines += [".SH SEE ALSO", *(f".BR {_text(other)} (1)" for other in _related(one, every))]
    return "\n".join(lines) + "\n"


def _variable(name: str, does: str) -> list[str]:
    return [".TP", f".B {name}", does]


def _related(one: Described, every: Sequence[Described]) -> list[str]:
    if one.path == "eofrace":
        return [other.path.replace(" ", "-") for other in every if other.path.count(" ") == 1]
    parent = one.path.rpartition(" ")[0]
    return ["eofrace"] if parent == "eofrace" else ["eofrace", parent.replace(" ", "-")]


def _text(words: str) -> str:
    """Text in which troff sees no command: neither an escape nor, at the beginning of a line, a control character."""
    safe = words.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", safe)


def _quoted(words: str) -> str:
    return '"' + _text(words).replace('"', '""') + '"'
