"""What a report makes of a verdict: passed, failed, an error, or nothing claimed; and what is doubtful about it.

The words are those of JUnit, because a CI dashboard knows no others: what is not `passed` must not look green there.
A report looks again: where a trace shows more than its cell in verify.json admits, the cell is an error.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockstack.fallocate import RACY
from blockstack.strategies import AUTO, CONTROL
from tracer.analysis.hazards import Verdict
from tracer.analysis.verdict import ENOUGH_CONFLICTS
from tracer.report.source import Recording, Source

_EXPOSURE = "post-eof-fallocate"
"""The rule that `exposed` of a cell counts the pairs of."""

_PROVED = (Verdict.UNSAFE, Verdict.CORRUPT)


class Standing(enum.StrEnum):
    """Of a recording, for whoever counts."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Assessed:
    """How a recording stands."""

    standing: Standing
    reason: str
    doubts: tuple[str, ...]
    """What is missing or does not fit, one phrase each."""
    contradicted: bool
    """Whether its trace shows more than is said of it."""


def assess(recording: Recording) -> Assessed:
    """How a recording stands. Its texts are as they were found: escape them."""
    contradiction = _contradiction(recording)
    doubts = (*([contradiction] if contradiction else []), *_doubts(recording))
    if contradiction:
        return Assessed(Standing.ERROR, contradiction, doubts, True)
    standing, reason = (_control if recording.control else _protecting)(recording)
    gone = _gone(recording)
    if gone and standing in (Standing.PASSED, Standing.SKIPPED):
        # It could not be judged again, so that nobody knows whether it bears the verdict out.
        standing, reason = Standing.ERROR, f"{gone}, so that it could not be judged again: {recording.reason}"
    return Assessed(standing, reason, doubts, False)


def _control(recording: Recording) -> tuple[Standing, str]:
    if recording.verdict in _PROVED:
        return Standing.PASSED, f"the control shows the hazard, as it must: {recording.reason}"
    if recording.verdict is Verdict.CONFIRMED:
        return Standing.FAILED, f"a control cannot be confirmed: {recording.reason}"
    cell = recording.cell or {}
    if any(cell.get(name, 0) for name in ("exposed", "lost", "lost_bytes", "lost_events")):
        return Standing.ERROR, f"inconclusive: {recording.reason}"
    return Standing.FAILED, f"the control is silent, so the run proves nothing: {recording.reason}"


def _protecting(recording: Recording) -> tuple[Standing, str]:
    match recording.verdict:
        case Verdict.CONFIRMED:
            return Standing.PASSED, recording.reason
        case Verdict.INCONCLUSIVE:
            return Standing.ERROR, f"inconclusive: {recording.reason}"
        case Verdict.UNSAFE if (recording.cell or {}).get("relies_on_kernel") is True:
            return Standing.SKIPPED, f"nothing is claimed: it left the order to the kernel: {recording.reason}"
        case verdict:
            return Standing.FAILED, f"{verdict.value}: {recording.reason}"


def _contradiction(recording: Recording) -> str:
    """Where a cell's numbers or its trace do not bear out what is said of it; empty: nowhere."""
    cell, analysis = recording.cell, recording.analysis
    if cell is None:
        return ""
    told = _belied(recording, cell)
    if told or analysis is None:
        return told
    found = analysis.counts.get(_EXPOSURE)
    for name, said, seen in (
        ("exposed pairs", cell["exposed"], 0 if found is None else found.exposed),
        ("lost writes", cell["lost"], 0 if found is None else found.lost),
        ("dropped events", cell["lost_events"], analysis.dropped),
        ("unfinished operations", cell["unfinished"], analysis.unfinished),
    ):
        if seen > said or (seen < said and name == "exposed pairs" and _is_ordinary(cell)):
            return f"verify.json has {said} {name}, its trace {seen}: the two do not belong together"
    if recording.verdict is Verdict.CONFIRMED and any(count.lost for count in analysis.counts.values()):
        return "it is said to be confirmed, and its trace shows losses"
    return _foreign(recording, cell, analysis.operations)


def _is_blockstack(cell: Mapping[str, Any]) -> bool:
    """Whether it is of blockstack on a qcow2 image: a column has a control of its own."""
    return (cell.get("format", "qcow2"), cell.get("driver", "blockstack")) == ("qcow2", "blockstack")


def _is_ordinary(cell: Mapping[str, Any]) -> bool:
    """The same, with a schedule that nobody chose: all its numbers are of its trace."""
    return _is_blockstack(cell) and cell.get("case") in (None, "")


_HARM = ("lost", "lost_bytes", "lost_bytes_traced", "corrupt_clusters")
_HOLES = ("exposed", "lost_events", "unfinished", "unaccounted")


