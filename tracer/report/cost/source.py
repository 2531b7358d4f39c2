"""What there is to tell of a bench: its JSON, checked, with the ratios made anew of the seconds in it.

The file comes from elsewhere: its size is limited, its types are those of the schema, and every name may be hostile.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer import documents
from tracer.bench.sides import QEMU
from tracer.bench.statistics import CONFIDENCE, ROUNDS, Estimate, estimate
from tracer.bench.stored import belied, seconds_of
from tracer.errors import Status, UsageError
from tracer.files import open_regular
from tracer.reference.bench_schema import BENCH
from tracer.report.escape import printable

MAX_BYTES = 64 << 20
"""Of a file. Nine workloads of a hundred rounds take a quarter of a MiB."""

TOO_FEW = "too few rounds"


@dataclass(frozen=True, slots=True)
class Side:
    """What did a workload: a strategy, or qemu-img bench."""

    name: str
    seconds: float
    """Median of the rounds."""
    cpu: float | None
    """Seconds of CPU, user and system together, median; None: nobody knows."""
    ratio: Estimate | None
    """To the baseline; None: it is that."""
    latency_us: Mapping[str, Mapping[str, float]]
    """Class of requests -> p50, p99, p99.9 in us, medians of the rounds."""
    figures: Mapping[str, Any]
    """Of the watched run (tracer/bench/figures.py)."""

    @property
    def is_strategy(self) -> bool:
        """Whether it is blockstack's, and not the outside reference."""
        return self.name != QEMU

    @property
    def conclusion(self) -> str:
        """Of its ratio, in words; empty for the baseline."""
        if self.ratio is None:
            return ""
        return TOO_FEW if self.ratio.rounds < ROUNDS else self.ratio.conclusion.value


@dataclass(frozen=True, slots=True)
class Measured:
    """A workload."""

    name: str
    title: str
    rounds: str
    """How many requests and rounds, and why no more."""
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """A result."""

    baseline: str
    measured: tuple[Measured, ...]
    conditions: str
    """Where it was measured, and what the ratios are, in a sentence or two."""
    notes: tuple[str, ...]
    status: Status
    """As the bench ended: 3 if a workload has too few rounds for any conclusion."""


def is_one(path: Path) -> bool:
    """Whether a file is JSON, which no trace is."""
    try:
        with open_regular(path) as stream:
            return stream.read(64).lstrip()[:1] == b"{"
    except (OSError, UsageError):
        return False  # whoever opens it for what it is will say so


def load(path: Path) -> Cost:
    """Read what `bench --json` has written. Raises UsageError."""
    shown = printable(str(path))
    document = documents.read(path, MAX_BYTES)
    told = document.get("schema") if isinstance(document, dict) else None
    if told != BENCH["properties"]["schema"]["const"]:
        raise UsageError(
            f"{shown}: its schema is {printable(str(told))[:60]!r}: report reads a trace, the directory of"
            " verify -o, or the JSON of bench"
        )
    wrong = documents.misfit(document, BENCH) or belied(document)
    if wrong:
        raise UsageError(f"{shown}: not a result of `eofrace bench`: {printable(wrong)}")
    return of(document)


def of(document: Mapping[str, Any]) -> Cost:
    """What a result says that is known to be one."""
    measured = tuple(_measured(one, document["baseline"]) for one in document["workloads"])
    disk = f" on a disk with {document['delay_ms']} ms more for each request" if document["delay_ms"] else ""
    conditions = (
        f"{document['fs']}{disk}, aio={document['aio']}, clusters of {document['cluster_size']} bytes; kernel"
        f" {document['host']['kernel']}, {document['qemu']}; seed {document['seed']}. Ratios are of times to"
        f" `{document['baseline']}`: medians of rounds, with {CONFIDENCE:.0%} bootstrap intervals."
    )
    enough = all(one["rounds"] >= ROUNDS or len(one["sides"]) == 1 for one in document["workloads"])
    status = Status.OK if enough else Status.INCONCLUSIVE
    return Cost(document["baseline"], measured, conditions, tuple(document["notes"]), status)


def _measured(measured: Mapping[str, Any], baseline: str) -> Measured:
    workload, seconds = measured["workload"], seconds_of(measured)
    why = "narrow enough" if measured["stopped"] == "narrow" else "budget spent"
    if len(seconds) == 1:
        why = "nobody to compare with"
    rounds = f"{workload['count']} requests, {workload['depth']} in flight; {measured['rounds']} rounds ({why})"
    sides = tuple(_side(one, seconds, baseline) for one in measured["sides"])
    return Measured(workload["name"], workload["title"], rounds, sides)


def _side(side: Mapping[str, Any], seconds: Mapping[str, list[float]], baseline: str) -> Side:
    name = side["side"]
    used = [side["cpu"][which] for which in ("user", "system")]
    return Side(
        name,
        statistics.median(seconds[name]),
        None if None in used else sum(used),
        None if name == baseline else estimate(seconds[name], seconds[baseline]),
        side["latency_us"],
        side["figures"] or {},
    )
