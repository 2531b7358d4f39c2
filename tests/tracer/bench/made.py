"""A result of the bench as the command would write it, of times that are made up."""

import json
import random
from collections.abc import Mapping
from typing import Any

from tests.tracer.report.made import HOSTILE
from tracer.bench.blocked import PLACES
from tracer.bench.result import Report, to_json
from tracer.bench.rounds import Measured, Options
from tracer.bench.sides import QEMU
from tracer.bench.workload import Workload

FACTORS = {"none": 1.0, "no-alloc-space": 0.7, "serialise": 1.8, QEMU: 0.4}


def measured(name: str, rounds: int, factors: Mapping[str, float] = FACTORS) -> Measured:
    """A workload in which each side takes so many seconds, more or less."""
    chosen = random.Random(1)
    workload = Workload(name, "4 KiB of each cluster", 4096, 65536, count=40, depth=8)
    runs = {
        side: [
            {
                "seconds": seconds * chosen.lognormvariate(0, 0.05),
                "latency": {"write": {"count": 40, "mean": 2.0, "p50": 1500.0, "p99": 2500.0, "p99.9": 3500.0}},
            }
            for _ in range(rounds)
        ]
        for side, seconds in factors.items()
    }
    return Measured(workload, tuple(factors), runs)


def result(*workloads: Measured, **changes: Any) -> dict[str, Any]:
    """The JSON of these, or of three: a slower and a faster side, no difference, and too few rounds."""
    same = dict.fromkeys(FACTORS, 1.0)
    found = list(workloads) or [measured("random", 12), measured("sequential", 12, same), measured("append", 4)]
    strategies = tuple(side for side in found[0].sides if side != QEMU)
    options = Options(tuple(one.workload for one in found), strategies, "xfs", "native", 65536, 1e9, 0.1, 1)
    host = {
        **{"kernel": "6.18.44", "machine": "x86_64", "distribution": "Debian", "python": "3.11.2", "cpus": 2},
        **{"kernel_evidence": True, "facts": []},
    }
    report = Report(options, host, "qemu-img version 7.2.22", found)
    for one in found:
        for side in one.sides:
            report.figures[one.workload.name, side] = {
                **{"fallocates": 40, "fallocate_ns": 12_000_000, "fallocates_together": 1.25, "dropped": 0},
                **{"writes": 80, "written_bytes": 163840, "device_bytes": 5 << 20, "device_writes": 70},
                **{"extents": 81, "extents_before": 4, "block_io_delay_ns": {"11": 1_000_000, "12": 2_000_000}},
                "asleep_ns": {name: 7_000_000 * at for at, name in enumerate(PLACES)},
            }
    return {**json.loads(json.dumps(to_json(report))), **changes}


def hostile() -> dict[str, Any]:
    """The same with everything that can be a text hostile."""
    text = json.dumps(result(measured("fuzz", 12), notes=["a note"]))
    for word in ("none", "serialise", "no-alloc-space", "fuzz", "4 KiB of each cluster", "6.18.44", "xfs", "a note",
                 "write", "native", "qemu-img version 7.2.22"):  # fmt: skip
        text = text.replace(json.dumps(word), json.dumps(word + HOSTILE))
    found: dict[str, Any] = json.loads(text)
    return found
