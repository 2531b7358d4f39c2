"""A report as Markdown (GitHub's, which most others read too), for a mail or a pull request.

What comes from elsewhere must not be markup: names stand in code spans, sentences with every character escaped that
Markdown or HTML acts on, and no word of them becomes a link or mentions anybody.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tracer.output import write_text
from tracer.report.escape import printable, shortened
from tracer.report.hazard_text import MAX_SENTENCES, sentence
from tracer.report.source import Recording, Source
from tracer.report.standing import Assessed, Standing, assess_all, concluded
from tracer.report.text import conditions
from tracer.report.verify_table import columns_of, row

_LONGEST = 2_000
"""Characters of a sentence from elsewhere: a pull request takes 65,536."""


def write(source: Source, target: str | Path) -> None:
    """Write the report. Raises like `tracer.output.write_text`."""
    write_text(target, text(source))


def text(source: Source) -> str:
    """The report."""
    assessed = assess_all(source)
    verdict, reason = concluded(source, assessed)
    parts = [f"## eofrace: {verdict.value}", sentence_of(reason) or "No reason was given."]
    if source.is_verify:
        parts.append(_cells(source, assessed))
    else:
        parts.append(f"Trace: {code(str(source.path))}")
        parts.append(_rules(source.recordings[0]))
    told = [line for both in zip(source.recordings, assessed, strict=True) for line in _told(*both)]
    parts += ["\n".join(told)] if told else []
    parts.append("\n".join(f"- {sentence_of(line)}" for line in conditions(source)))
    return "\n\n".join(parts) + "\n"


def _cells(source: Source, assessed: Sequence[Assessed]) -> str:
    cells = [recording.cell for recording in source.recordings if recording.cell is not None]
    columns = columns_of(cells)
    rows = []
    for cell, one in zip(cells, assessed, strict=True):
        values = [str(value) for value in row(cell, columns)]
        names = [
            code(value) if column.left else sentence_of(value) for column, value in zip(columns, values, strict=True)
        ]
        rows.append([*names, one.standing.value])
    return table([*((column.name, column.left) for column in columns), ("", True)], rows)


def _rules(recording: Recording) -> str:
    counts = {} if recording.analysis is None else recording.analysis.counts
    heads = [("rule", True), ("exposed", False), ("kernel-serialised", False), ("lost", False)]
    return table(
        heads,
        [
            [code(rule), str(count.exposed), str(count.kernel_serialised), str(count.lost)]
            for rule, count in counts.items()
        ],
    )


def table(heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """A table of columns, each with whether it is to the left; names and values are Markdown already."""
    lines = [[name for name, _ in heads], ["---" if left else "--:" for _, left in heads], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _told(recording: Recording, one: Assessed) -> list[str]:
    """A list item for what has to be said of a recording; none for one that passed and has no doubts."""
    hazards = () if recording.analysis is None else recording.analysis.hazards
    if one.standing is Standing.PASSED and not one.doubts and not recording.control and not hazards:
        return []
    lines = [f"- {code(recording.name)}: **{one.standing.value}**: {sentence_of(one.reason)}"]
    lines += [f"  - not complete: {sentence_of(doubt)}" for doubt in one.doubts]
    for hazard in hazards[:MAX_SENTENCES]:
        lines.append("  - " + sentence_of("".join(p if isinstance(p, str) else p[0] for p in sentence(hazard))))
    if len(hazards) > MAX_SENTENCES:
        lines.append(f"  - and {len(hazards) - MAX_SENTENCES} more")
    return lines


def code(name: str) -> str:
    """A name as a code span, also in a table."""
    shown = shortened(name, _LONGEST).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    # A space beside it keeps a backtick of the name apart from the fence; in a span of spaces alone it would stay.
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown.strip() else "(no name)"


def sentence_of(words: str) -> str:
    """A sentence in which nothing is markup, a link, or the name of anybody."""
    shown = shortened(" ".join(printable(word) for word in words.split()), _LONGEST)
    shown = re.sub(r"([\\`*_\[\]<>|~#!&])", r"\\\1", shown)
    # A zero-width joiner would be invisible, and stay in what is copied; an empty comment is not there at all.
    shown = re.sub(r"@(?=\w)|:(?=//)|(?<=www)\.", lambda match: match[0] + "<!-- -->", shown)
    return re.sub(r"^([-+]|\d+[.)])(?=\s)", r"\\\1", shown)
