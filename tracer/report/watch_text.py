"""`eofrace watch`, for people: each hazard as it happens, and what it has come to."""

from datetime import UTC, datetime

from rich.text import Text

from tracer.report.colours import STYLES
from tracer.report.console import plain
from tracer.report.escape import printable
from tracer.report.hazard_text import sentence
from tracer.report.tables import told
from tracer.report.trace_text import command_end
from tracer.watch.result import Event, Watched


def event_line(event: Event) -> str:
    """A hazard on one line, with the time (UTC) and the file."""
    when = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = printable(event.path) if event.path else f"device {event.dev}"
    said = Text.assemble(*sentence(event.hazard)).plain
    return f"{when} {path}: {said}"


def print_watched(watched: Watched, *, stderr: bool) -> None:
    """Print the summary."""
    console = plain(stderr=stderr)
    state, counts = watched.state, watched.state.counts
    operations = sum(state.operations.values())
    kinds = ", ".join(
        f"{count:,} {op.label}" for op, count in sorted(state.operations.items(), key=lambda item: -item[1])
    )
    told(console, Text(f"{operations:,} operations in {state.seconds:.1f} s: {kinds or 'none'}"))
    told(console, Text(f"{state.post_eof_fallocates:,} post-EOF fallocates"))
    if watched.exit_status is not None:
        told(console, Text(f"the command ended with {command_end(watched.exit_status)}"))
    else:
        told(console, Text(f"watching ended: {watched.ended_by}"))
    if state.in_flight:
        told(console, Text(f"{state.in_flight:,} in flight at the end: judged as far as they had come"))
    for what, why in watched.gaps.items():
        told(console, Text(f"note: not seen: {printable(f'{what}: {why}')}"))
    if counts.exposed:
        why = (
            f"{counts.exposed:,} pairs exposed, {counts.kernel_serialised:,} of them ordered by the kernel, "
            f"{counts.lost:,} lost"
        )
        if any(state.lost.values()):
            why += f"; not judged: {', '.join(watched.doubts)}"
    else:
        why = "; ".join(watched.doubts) or "no dangerous pair, and nothing that could hide one"
    verdict = watched.verdict
    told(console, Text.assemble("verdict: ", (verdict.value, STYLES[verdict]), f" ({why})"))
