"""Findings that somebody has looked at and lives with, in a file, as linters keep them: `analyze --baseline`.

The file is JSON that can be read, edited and compared. An entry names a rule and two code paths, not a file, a process
or a time, so that it holds for the next run; what it leaves out may be anything. It hides what it matches, but never a
loss: that a pair relies on the kernel may be known, that it lost data is news.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracer.analysis.findings import CodePath, Counts
from tracer.analysis.hazards import Analysis, Hazard, verdict_of
from tracer.analysis.rules import Rule
from tracer.errors import UsageError
from tracer.report.escape import printable

SCHEMA = "eofrace.baseline/1"

MAX_BYTES = 16 << 20
"""Of a baseline file that is still read."""

_SIDE: Mapping[str, type] = {"op": str, "mode": int, "comm": str}


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of finding that is known."""

    rule: str
    first: Mapping[str, str | int]
    """Of `CodePath.to_json`: what has to be the same."""
    second: Mapping[str, str | int]
    reason: str = ""
    """Why it may stay, for people."""

    def matches(self, hazard: Hazard) -> bool:
        """Whether a hazard is of this kind."""
        sides = ((self.first, hazard.kind.first), (self.second, hazard.kind.second))
        return self.rule == hazard.rule and all(wanted.items() <= path.to_json().items() for wanted, path in sides)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"rule": self.rule, "first": dict(self.first), "second": dict(self.second), "reason": self.reason}


class Baseline:
    """The entries of a file, and which of them were of use."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries = tuple(entries)
        self._used: set[int] = set()

    def knows(self, hazard: Hazard) -> bool:
        """Whether a hazard is hidden."""
        return not hazard.counts.lost and any(entry.matches(hazard) for entry in self.entries)

    def hide(self, analysis: Analysis) -> Analysis:
        """An analysis less the hazards that are known; its counts and its verdict are of those that are left."""
        new: list[Hazard] = []
        known = dict.fromkeys(analysis.counts, Counts())
        for hazard in analysis.hazards:
            self._used |= {number for number, entry in enumerate(self.entries) if entry.matches(hazard)}
            if self.knows(hazard):
                known[hazard.rule] += hazard.counts
            else:
                new.append(hazard)
        counts = {
            rule: sum((hazard.counts for hazard in new if hazard.rule == rule), Counts()) for rule in analysis.counts
        }
        verdict = verdict_of(counts.values(), analysis.doubts)
        return replace(analysis, hazards=tuple(new), counts=counts, verdict=verdict, known=known)

    def stale(self, rules: Iterable[Rule]) -> list[Entry]:
        """Entries that matched nothing until now, of those that some of the rules could have used."""
        asked = {rule.id for rule in rules}
        unused = (entry for number, entry in enumerate(self.entries) if number not in self._used)
        return [entry for entry in unused if entry.rule in asked]


def of_hazards(hazards: Iterable[Hazard], old: Sequence[Entry] = ()) -> list[Entry]:
    """An entry for each kind of hazards in which nothing was lost, in order, with the reason that an old one gives."""
    kinds: dict[tuple[str, CodePath, CodePath], Entry] = {}
    for hazard in hazards:
        if hazard.counts.lost:
            continue
        reason = next((entry.reason for entry in old if entry.reason and entry.matches(hazard)), "")
        first, second = hazard.kind.first, hazard.kind.second
        kinds[hazard.rule, first, second] = Entry(hazard.rule, first.to_json(), second.to_json(), reason)
    return [kinds[kind] for kind in sorted(kinds)]


def to_text(entries: Iterable[Entry]) -> str:
    """The file's content."""
    return json.dumps({"schema": SCHEMA, "findings": [entry.to_json() for entry in entries]}, indent=2) + "\n"


def read(path: Path) -> Baseline:
    """Read a baseline file. Raises UsageError for one that cannot be used."""
    name = printable(str(path))
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{name}: cannot open the baseline: {reason}") from error
    if len(text) > MAX_BYTES:
        raise UsageError(f"{name}: more than {MAX_BYTES >> 20} MiB, too large to be a baseline")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not JSON: {printable(str(error))}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(f"{name}: not a baseline: its schema is not {SCHEMA}; --write-baseline makes one")
    findings = content.get("findings")
    if not isinstance(findings, list):
        raise UsageError(f"{name}: its findings are not a list")
    return Baseline([_entry(f"{name}: finding {number}", finding) for number, finding in enumerate(findings, 1)])


def _entry(where: str, finding: Any) -> Entry:
    if not isinstance(finding, dict) or not isinstance(finding.get("rule"), str):
        raise UsageError(f"{where} names no rule")
    reason = finding.get("reason", "")
    if not isinstance(reason, str):
        raise UsageError(f"{where}: its reason is no text")
    unknown = finding.keys() - {"rule", "first", "second", "reason"}
    if unknown:
        raise UsageError(f"{where} has {printable(min(unknown))}, which a baseline has no use for")
    first, second = (_side(where, side, finding.get(side, {})) for side in ("first", "second"))
    return Entry(finding["rule"], first, second, reason)


def _side(where: str, name: str, side: Any) -> Mapping[str, str | int]:
    if not isinstance(side, dict):
        raise UsageError(f"{where}: its {name} is no object")
    for key, value in side.items():
        if key not in _SIDE or type(value) is not _SIDE[key]:
            raise UsageError(
                f"{where}: its {name} has a wrong {printable(key)}: there are op, mode (a number) and comm"
            )
    return side
