"""The JSON that commands write, as JSON Schemas; closed sets of words are those of the code."""

from tracer.analysis import baseline, hazards
from tracer.analysis.rules import Outcome, Severity
from tracer.campaign.shapes import FAILED_CELL, FINISHED_CELL, RUN
from tracer.capture import result as capture
from tracer.operations import Op
from tracer.probe.judge import Verdict as ProbeVerdict
from tracer.probe.observation import MODES
from tracer.reference.bench_schema import BENCH
from tracer.reference.campaign_schema import COMPARISON, STATUS
from tracer.reference.explore_schema import EXPLORE, REPLAY, SCHEDULE
from tracer.reference.shapes import (
    BOOLEAN,
    COUNT,
    COUNTED,
    INTEGER,
    NAMED,
    NUMBER,
    SAID,
    TEXT,
    TEXTS,
    VERDICT,
    Schema,
    array,
    document,
    or_null,
    record,
)
from tracer.reference.verify_schema import HOST, VERIFY
from tracer.report import document as report
from tracer.report.standing import Standing
from tracer.trace_columns import COLUMNS, NULLS
from tracer.watch import result as watch

PROBE = document(
    "eofrace.probe/1",
    "`probe --json`",
    "Whether fallocate can cut off a write in flight, for each file system and mode.",
    {
        "kernel": TEXT,
        "kernel_version": TEXT,
        "machine": TEXT,
        "results": array(
            record(
                {
                    "fs": TEXT,
                    "mode": {"enum": list(MODES)},
                    "verdict": {"enum": [verdict.value for verdict in ProbeVerdict]},
                    "size_expected": or_null(INTEGER),
                    "size_found": or_null(INTEGER),
                    "held_ms": or_null(NUMBER),
                    "evidence": SAID,
                    "method": {"enum": ["held", "repetition"]},
                    "source": or_null({"enum": ["kernel", "driver"]}),
                    "tries": COUNT,
                    "counts": COUNTED,
                    "directory": or_null(TEXT),
                    "waited": array(record({"who": TEXT, "where": TEXT, "syscall": or_null(TEXT), "stack": TEXTS})),
                    "order": array(record({"us": NUMBER, "event": TEXT, "size": or_null(INTEGER)})),
                    "lost_bytes": COUNT,
                }
            )
        ),
        "mechanisms": NAMED,
        "notes": TEXTS,
    },
)

_TYPES = {"op": {"enum": [op.label for op in Op]}, "comm": TEXT}
OPERATION = record({name: _TYPES.get(name, or_null(INTEGER) if name in NULLS else INTEGER) for name, _ in COLUMNS})

_PAIR = {
    "first": OPERATION,
    "second": OPERATION,
    "outcome": {"enum": [outcome.label for outcome in Outcome]},
    "gap_ns": or_null(INTEGER),
}
_COUNTS = record({"exposed": COUNT, "kernel_serialised": COUNT, "lost": COUNT})
_BY_RULE: Schema = {"type": "object", "additionalProperties": _COUNTS}
_CODE_PATH = record({"op": TEXT, "mode": INTEGER, "comm": TEXT})
_FINDING = {
    "rule": SAID,
    "severity": {"enum": [severity.value for severity in Severity]},
    "dev": COUNT,
    "ino": COUNT,
    **_PAIR,
    "pairs": {"type": "integer", "minimum": 1},
    "counts": _COUNTS,
    "paths": record({"first": _CODE_PATH, "second": _CODE_PATH}),
    "examples": record(dict.fromkeys(("first", "worst", "last"), record(_PAIR))),
}

ANALYSIS = document(
    hazards.SCHEMA,
    "`analyze --json`",
    "What the hazard rules find in traces. `exposed` counts every pair; the other two are subsets of it.",
    {
        "operations": COUNT,
        "dropped": COUNT,
        "unfinished": COUNT,
        "hazards": array(record(_FINDING)),
        "counts": _BY_RULE,
        "verdict": VERDICT,
        "known": _BY_RULE,
        "stale": array({"type": "object"}),
    },
    optional=("known", "stale"),
)

_ANALYSIS_OR_NULL: Schema = {
    "anyOf": [{"type": "null"}, {key: ANALYSIS[key] for key in ("type", "required", "properties")}]
}

BASELINE = document(
    baseline.SCHEMA,
    "`analyze --write-baseline`",
    "Findings that are accepted: `analyze --baseline` does not tell of them.",
    {
        "findings": array(
            record(
                {"rule": SAID, "first": {"type": "object"}, "second": {"type": "object"}, "reason": TEXT},
                optional=("reason",),
            )
        )
    },
)

