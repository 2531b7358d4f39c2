"""What a page tells, as texts: everything that comes from elsewhere has passed `printable`, and none of it is HTML.

No verdict is made here: that of a cell is verify's, that of a trace its analysis', and what all of them come to says
tracer/report/standing.py. What weakens one stands beside it wherever it is shown.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracer.analysis.hazards import Hazard, Pair, Verdict
from tracer.analysis.rules import all_rules
from tracer.report.escape import printable
from tracer.report.explanations import OUTCOMES, VERDICTS, Topic, of_rule
from tracer.report.fields import COUNTS, NAMES, TIMES
from tracer.report.hazard_text import sentence
from tracer.report.html.account import Account, account
from tracer.report.html.choose import Shown
from tracer.report.source import Recording, Source
from tracer.report.standing import assess, assess_all, concluded
from tracer.stored import Stored

MAX_HAZARDS = 50
"""Of a recording; the others are counted."""

MAX_ACCOUNTS = 12
"""Hazards of a recording that are told step by step."""

MAX_TEXT = 2_000
"""Characters of any one text from outside."""

MARKS = {
    Verdict.CONFIRMED: "✓",
    Verdict.INCONCLUSIVE: "?",
    Verdict.UNSAFE: "!",
    Verdict.CORRUPT: "✗",
}
"""A sign for each verdict, beside its word: nothing rests on colour."""

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A pair of a hazard that can be gone to."""

    name: str
    pair: Pair
    told: Account | None


@dataclass(frozen=True, slots=True)
class Told:
    """A hazard."""

    id: str
    outcome: str
    rule: str
    sentence: str
    examples: tuple[Example, ...]
    """The worst first; of a hazard of one pair only that."""


@dataclass(frozen=True, slots=True)
class Section:
    """A recording."""

    id: str
    name: str
    verdict: Verdict
    reason: str
    control: bool
    doubts: tuple[str, ...]
    numbers: Facts
    found: tuple[tuple[str, str, str, str], ...]
    """Rules that found pairs: name, exposed, kernel-serialised, lost."""
    silent: tuple[str, ...]
    """Rules that found none."""
    judged: str
    """What all rules make of its trace, where that is not its verdict."""
    hazards: tuple[Told, ...]
    more_hazards: int
    facts: Facts
    shown: Shown | None
    """None: there is no trace."""
    coverage: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """Of its verdict."""
        return MARKS[self.verdict]

    @property
    def role(self) -> str:
        """What it is for, in brackets behind the verdict."""
        if not self.control:
            return ""
        return "control, expected" if self.verdict in (Verdict.UNSAFE, Verdict.CORRUPT) else "control"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Verdicts of a run: a row for each subject, a column for each way it was run."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Section, ...], ...]], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All of it."""

    title: str
    verdict: Verdict
    reason: str
    doubts: tuple[str, ...]
    facts: Facts
    matrix: Matrix | None
    sections: tuple[Section, ...]
    host: tuple[tuple[str, str, str], ...]
    """Name, state, detail."""
    hooks: Facts
    gaps: Facts
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    rules: tuple[Topic, ...]
    words: tuple[Topic, ...] = field(default=(*VERDICTS[:4], *OUTCOMES))

    @property
    def mark(self) -> str:
        """Of its verdict."""
        return MARKS[self.verdict]


def shown(text: object) -> str:
    """A text from outside, on one line and not without end."""
    safe = printable(str(text))
    return safe if len(safe) <= MAX_TEXT else f"{safe[:MAX_TEXT]}... ({len(safe) - MAX_TEXT:,} characters more)"


def section(number: int, recording: Recording, drawn: Shown | None) -> Section:
    """What is told of a recording, of whose trace `drawn` is shown."""
    analysis, cell = recording.analysis, recording.cell or {}
    hazards = () if analysis is None else analysis.hazards
    counts = {} if analysis is None else analysis.counts
    found = [(rule, count) for rule, count in counts.items() if count.exposed]
    judged = ""
    if analysis is not None and recording.cell is not None and analysis.verdict is not recording.verdict:
        judged = f"all rules on its trace: {analysis.verdict.value}"
    return Section(
        id=f"cell-{number}",
        name=shown(recording.name),
        verdict=recording.verdict,
        reason=shown(recording.reason),
        control=recording.control,
        doubts=tuple(map(shown, assess(recording).doubts)),
        numbers=_numbers(cell),
        found=tuple(
            (rule, f"{count.exposed:,}", f"{count.kernel_serialised:,}", f"{count.lost:,}") for rule, count in found
        ),
        silent=tuple(rule for rule, count in counts.items() if not count.exposed),
        judged=judged,
        hazards=tuple(
            _told(f"hazard-{number}-{at}", hazard, drawn, at <= MAX_ACCOUNTS)
            for at, hazard in enumerate(hazards[:MAX_HAZARDS], 1)
        ),
        more_hazards=max(0, len(hazards) - MAX_HAZARDS),
        facts=_cell_facts(cell, recording.trace),
        shown=drawn,
        coverage=() if drawn is None else _coverage(drawn),
    )


