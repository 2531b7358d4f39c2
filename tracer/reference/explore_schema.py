"""The JSON of `explore`, as JSON Schemas."""

from tracer.explore import judge, replay
from tracer.explore import run as explore
from tracer.reference.shapes import (
    BOOLEAN,
    COUNT,
    INTEGER,
    NUMBER,
    SAID,
    TEXT,
    VERDICT,
    array,
    document,
    or_null,
    record,
)

EXPLORE = document(
    explore.SCHEMA,
    "`explore --json`",
    "What the schedules of a small workload end with, on simulated file systems.",
    {
        "seed": INTEGER,
        "results": array(
            record(
                {
                    "strategy": TEXT,
                    "model": TEXT,
                    "writes": COUNT,
                    "guest": TEXT,
                    "cluster_size": COUNT,
                    "late": {},
                    "schedules": COUNT,
                    "states": COUNT,
                    "redundant": COUNT,
                    "exhaustive": BOOLEAN,
                    "outcomes": record({outcome.value: COUNT for outcome in judge.Outcome}),
                    "rules": {"type": "object"},
                    "disagreements": COUNT,
                    "crash_points": COUNT,
                    "crash_losses": COUNT,
                    "missed_probability": or_null(NUMBER),
                    "counterexample": or_null(TEXT),
                    "verdict": VERDICT,
                    "reason": SAID,
                }
            )
        ),
    },
)

SCHEDULE = document(
    replay.SCHEMA,
    "`explore -o DIR`, a file each",
    "A schedule that `explore --replay` runs again, bit by bit.",
    {
        "strategy": TEXT,
        "model": TEXT,
        "guest": TEXT,
        "cluster_size": COUNT,
        "tight": BOOLEAN,
        "late": BOOLEAN,
        "choices": array(COUNT),
        "outcome": {"enum": [outcome.value for outcome in judge.Outcome]},
        "wrong_sectors": array(COUNT),
        "digest": TEXT,
    },
)

REPLAY = document(
    "eofrace.replay/1",
    "`explore --replay --json`",
    "Whether a schedule ended as it did before.",
    {
        "outcome": {"enum": [outcome.value for outcome in judge.Outcome]},
        "same": BOOLEAN,
        "rules": {"type": "object"},
    },
)
