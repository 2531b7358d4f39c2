"""The figures of a recording, by name: what every output that has room for them tells."""

from collections.abc import Mapping
from typing import Any

from tracer.report.fields import COUNTS, NAMES, TIMES
from tracer.report.source import Recording, Source

CELL = tuple(field.name for field in (*NAMES, *COUNTS, *TIMES))

RUN = ("seed", "writes", "cluster_size")


def of_recording(recording: Recording) -> dict[str, str]:
    """What is known of it, as texts that may be hostile. What is null is left out."""
    found = _texts(recording.cell or {}, CELL)
    found["verdict"] = recording.verdict.value
    analysis = recording.analysis
    if analysis is not None:
        found["trace_operations"] = str(analysis.operations)
        found["trace_dropped"] = str(analysis.dropped)
        found["trace_unfinished"] = str(analysis.unfinished)
        found["trace_verdict"] = analysis.verdict.value
        for rule, count in analysis.counts.items():
            if count.exposed:
                told = f"exposed {count.exposed}, kernel-serialised {count.kernel_serialised}, lost {count.lost}"
                found[f"rule.{rule}"] = told
    return found


def of_run(source: Source) -> dict[str, str]:
    """The same of the run as a whole."""
    found = _texts(source.document, RUN)
    for name in ("mechanisms", "gaps"):
        value = source.document.get(name)
        if isinstance(value, dict):
            found |= {f"{name}.{hook}": str(how) for hook, how in value.items()}
    return found


def _texts(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    return {name: str(values[name]) for name in names if values.get(name) is not None}