def page(source: Source, sections: tuple[Section, ...]) -> Page:
    """The page of those sections."""
    traces = [recording.trace for recording in source.recordings if recording.trace is not None]
    document = source.document if source.is_verify else {}
    host = document.get("host") if source.is_verify else next((trace.meta.host for trace in traces), {})
    mechanisms, gaps = _hooks(document, traces)
    commands = dict.fromkeys(shown(shlex.join(trace.meta.command)) for trace in traces if trace.meta.command)
    weak = [one for one in sections if one.doubts]
    doubts = [f"{one.name}: {'; '.join(one.doubts)}" for one in weak[:20]]
    if len(weak) > 20:
        doubts.append(f"and {len(weak) - 20} more cells whose evidence lacks something: see there")
    found = dict.fromkeys(hazard.rule for one in sections for hazard in one.hazards)
    verdict, reason = concluded(source, assess_all(source))
    notes = [note for holder in (document, *document.get("cells", ())) for note in _texts(holder.get("notes"))]
    return Page(
        title=shown(source.path),
        verdict=verdict,
        reason=shown(reason),
        doubts=tuple(doubts),
        facts=_run_facts(source, traces),
        matrix=_matrix(source, sections) if source.is_verify else None,
        sections=sections,
        host=_host(host),
        hooks=mechanisms,
        gaps=gaps,
        notes=tuple(dict.fromkeys(notes)),
        commands=tuple(commands),
        rules=tuple(of_rule(rule) for rule in all_rules() if rule.id in found),
    )


def _told(name: str, hazard: Hazard, drawn: Shown | None, in_steps: bool) -> Told:
    pairs = [("worst", hazard.worst), ("first", hazard.earliest), ("last", hazard.latest)]
    # A hazard of one pair has the same one three times.
    distinct = {(pair.first["seq_begin"], pair.second["seq_begin"]): (what, pair) for what, pair in reversed(pairs)}
    context = [] if drawn is None else drawn.context
    told = [
        Example(
            what if len(distinct) > 1 else "only",
            pair,
            account(pair, context) if in_steps and pair is hazard.worst else None,
        )
        for what, pair in reversed(distinct.values())
    ]
    told.sort(key=lambda one: one.pair is not hazard.worst)
    text = "".join(part if isinstance(part, str) else part[0] for part in sentence(hazard))
    return Told(name, hazard.outcome.label, hazard.rule, shown(text), tuple(told))


def _numbers(cell: Mapping[str, Any]) -> Facts:
    if not cell:
        return ()
    gap = cell.get("min_gap_ns")
    smallest = "none" if gap is None else f"{gap / 1000:,.1f} us"
    counts = ((one.title, f"{cell[one.name]:,}") for one in COUNTS if one.required)
    return (*counts, ("smallest gap", smallest))


def _cell_facts(cell: Mapping[str, Any], trace: Stored | None) -> Facts:
    facts = [(one.title, shown(cell[one.name])) for one in NAMES if isinstance(cell.get(one.name), str)]
    for one in (*COUNTS, *TIMES[1:]):  # what is required, and the gap, stand in the table of numbers
        if not one.required and isinstance(cell.get(one.name), int | float):
            facts.append((one.title, shown(cell[one.name])))
    check = cell.get("qemu_img_check")
    if isinstance(check, dict):
        facts.append(("qemu-img check", shown(", ".join(f"{count} {what}" for what, count in check.items()))))
    if trace is not None:
        meta = trace.meta
        facts += [("trace", shown(trace.path)), ("operations in it", f"{trace.operations:,}")]
        facts += [("dropped while it was recorded", f"{meta.dropped:,}")]
        facts += [("in flight at its end", f"{meta.unfinished:,}")]
        if meta.command:
            facts.append(("recorded by", shown(shlex.join(meta.command))))
        if meta.seed is not None:
            facts.append(("seed", shown(meta.seed)))
    return tuple(facts)