def _belied(recording: Recording, cell: Mapping[str, Any]) -> str:
    """Where a cell's numbers are not those of its verdict (tracer/analysis/verdict.py); empty: nowhere."""
    harm = [f"{name} {cell[name]}" for name in _HARM if cell.get(name)]
    check = cell.get("qemu_img_check")
    harm += [f"qemu-img check: {check}"] if isinstance(check, Mapping) and any(check.values()) else []
    holes = [f"{name} {cell[name]}" for name in _HOLES if cell.get(name)]
    racy = cell["fallocate"] in RACY
    match recording.verdict:
        case Verdict.CONFIRMED if harm or holes:
            return f"it is said to be confirmed, and its numbers say otherwise: {', '.join(harm + holes)}"
        case Verdict.CONFIRMED if cell["conflicts"] < (ENOUGH_CONFLICTS if _is_ordinary(cell) else 1):
            return f"it is said to be confirmed by {cell['conflicts']} conflicts"
        case Verdict.UNSAFE if harm:
            return f"it is said to be unsafe, and its numbers say corrupt: {', '.join(harm)}"
        case Verdict.UNSAFE if recording.control and racy:
            return "a control that must lose data is said to be unsafe only"
        case Verdict.UNSAFE if not cell["exposed"] and _is_ordinary(cell):
            return "it is said to be unsafe, and no pair was exposed"
        case Verdict.CORRUPT if not harm:
            return "it is said to be corrupt, and nothing was lost"
    if recording.control and _is_ordinary(cell) and cell["strategy"] != CONTROL:
        return f"it is said to be a control, and its strategy is {cell['strategy']}"
    if cell.get("relies_on_kernel") and (cell["strategy"] != AUTO or racy):
        return f"it is said to leave the order to the kernel, and its strategy is {cell['strategy']}"
    return ""


def _foreign(recording: Recording, cell: Mapping[str, Any], operations: int) -> str:
    """What of a trace's own metadata says that it is not this cell's; empty: nothing."""
    assert recording.trace is not None
    for name in ("strategy", "fs", "aio", "fallocate", "evidence"):
        said = getattr(recording.trace.meta, name)
        if said is not None and said != cell[name]:
            return f"its trace is of another cell: {name} {said}, not {cell[name]}"
    if not operations and cell["guest_writes"]:
        return f"its trace is empty, after {cell['guest_writes']} guest writes"
    return ""


def _doubts(recording: Recording) -> list[str]:
    cell, analysis = recording.cell, recording.analysis
    found = [] if analysis is None else list(analysis.doubts)
    if cell is None:
        return found
    if cell["lost_events"] and not (analysis and analysis.dropped):
        found.append(f"{cell['lost_events']} records were dropped")
    if cell["unfinished"] and not (analysis and analysis.unfinished):
        found.append(f"{cell['unfinished']} operations were still in flight at the end")
    if cell.get("unaccounted"):
        found.append(f"{cell['unaccounted']} operations on which the driver and the trace disagree")
    if analysis and analysis.verdict.rank > max(recording.verdict.rank, Verdict.INCONCLUSIVE.rank):
        found.append(f"all rules call its trace {analysis.verdict.value}")
    if cell["evidence"] == "driver":
        found.append("the evidence is the driver's own clock: the kernel was not watched")
    if recording.trace is None:
        found.append(_gone(recording) or "no trace was kept")
    return found


def _gone(recording: Recording) -> str:
    """What a cell lacks that its verify.json names, as a phrase; empty: nothing."""
    kept = (recording.cell or {}).get("trace")
    if kept is None or recording.trace is not None:
        return ""
    return f"its trace {Path(kept).name} is not there any more"


def assess_all(source: Source) -> tuple[Assessed, ...]:
    """How every recording stands, in their order."""
    return tuple(map(assess, source.recordings))


def concluded(source: Source, assessed: tuple[Assessed, ...]) -> tuple[Verdict, str]:
    """The verdict that a report ends with: that of its source, or a worse one where the recordings do not bear it out.

    It is never better than what `verify` said. It is worse where a verify.json was edited, or belongs to other traces.
    """
    worst, guilty = Verdict.CONFIRMED, ""
    for recording, one in zip(source.recordings, assessed, strict=True):
        verdict = Verdict.CONFIRMED
        if one.standing is Standing.ERROR:
            verdict = Verdict.INCONCLUSIVE
        elif one.standing is Standing.FAILED:
            verdict = Verdict.INCONCLUSIVE if recording.control else recording.verdict
        if verdict.rank > worst.rank:
            worst, guilty = verdict, recording.name
    missing = _missing(source)
    if missing and worst is Verdict.CONFIRMED:
        worst, guilty = Verdict.INCONCLUSIVE, missing
    if worst.rank <= source.verdict.rank:
        claims = not source.is_verify or any(not recording.control for recording in source.recordings)
        return source.verdict, source.reason if claims else "no protecting strategy was run, and nothing is claimed"
    said = source.verdict.value
    return worst, f"the run ended with {said}, which its recordings do not bear out: {guilty}"


def _missing(source: Source) -> str:
    """What a run of verify has too much or too little of, for its verdict; empty: nothing."""
    if not source.is_verify:
        return ""
    names = [recording.name for recording in source.recordings]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice and all(_is_ordinary(recording.cell or {}) for recording in source.recordings):
        return f"{twice[0]} is there {names.count(twice[0])} times"
    controls = {_column(recording) for recording in source.recordings if recording.control}
    for recording in source.recordings:
        if not recording.control and recording.verdict is Verdict.CONFIRMED and _column(recording) not in controls:
            return f"{recording.name} has no control beside it"
    return ""


def _column(recording: Recording) -> tuple[object, ...]:
    """Of the matrix: what a cell and its control have in common."""
    cell = recording.cell or {}
    return (cell["fs"], cell["aio"], cell["fallocate"], cell.get("case")) if _is_blockstack(cell) else ("any",)
