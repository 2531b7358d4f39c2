"""A report as JSON (`eofrace.report/1`): what was read, what all rules make of it, and how each recording stands."""

import json
from pathlib import Path
from typing import Any

from tracer.output import write_text
from tracer.report.source import Recording, Source
from tracer.report.standing import Assessed, assess_all, concluded

SCHEMA = "eofrace.report/1"


def write(source: Source, target: str | Path) -> None:
    """Write the report. Raises like `tracer.output.write_text`."""
    text = json.dumps(document(source), indent=1, allow_nan=False)
    # The one character that JSON need not escape and a terminal acts on.
    write_text(target, text.replace("\x7f", "\\u007f") + "\n")


def document(source: Source) -> dict[str, Any]:
    """The report; names in it are as they were found."""
    assessed = assess_all(source)
    verdict, reason = concluded(source, assessed)
    run = {name: value for name, value in source.document.items() if name != "cells"} if source.is_verify else None
    recordings = [_recording(*both) for both in zip(source.recordings, assessed, strict=True)]
    return {
        "schema": SCHEMA,
        "path": str(source.path),
        "kind": "verify" if source.is_verify else "trace",
        "verdict": verdict.value,
        "reason": reason,
        "status": int(verdict.status),
        "run": run,
        "recordings": recordings,
    }


def _recording(recording: Recording, one: Assessed) -> dict[str, Any]:
    return {
        "name": recording.name,
        "verdict": recording.verdict.value,
        "reason": recording.reason,
        "control": recording.control,
        "standing": one.standing.value,
        "standing_reason": one.reason,
        "doubts": list(one.doubts),
        "cell": recording.cell,
        "trace": None if recording.trace is None else str(recording.trace.path),
        "analysis": None if recording.analysis is None else recording.analysis.to_json(),
    }
