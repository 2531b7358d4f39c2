"""What a run of the bench comes to, and its JSON."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tracer.bench.rounds import Measured, Options
from tracer.bench.sides import QEMU
from tracer.bench.statistics import CONFIDENCE, ROUNDS, Estimate
from tracer.errors import Status

SCHEMA = "eofrace.bench/1"


@dataclass(slots=True)
class Report:
    """A finished run."""

    options: Options
    host: Mapping[str, Any]
    qemu: str
    """Version of qemu-img."""
    measured: list[Measured]
    figures: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """Workload, side -> where the time went (tracer/bench/figures.py)."""
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """INCONCLUSIVE if a workload has too few rounds for any conclusion; one side alone is compared with nobody."""
        enough = all(one.rounds >= ROUNDS or len(one.sides) == 1 for one in self.measured)
        return Status.OK if enough else Status.INCONCLUSIVE


def middle(measured: Measured, side: str, *names: str) -> float | None:
    """Median over the rounds of a number of a run's figures; None if it has none."""
    found: list[float] = []
    for run in measured.runs[side]:
        value: Any = run
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(value)
    return statistics.median(found) if found else None


def to_json(report: Report) -> dict[str, Any]:
    """In the schema `eofrace.bench/1`: seconds and us as they are named, ratios of times (above 1 is slower)."""
    options = report.options
    return {
        "schema": SCHEMA,
        "host": dict(report.host),
        "qemu": report.qemu,
        "seed": options.seed,
        "fs": options.fs,
        "aio": options.aio,
        "cluster_size": options.cluster_size,
        "delay_ms": options.delay_ms,
        "budget": options.budget,
        "precision": options.width,
        "confidence": CONFIDENCE,
        "baseline": options.strategies[0],
        "notes": report.notes,
        "workloads": [_workload(report, measured) for measured in report.measured],
    }


def _workload(report: Report, measured: Measured) -> dict[str, Any]:
    workload = asdict(measured.workload)
    return {
        "workload": workload | {"size": measured.workload.size},
        "rounds": measured.rounds,
        "stopped": "narrow" if measured.narrow else "budget",
        "sides": [_side(report, measured, side) for side in measured.sides],
    }


def _side(report: Report, measured: Measured, side: str) -> dict[str, Any]:
    classes = sorted({name for run in measured.runs[side] for name in run.get("latency", {})})
    points = ("count", "mean", "p50", "p99", "p99.9")
    return {
        "side": side,
        "driver": "qemu" if side == QEMU else "blockstack",
        "seconds": measured.seconds(side),
        "cpu": {name: middle(measured, side, name) for name in ("user", "system")},
        "latency_us": {
            name: {point: middle(measured, side, "latency", name, point) for point in points} for name in classes
        },
        "compared": {other: _estimate(measured.compared(side, other)) for other in measured.sides if other != side},
        "figures": report.figures.get((measured.workload.name, side)),
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "rounds": found.rounds,
        "conclusion": found.conclusion.value,
    }
