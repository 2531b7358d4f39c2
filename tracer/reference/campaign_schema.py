"""The JSON that `campaign` writes for others, as JSON Schemas; its own files are in tracer/campaign/shapes.py."""

from tracer.bench.statistics import Conclusion
from tracer.campaign import compare, rows, status
from tracer.campaign.keys import KEYS
from tracer.reference.shapes import BOOLEAN, COUNT, INTEGER, NUMBER, SAID, TEXT, TEXTS, array, document, record

_WHAT = [*status.VERDICTS.values(), rows.ERROR, status.UNFINISHED]
_COUNTED = {"type": "object", "properties": dict.fromkeys(_WHAT, COUNT), "additionalProperties": False}

STATUS = document(
    status.SCHEMA,
    "`campaign --json`, `campaign status --json`",
    "How far a run is, and which of its cells have to be looked at.",
    {
        "campaign": SAID,
        "run": SAID,
        "started": TEXT,
        "version": TEXT,
        "host_kernel": TEXT,
        "running": BOOLEAN,
        "cells": COUNT,
        "finished": COUNT,
        "counts": {
            "type": "object",
            "properties": {command: _COUNTED for command in KEYS},
            "additionalProperties": False,
        },
        "noted": array(record({"cell": TEXT, "what": {"enum": _WHAT}, "reason": TEXT, "exit": INTEGER})),
        "other_runs": TEXTS,
        "status": {"enum": [0, 1, 3, 4]},
    },
)

_VERDICT = {"enum": [*rows.VERDICTS]}

COMPARISON = document(
    compare.SCHEMA,
    "`campaign compare --json`",
    "What got worse from one run to another.",
    {
        "old": TEXT,
        "new": TEXT,
        "compared": COUNT,
        "confidence": NUMBER,
        "verdicts": array(record({"row": TEXT, "old": _VERDICT, "new": _VERDICT, "worse": BOOLEAN, "reason": TEXT})),
        "ratios": array(
            record(
                {
                    "row": TEXT,
                    "peer": TEXT,
                    "old": NUMBER,
                    "new": NUMBER,
                    "change": NUMBER,
                    "low": NUMBER,
                    "high": NUMBER,
                    "rounds": COUNT,
                    "conclusion": {"enum": [conclusion.value for conclusion in Conclusion]},
                }
            )
        ),
        "only_old": TEXTS,
        "only_new": TEXTS,
        "unsure": TEXTS,
        "worse": COUNT,
    },
)
