"""The words of an output that are a verdict, an outcome or a conclusion: `eofrace explain` has to know them."""

import json
import re
from collections.abc import Iterator
from typing import Any

KEYS = {"verdict", "outcome", "standing", "conclusion", "severity", "stopped", "what"}
"""Of JSON: their values are such words."""

_LINES = (
    re.compile(r"^verdict: ([a-z-]+)"),
    re.compile(r"^(?:found: )?([a-z-]+) \([a-z-]+\): inode "),
    re.compile(r"^\S.* x [^:]+: ([a-z-]+)(?:$|:| \()"),
    re.compile(r"^\S+ [a-z-]+: ([a-z-]+): [^:]+\.$"),
    re.compile(r"^(worse|better|not known): ", re.IGNORECASE),
    re.compile(r": [0-9.]+, now .*: ([a-z ]+) \(x [0-9.]+,"),
)


def of_json(data: Any) -> Iterator[str]:
    """Those of a document of any command."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key in KEYS and isinstance(value, str):
                yield value
            else:
                yield from of_json(value)
    elif isinstance(data, list):
        for value in data:
            yield from of_json(value)


def of_text(text: str) -> Iterator[str]:
    """Those of what a command prints, JSON or for people."""
    if text.lstrip().startswith("{"):
        yield from of_json(json.loads(text))
        return
    lines = text.splitlines()
    for line in lines:
        for pattern in _LINES:
            if (match := pattern.match(line.strip())) is not None:
                yield match[1].lower()
    for at, line in enumerate(lines):
        if re.fullmatch(r"\s*─+", line) and at:
            yield from _of_table(lines[at - 1], lines[at + 1 :])


def _of_table(headings: str, rows: list[str]) -> Iterator[str]:
    """Of its column `verdict`; of a table of bench, of the last one, `than BASELINE`, whose words are on the right."""
    verdict = re.search(r"(?<!\S)verdict(?!\S)", headings)
    is_bench = re.search(r"(?<!\S)than [a-z-]+\s*$", headings) is not None
    for row in rows:
        # A table's lines begin with a space: what does not is a sentence below it.
        if row.strip() and not row.startswith(" "):
            break
        found = re.search(r"(?<=\d )\s*([a-z][a-z ]*)$", row.rstrip()) if is_bench else None
        if verdict is not None:
            found = re.match(r"[a-z-]+", row[verdict.start() :])  # no bar of progress
        if found is not None:
            yield found[found.lastindex or 0]
