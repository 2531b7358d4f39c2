"""The JSON of `bench`, as a JSON Schema."""

from tracer.bench import blocked, result
from tracer.bench.statistics import Conclusion
from tracer.bench.workload import Image
from tracer.reference.shapes import (
    BOOLEAN,
    COUNT,
    INTEGER,
    NUMBER,
    SAID,
    TEXT,
    TEXTS,
    Schema,
    array,
    document,
    or_null,
    record,
)
from tracer.reference.verify_schema import HOST

_POINTS = record({name: NUMBER for name in ("count", "mean", "p50", "p99", "p99.9")})

_ESTIMATE = record(
    {
        "ratio": NUMBER,
        "low": NUMBER,
        "high": NUMBER,
        "rounds": COUNT,
        "conclusion": {"enum": [conclusion.value for conclusion in Conclusion]},
    }
)

ROUNDS = 20_000
"""The most that a result may have: an interval is drawn from all of them, and a day of the shortest is not as many."""

_TRACED = ("fallocates", "fallocate_ns", "fallocates_together", "writes", "written_bytes")
_TOLD = ("requests", "waited", "waited_ns", "block_io_delay_ns")

_FIGURES: Schema = record(
    {
        "dropped": COUNT,
        "device_bytes": or_null(INTEGER),
        "device_writes": or_null(INTEGER),
        "extents": or_null(COUNT),
        "extents_before": or_null(COUNT),
        "fallocates": COUNT,
        "fallocate_ns": COUNT,
        "fallocates_together": NUMBER,
        "writes": COUNT,
        "written_bytes": COUNT,
        "requests": COUNT,
        "waited": COUNT,
        "waited_ns": COUNT,
        "block_io_delay_ns": or_null({"type": "object", "additionalProperties": COUNT}),
        "asleep_ns": or_null(record(dict.fromkeys(blocked.PLACES, COUNT))),
    },
    optional=("dropped", "asleep_ns", *_TRACED, *_TOLD),
)

_SIDE = record(
    {
        "side": SAID,
        "driver": {"enum": ["blockstack", "qemu"]},
        "seconds": array(NUMBER, least=1, most=ROUNDS),
        "cpu": record({"user": or_null(NUMBER), "system": or_null(NUMBER)}),
        "latency_us": {"type": "object", "additionalProperties": _POINTS},
        "compared": {"type": "object", "additionalProperties": _ESTIMATE},
        "figures": or_null(_FIGURES),
    }
)

_WORKLOAD = record(
    {
        "name": SAID,
        "title": TEXT,
        "length": COUNT,
        "step": COUNT,
        "start": COUNT,
        "image": {"enum": [image.value for image in Image]},
        "count": COUNT,
        "depth": COUNT,
        "random": BOOLEAN,
        "reads": COUNT,
        "flush_every": COUNT,
        "within": COUNT,
        "size": COUNT,
    },
    optional=("within",),
)

BENCH = document(
    result.SCHEMA,
    "`bench --json`",
    "What strategies cost: seconds of each round, ratios of times (above 1 is slower), and where the time went.",
    {
        "host": HOST,
        "qemu": TEXT,
        "seed": COUNT,
        "fs": TEXT,
        "aio": TEXT,
        "cluster_size": COUNT,
        "delay_ms": COUNT,
        "budget": NUMBER,
        "precision": NUMBER,
        "confidence": NUMBER,
        "baseline": SAID,
        "notes": TEXTS,
        "workloads": array(
            record(
                {
                    "workload": _WORKLOAD,
                    "rounds": COUNT,
                    "stopped": {"enum": ["narrow", "budget"]},
                    "sides": array(_SIDE, least=1),
                }
            ),
            least=1,
        ),
    },
)