def _run_facts(source: Source, traces: list[Stored]) -> Facts:
    if not source.is_verify:
        meta = traces[0].meta
        given = {
            "strategy": meta.strategy,
            "fs": meta.fs,
            "aio": meta.aio,
            "evidence": meta.evidence,
            "seed": meta.seed,
        }
        facts = [(name, shown(value)) for name, value in given.items() if value is not None]
        return (("trace", shown(source.path)), ("operations", f"{traces[0].operations:,}"), *facts)
    cells = source.document["cells"]
    facts = [("run", shown(source.path))]
    for name in ("kernel", "fs", "aio", "evidence"):
        facts.append((name, ", ".join(dict.fromkeys(shown(cell[name]) for cell in cells))))
    for name in ("seed", "writes", "cluster_size"):
        value = source.document.get(name)
        if isinstance(value, int):
            facts.append(("guest writes a cell" if name == "writes" else name.replace("_", " "), shown(value)))
    return tuple(facts)


def _matrix(source: Source, sections: tuple[Section, ...]) -> Matrix:
    cells = source.document["cells"]
    names = [name for name in ("fs", "aio", "kernel") if len({cell[name] for cell in cells}) > 1]
    grid: dict[str, dict[str, list[Section]]] = {}
    columns: dict[str, None] = {}
    for cell, one in zip(cells, sections, strict=True):
        told = [f"fallocate: {cell['fallocate']}", *(str(cell[name]) for name in names), str(cell.get("case") or "")]
        column = shown(", ".join(word for word in told if word))
        # Formats are told apart by the name of the cell; strategies share theirs between columns.
        subject = cell["strategy"] if cell.get("format") in (None, "qcow2") else one.name.rpartition(" x ")[0]
        columns[column] = None
        grid.setdefault(shown(subject or one.name), {}).setdefault(column, []).append(one)
    rows = [(row, tuple(tuple(cells.get(column, ())) for column in columns)) for row, cells in grid.items()]
    return Matrix(tuple(columns), tuple(rows))


def _host(host: object) -> tuple[tuple[str, str, str], ...]:
    if not isinstance(host, Mapping):
        return ()
    plain = [(shown(name), "", shown(value)) for name, value in host.items() if name != "facts"]
    facts = host.get("facts")
    for fact in facts if isinstance(facts, list) else ():
        if isinstance(fact, Mapping):
            told = shown(fact.get("detail", ""))
            remedy = shown(fact.get("remedy") or "")
            there = "there" if fact.get("ok") is True else "not there"
            plain.append((shown(fact.get("name", "")), there, f"{told} ({remedy})" if remedy else told))
    return tuple(plain)


def _hooks(document: Mapping[str, Any], traces: Iterable[Stored]) -> tuple[Facts, Facts]:
    """Mechanisms and gaps, of the run and of its traces, by the name of the hook."""
    merged: tuple[dict[str, str], dict[str, str]] = {}, {}
    for to, name in zip(merged, ("mechanisms", "gaps"), strict=True):
        for holder in (document.get(name), *(getattr(trace.meta, name) for trace in traces)):
            if isinstance(holder, Mapping):
                for hook, how in holder.items():
                    told = to.setdefault(shown(hook), shown(how))
                    if shown(how) not in told.split(" | "):
                        to[shown(hook)] = shown(f"{told} | {how}")
    return tuple(merged[0].items()), tuple(merged[1].items())


def _texts(values: object) -> list[str]:
    return [shown(value) for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _coverage(drawn: Shown) -> tuple[str, ...]:
    """How much of the trace the page has, in numbers."""
    told = []
    total = sum(file.operations for file in drawn.files)
    if all(file.whole for file in drawn.files):
        told.append(f"All {total:,} operations are in this page, one by one.")
    else:
        told.append(
            f"Only a part is in this page one by one: {drawn.held:,} of {total:,} operations, those around the hazards"
            " that are told; all are counted by time and offset."
        )
    if drawn.not_drawn:
        marks = " and ".join(f"{count:,} of {kind}" for kind, count in drawn.not_drawn.items())
        told.append(f"Marks of the driver that have no box: {marks}.")
    if drawn.other_files:
        told.append(
            f"{drawn.other_operations:,} operations in {drawn.other_files:,} other files are not shown; the verdict"
            " rests on them, too."
        )
    return tuple(told)