CAPTURE = document(
    capture.SCHEMA,
    "`trace --json`",
    "A recording that is over, and what the rules find in it.",
    {
        "seconds": NUMBER,
        "attached_after": NUMBER,
        "ended_by": TEXT,
        "exit_status": or_null(INTEGER),
        "operations": COUNTED,
        "failed": COUNT,
        "dropped": COUNT,
        "dropped_by": COUNTED,
        "unfinished": COUNT,
        "begun_before": COUNT,
        "files": array(
            record(
                {
                    "path": or_null(TEXT),
                    "earlier_paths": TEXTS,
                    "fs": or_null(TEXT),
                    "dev": COUNT,
                    "ino": COUNT,
                    "operations": COUNT,
                    "bytes": COUNT,
                }
            )
        ),
        "other_files": record({"evicted": COUNT, "operations": COUNT, "bytes": COUNT}),
        "mechanisms": NAMED,
        "gaps": TEXTS,
        "notes": TEXTS,
        "trace": or_null(TEXT),
        "analysis": _ANALYSIS_OR_NULL,
    },
)

WATCH = document(
    watch.SCHEMA,
    "`watch --json`",
    "Watching that is over.",
    {
        "seconds": NUMBER,
        "attached_after": NUMBER,
        "ended_by": TEXT,
        "exit_status": or_null(INTEGER),
        "operations": COUNTED,
        "post_eof_fallocates": COUNT,
        "in_flight": COUNT,
        "lost": COUNT,
        "lost_by": COUNTED,
        "hazards": COUNT,
        "counts": _BY_RULE,
        "mechanisms": NAMED,
        "gaps": TEXTS,
        "verdict": VERDICT,
        "doubts": TEXTS,
    },
)

WATCH_HAZARD = document(
    watch.HAZARD_SCHEMA,
    "`watch --json-lines`, a line each",
    "A hazard as it happens.",
    {"time": NUMBER, "path": or_null(TEXT), **_FINDING},
)

REPORT = document(
    report.SCHEMA,
    "`report --format json`",
    "A run that was kept, or a trace, and what all rules make of every trace. `run` is its verify.json less the cells.",
    {
        "path": TEXT,
        "kind": {"enum": ["verify", "trace"]},
        "verdict": VERDICT,
        "reason": TEXT,
        "status": {"enum": [0, 1, 3]},
        "run": {"type": ["object", "null"]},
        "recordings": array(
            record(
                {
                    "name": TEXT,
                    "verdict": VERDICT,
                    "reason": TEXT,
                    "control": BOOLEAN,
                    "standing": {"enum": [standing.value for standing in Standing]},
                    "standing_reason": TEXT,
                    "doubts": TEXTS,
                    "cell": {"type": ["object", "null"]},
                    "trace": or_null(TEXT),
                    "analysis": _ANALYSIS_OR_NULL,
                }
            )
        ),
    },
)

DOCTOR = document("eofrace.doctor/1", "`doctor --json`", "What this host can trace and mount.", HOST["properties"])

EXPLAIN = document(
    "eofrace.explain/1",
    "`explain --json`",
    "What the words of the output mean.",
    {"topics": array(record({"name": SAID, "kind": SAID, "title": SAID, "paragraphs": TEXTS}))},
)

KERNELS = document(
    "eofrace.vm.kernels/1",
    "`vm kernels --json`",
    "Kernels that the dedicated VM can boot.",
    {
        "kernels": array(
            record(
                {
                    "name": SAID,
                    "cached": BOOLEAN,
                    "release": or_null(TEXT),
                    "image": or_null(TEXT),
                    "size": or_null(COUNT),
                    "modules": BOOLEAN,
                    "detail": TEXT,
                }
            )
        ),
        "kvm": record({"works": or_null(BOOLEAN), "reason": TEXT}),
    },
)

DOCUMENTS = {
    "verify": VERIFY,
    "report": REPORT,
    "analysis": ANALYSIS,
    "baseline": BASELINE,
    "probe": PROBE,
    "capture": CAPTURE,
    "watch": WATCH,
    "watch-hazard": WATCH_HAZARD,
    "explore": EXPLORE,
    "schedule": SCHEDULE,
    "replay": REPLAY,
    "doctor": DOCTOR,
    "bench": BENCH,
    "campaign-status": STATUS,
    "campaign-comparison": COMPARISON,
    "campaign-run": RUN,
    "campaign-cell": FINISHED_CELL,
    "campaign-error": FAILED_CELL,
    "explain": EXPLAIN,
    "vm-kernels": KERNELS,
}
"""Name of the file in docs/reference/schemas, less .json -> schema."""
