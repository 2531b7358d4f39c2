"""The tables as Markdown, for a mail or a pull request. Names in them are code, or have their markup escaped."""

from tracer.output import write_text
from tracer.report.cost.source import Cost
from tracer.report.cost.text import FIGURE_HEADS, TIMES, figures, times
from tracer.report.markdown import code, sentence_of, table


def write(cost: Cost, target: str) -> None:
    """Write the report. Raises like `tracer.output.write_text`."""
    write_text(target, text(cost))


def text(cost: Cost) -> str:
    """The report."""
    parts = ["## eofrace: what each strategy costs"]
    for measured in cost.measured:
        parts.append(f"### {sentence_of(measured.name)}: {sentence_of(measured.title)}\n\n{measured.rounds}")
        heads = [(name, not at) for at, name in enumerate(TIMES)]
        rows = [[code(side.name), *times(side)[1:], side.conclusion] for side in measured.sides]
        parts.append(table([*heads, (f"than {code(cost.baseline)}", True)], rows))
        if any(side.figures for side in measured.sides):
            heads = [("where it goes (watched runs)", True), *((name, False) for name in FIGURE_HEADS)]
            parts.append(table(heads, [[code(side.name), *figures(side)] for side in measured.sides]))
    parts.append("\n".join(f"- {sentence_of(line)}" for line in (cost.conditions, *cost.notes)))
    return "\n\n".join(parts) + "\n"
