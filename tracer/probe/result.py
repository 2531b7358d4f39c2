"""The verdict on one mode of one file system, over all tries; and the report of a run, as JSON."""

import os
from dataclasses import dataclass, field
from typing import Any

from tracer.errors import Status
from tracer.probe.judge import Judgement, Verdict
from tracer.probe.observation import Observation

_ORDER = (Verdict.RACY, Verdict.INCONCLUSIVE, Verdict.UNSUPPORTED, Verdict.SAFE)
"""One racy try is enough; one that shows nothing takes the others' claim away."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one mode of fallocate on one file system."""

    fs: str
    mode: str
    method: str  # `held` or `repetition`
    judgement: Judgement
    tries: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # verdict -> tries that ended so
    shown: Observation | None = None  # the try that the evidence is of
    size_expected: int | None = None
    size_found: int | None = None
    directory: str | None = None

    @property
    def verdict(self) -> Verdict:
        """In one word."""
        return self.judgement.verdict


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run."""

    results: list[Result]
    notes: list[str]
    mechanisms: dict[str, str]

    @property
    def status(self) -> Status:
        """Exit status of the command."""
        verdicts = {result.verdict for result in self.results}
        if Verdict.RACY in verdicts:
            return Status.HAZARD
        if Verdict.INCONCLUSIVE in verdicts:
            return Status.INCONCLUSIVE
        return Status.OK if Verdict.SAFE in verdicts else Status.UNSUPPORTED


def of_tries(fs: str, mode: str, tries: list[tuple[Observation, Judgement]]) -> Result:
    """Sum the tries up: the worst one speaks for all."""
    counts = {verdict.value: sum(one.verdict is verdict for _, one in tries) for verdict in Verdict}
    worst = next(verdict for verdict in _ORDER if counts[verdict])
    seen, judgement = next(one for one in tries if one[1].verdict is worst)
    said = f"{judgement.evidence} ({counts[worst]} of {len(tries)} tries {worst})"
    return Result(
        fs,
        mode,
        "held",
        Judgement(worst, said),
        len(tries),
        {name: count for name, count in counts.items() if count},
        seen,
        seen.layout.size if seen.held else None,
        seen.size_found,
    )


def to_json(report: Report) -> dict[str, Any]:
    """The run in the schema `eofrace.probe/1` (design.md), with fields of its own beside the documented ones."""
    kernel = os.uname()
    return {
        "schema": "eofrace.probe/1",
        "kernel": kernel.release,
        "kernel_version": kernel.version,
        "machine": kernel.machine,
        "results": [_result_json(result) for result in report.results],
        "mechanisms": report.mechanisms,
        "notes": report.notes,
    }


def _result_json(result: Result) -> dict[str, Any]:
    seen = result.shown
    held = seen is not None and seen.held and seen.t_released
    return {
        "fs": result.fs,
        "mode": result.mode,
        "verdict": result.verdict.value,
        "size_expected": result.size_expected,
        "size_found": result.size_found,
        "held_ms": round((seen.t_released - seen.t_held) / 1e6, 3) if seen is not None and held else None,
        "evidence": result.judgement.evidence,
        "method": result.method,
        "source": seen.source if seen is not None else None,
        "tries": result.tries,
        "counts": result.counts,
        "directory": result.directory,
        "waited": [] if seen is None else _waited_json(seen),
        "order": [] if seen is None else _order_json(seen),
        "lost_bytes": seen.wrong_bytes if seen is not None and seen.lost else 0,
    }


def _waited_json(seen: Observation) -> list[dict[str, Any]]:
    threads = (("write", seen.writer if seen.in_submit else None), ("fallocate", seen.fallocate))
    return [
        {"who": who, "where": waiting.where, "syscall": waiting.syscall, "stack": list(waiting.stack)}
        for who, waiting in threads
        if waiting is not None
    ]


def _order_json(seen: Observation) -> list[dict[str, Any]]:
    start = seen.events[0].t if seen.events else 0
    return [
        {"us": round((event.t - start) / 1000, 1), "event": event.what, "size": event.size} for event in seen.events
    ]
