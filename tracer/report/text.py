"""A report as plain text: of a run of `verify` the table and its sentences, of a trace its hazards and counts."""

import io
from pathlib import Path

from rich.text import Text

from tracer.output import write_text
from tracer.report.colours import STYLES
from tracer.report.console import Console
from tracer.report.escape import printable
from tracer.report.hazard_text import print_counts, print_hazards
from tracer.report.source import Recording, Source
from tracer.report.standing import Assessed, Standing, assess_all, concluded
from tracer.report.tables import told
from tracer.report.verify_table import print_cells

_STYLES = {Standing.PASSED: "green", Standing.FAILED: "bold red", Standing.ERROR: "yellow", Standing.SKIPPED: "dim"}


def write(source: Source, target: str | Path) -> None:
    """Write the report, without colours. Raises like `tracer.output.write_text`."""
    file = io.StringIO()
    print_source(source, Console(file=file, force_terminal=False, no_color=True, highlight=False, soft_wrap=True))
    write_text(target, file.getvalue())


def print_source(source: Source, console: Console) -> None:
    """Print the report, with colours if the console has some."""
    assessed = assess_all(source)
    told(console, Text(f"report on {printable(str(source.path))}"))
    if source.is_verify:
        print_cells([recording.cell for recording in source.recordings if recording.cell is not None], console)
    for recording, one in zip(source.recordings, assessed, strict=True):
        _print_recording(recording, one, console, whole=not source.is_verify)
    for note in conditions(source):
        told(console, Text(note))
    verdict, reason = concluded(source, assessed)
    told(console, Text(f"verdict: {verdict.value}", style=STYLES[verdict]).append(f" ({printable(reason)})"))


def _print_recording(recording: Recording, one: Assessed, console: Console, *, whole: bool) -> None:
    line = Text(f"{printable(recording.name)}: ", style="bold").append(one.standing.value, style=_STYLES[one.standing])
    told(console, line.append(f": {printable(one.reason)}", style="not bold"))
    for doubt in one.doubts:
        told(console, Text(f"  not complete: {printable(doubt)}", style="yellow"))
    analysis = recording.analysis
    if analysis is None or not (whole or one.standing is not Standing.PASSED or analysis.hazards):
        return
    print_hazards(analysis.hazards, console, indent="  ")
    if whole:
        print_counts(analysis.counts, console)


def conditions(source: Source) -> list[str]:
    """What the verdict rests on, in lines; printable."""
    document = source.document
    if not source.is_verify:
        analysis = source.recordings[0].analysis
        assert analysis is not None
        return [
            f"{analysis.operations} operations, {analysis.dropped} records dropped, {analysis.unfinished} operations"
            " unfinished"
        ]
    first = source.recordings[0].cell
    assert first is not None
    lines = [
        f"{first['fs']}, aio={first['aio']}, kernel {first['kernel']}; evidence: {first['evidence']};"
        f" seed {document.get('seed')}, {document.get('writes')} guest writes"
    ]
    gaps, notes = document.get("gaps"), document.get("notes")
    lines += [f"note: not attached: {hook}: {why}" for hook, why in (gaps if isinstance(gaps, dict) else {}).items()]
    lines += [f"note: {note}" for note in (notes if isinstance(notes, list) else [])]
    return [printable(line) for line in lines]
