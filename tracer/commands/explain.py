"""`eofrace explain`: what a word of the output means."""

import dataclasses
import difflib
import textwrap

import click

from tracer.analysis.rules import all_rules
from tracer.errors import UsageError
from tracer.output import JsonFile
from tracer.report.escape import printable
from tracer.report.explanations import Topic, topics

SCHEMA = "eofrace.explain/1"

_WIDTH = 80

_EPILOG = """\b
Examples:
  eofrace explain                        what can be explained
  eofrace explain inconclusive           a verdict
  eofrace explain post-eof-fallocate     a hazard rule, with the commits that show it is real
  eofrace explain kernel-serialised      what became of a pair
  eofrace explain control skipped        roles, strategies, words of a report
  eofrace explain 3                      an exit status

\b
Exit status: 0, or 2 for a word that means nothing here."""


@click.command(epilog=_EPILOG)
@click.argument("words", metavar="[VERDICT|RULE|OUTCOME|EXIT-STATUS|WORD]...", nargs=-1)
@click.option("--json", "json_file", metavar="FILE", help="Write it as JSON; - is stdout.")
def explain(words: tuple[str, ...], json_file: str | None) -> None:
    """Say what a verdict, a hazard rule, an outcome, an exit status, or another word of the output means."""
    known = topics(all_rules())
    if _plain(" ".join(words)) in {topic.name for topic in known}:
        words = (" ".join(words),)  # `too few rounds`, as it is printed
    found = list(dict.fromkeys(topic for word in words for topic in _meanings(known, word))) if words else list(known)
    into = JsonFile(json_file)
    into.write({"schema": SCHEMA, "topics": [dataclasses.asdict(topic) for topic in found]})
    if not into.is_stdout:
        click.echo("\n\n".join(map(_told, found)) if words else _listed(known))


def _plain(word: str) -> str:
    return "-".join(word.lower().replace("_", "-").split())


def _meanings(known: tuple[Topic, ...], word: str) -> list[Topic]:
    """What a word means, in whatever case. Raises UsageError."""
    wanted = _plain(word)
    found = [topic for topic in known if topic.name == wanted]
    if not found:
        near = difflib.get_close_matches(wanted, [topic.name for topic in known], 1)
        hint = f": did you mean {near[0]}?" if near else ": `eofrace explain` lists what can be"
        raise UsageError(f"'{printable(word)}' cannot be explained{hint}")
    return found


def _told(topic: Topic) -> str:
    heading = f"{printable(topic.name)} ({printable(topic.kind)}): {printable(topic.title)}"
    lines = [textwrap.fill(heading, _WIDTH, break_on_hyphens=False)]
    for paragraph in topic.paragraphs:
        lines += ["", textwrap.fill(printable(paragraph), _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join(lines)


def _listed(known: tuple[Topic, ...]) -> str:
    """One line each, with its title."""
    wide = max(len(topic.name) for topic in known)
    lines, kind = [], ""
    for topic in known:
        heading = topic.kind.partition(",")[0] if topic.kind.startswith("hazard rule") else topic.kind
        if heading != kind:
            kind = heading
            lines += ["", f"{heading}:"]
        line = f"  {printable(topic.name):{wide}}  {printable(topic.title)}"
        lines.append(textwrap.fill(line, _WIDTH, subsequent_indent=" " * (wide + 4)))
    return "\n".join(lines[1:])
