"""What `eofrace report` tells of: a run of `verify` that was kept, or a trace. Every output is made from one `Source`.

Both come from elsewhere: their sizes are limited, and every name and number in them may be hostile. A verify.json is
checked as far as outputs rely on it; what it calls a trace is looked for in its own directory and nowhere else.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer import documents
from tracer.analysis.engine import analyse_stored, one_after_the_other
from tracer.analysis.hazards import Analysis, Verdict
from tracer.analysis.rules import all_rules
from tracer.errors import UsageError
from tracer.report.escape import printable
from tracer.report.fields import COUNTS, NAMES, required
from tracer.stored import Stored, stored

VERIFY = "verify.json"

MAX_BYTES = 16 << 20
"""Of a verify.json. A run of the whole matrix takes 16 KiB."""

MAX_CELLS = 1_000

_TEXTS = (*required(NAMES), "verdict", "reason")


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace and what is said of it."""

    name: str
    """Of a cell: `serialise x kernel`; of a trace: its path."""
    verdict: Verdict
    reason: str
    control: bool
    """A cell that is to show the hazard: `unsafe` and `corrupt` are no failure, `confirmed` cannot be."""
    cell: Mapping[str, Any] | None
    """The cell as it is in verify.json; None: it is a trace by itself."""
    trace: Stored | None
    """None: a cell that kept no trace, or whose trace is gone."""
    analysis: Analysis | None
    """What all rules make of the trace."""


@dataclass(frozen=True, slots=True)
class Source:
    """What there is to tell."""

    path: Path
    document: Mapping[str, Any]
    """verify.json as it is; of a trace, its analysis as `analyze --json` writes it."""
    verdict: Verdict
    reason: str
    recordings: tuple[Recording, ...]

    @property
    def is_verify(self) -> bool:
        """Whether it is a run of `verify`, not a trace."""
        return self.document.get("schema") == "eofrace.verify/1"


def load(path: Path, told: Callable[[str], None] = lambda name: None) -> Source:
    """Read what `verify -o` has written, or a trace (a file, or a directory of parts), and judge all traces.

    `told` hears the name of each recording before it is judged. Raises UsageError, TraceError.
    """
    if path.name == VERIFY:
        return _verify(path.parent, told)
    # Whatever it is: a directory or a FIFO of that name is named as such.
    if os.path.lexists(path / VERIFY):
        return _verify(path, told)
    trace = stored(path)
    told(str(path))
    analysis = _judged(trace)
    reason = "; ".join(analysis.doubts) or f"{analysis.operations} operations, {_findings(len(analysis.hazards))}"
    recording = Recording(str(path), analysis.verdict, reason, False, None, trace, analysis)
    return Source(path, analysis.to_json(), analysis.verdict, reason, (recording,))


def _verify(directory: Path, told: Callable[[str], None]) -> Source:
    document = document_of(directory / VERIFY)
    recordings = []
    for cell in document["cells"]:
        name = cell.get("name") or f"{cell['strategy']} x {cell['fallocate']}"
        told(name)
        trace = _trace_of(directory, cell)
        verdict, control = Verdict(cell["verdict"]), cell.get("control", cell["strategy"] == "none") is True
        analysis = None if trace is None else _judged(trace)
        recordings.append(Recording(name, verdict, cell["reason"], control, cell, trace, analysis))
    return Source(directory, document, Verdict(document["verdict"]), str(document.get("reason", "")), tuple(recordings))


def _judged(trace: Stored) -> Analysis:
    return analyse_stored([trace], all_rules(), 1, one_after_the_other)[0]


def _trace_of(directory: Path, cell: Mapping[str, Any]) -> Stored | None:
    """The cell's trace: what lies in the run's directory under the name that it had; None: nothing does.

    Raises TraceError, UsageError for what is there and is no trace.
    """
    kept = cell.get("trace")
    if kept is None:
        return None
    name = Path(kept).name
    if name in ("", ".."):
        raise UsageError(f"{printable(str(directory / VERIFY))}: a trace called {printable(kept)!r} is no file")
    try:
        (directory / name).lstat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        pass  # who opens it says why
    return stored(directory / name)


def document_of(path: Path) -> Mapping[str, Any]:
    """A verify.json whose fields, as far as they are used, are of the right types. Raises UsageError."""
    shown = printable(str(path))
    document = documents.read(path, MAX_BYTES)
    wrong = _wrong(document)
    if wrong:
        raise UsageError(f"{shown}: not a result of `eofrace verify`: {printable(wrong)}")
    assert isinstance(document, dict)
    return document


def _wrong(document: Any) -> str:
    """What keeps a document from being a verify.json, as a phrase; empty: nothing."""
    if not isinstance(document, dict):
        return "no object"
    if document.get("schema") != "eofrace.verify/1":
        return f"its schema is {str(document.get('schema'))[:60]!r}, not 'eofrace.verify/1'"
    cells = document.get("cells")
    if not isinstance(cells, list) or not cells or not all(isinstance(cell, dict) for cell in cells):
        return "it has no cells"
    if len(cells) > MAX_CELLS:
        return f"it has more than {MAX_CELLS} cells"
    if not isinstance(document.get("verdict"), str) or document["verdict"] not in set(Verdict):
        return f"its verdict is {str(document.get('verdict'))[:60]!r}"
    for number, cell in enumerate(cells, 1):
        for name in _TEXTS:
            if not isinstance(cell.get(name), str):
                return f"cell {number} has no {name}"
        for name in required(COUNTS):
            if not _is_count(cell.get(name)):
                return f"{name} of cell {number} is not a count"
        if cell["verdict"] not in set(Verdict):
            return f"the verdict of cell {number} is {cell['verdict'][:60]!r}"
        gap = cell.get("min_gap_ns")
        if gap is not None and not (isinstance(gap, int | float) and abs(gap) < 1 << 63):
            return f"min_gap_ns of cell {number} is no number"
        for name in ("name", "trace"):
            if not isinstance(cell.get(name), str | None):
                return f"the {name} of cell {number} is no text"
    return ""


def _findings(count: int) -> str:
    return "nothing found" if not count else "1 finding" if count == 1 else f"{count} findings"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
