"""What the files of a campaign look like, and as much of the commands' own JSON as a campaign relies on.

The types of the latter are those of the command's schema; required is only what is read here, since a run may be of an
eofrace that wrote less.
"""

from typing import Any

from tracer.campaign.keys import KEYS, NUMBERS, WORDS
from tracer.reference.bench_schema import BENCH
from tracer.reference.explore_schema import EXPLORE
from tracer.reference.shapes import COUNT, NUMBER, SAID, TEXT, TEXTS, Schema, array, document, record
from tracer.reference.verify_schema import VERIFY

CELL = "eofrace.campaign.cell/2"
ERROR = "eofrace.campaign.error/2"
RUN_OF = "eofrace.campaign.run/2"

_COMMAND: Schema = {"enum": list(KEYS)}
_KEY: Schema = {"type": "string", "pattern": "^[0-9a-f]{20}$"}
_DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_OPTIONS: Schema = {
    "type": "object",
    "required": ["seed"],
    "properties": {**dict.fromkeys(WORDS, TEXT), **dict.fromkeys(NUMBERS, COUNT)},
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}

_TRY = {
    "key": _KEY,
    "command": _COMMAND,
    "options": _OPTIONS,
    "words": TEXTS,
    "exit": {"type": "integer", "minimum": -128, "maximum": 255},
    "started": TEXT,
    "took": NUMBER,
    "host": TEXT,
    "host_kernel": TEXT,
    "version": TEXT,
    "digest": _DIGEST,
}

FINISHED_CELL = document(
    CELL,
    "`campaign`, runs/RUN/cells/KEY.json",
    "A finished cell; `result` is its command's own JSON. `digest` is of all the rest (tracer/campaign/records.py).",
    {**_TRY, "result": {"type": "object"}},
)

FAILED_CELL = document(
    ERROR,
    "`campaign`, runs/RUN/errors/KEY.json",
    "How the last try of a cell failed that is not finished.",
    {**_TRY, "error": SAID, "stderr": TEXT},
)

RUN = document(
    RUN_OF,
    "`campaign`, runs/RUN/run.json",
    "A run: its cells in the order of the plan, and what it was begun with.",
    {
        "number": {"type": "integer", "minimum": 1},
        "campaign": SAID,
        "version": TEXT,
        "host_kernel": TEXT,
        "started": TEXT,
        "cells": array(record({"key": _KEY, "command": _COMMAND, "options": _OPTIONS})),
        "digest": _DIGEST,
    },
)

_CELL_OF_VERIFY = (
    *("name", "strategy", "fs", "aio", "fallocate", "kernel", "evidence", "guest_writes", "zero_writes", "control"),
    *("post_eof_fallocates", "conflicts", "exposed", "kernel_serialised", "lost", "lost_events", "unfinished"),
    *("lost_bytes", "corrupt_clusters", "waits", "verdict", "reason"),
)
_RESULT_OF_EXPLORE = (
    *("strategy", "model", "guest", "schedules", "states", "exhaustive", "outcomes", "crash_losses"),
    *("verdict", "reason"),
)


def _needing(schema: Schema, *names: str, **changed: Schema) -> Schema:
    """The same object, in which only these are required and looked at, some of them changed."""
    known: dict[str, Any] = {**schema["properties"], **changed}
    return {"type": "object", "required": list(names), "properties": {name: known[name] for name in names}}


def _rows(schema: Schema, name: str, *names: str) -> Schema:
    """A list of objects, one at least, whose types are all checked, and of which these are required."""
    items = schema["properties"][name]["items"]
    return array({**items, "required": list(names)}, least=1)


_MEASURED = BENCH["properties"]["workloads"]["items"]
_SIDE = _MEASURED["properties"]["sides"]["items"]
_NAMED = _needing(_MEASURED["properties"]["workload"], "name")

RESULTS: dict[str, Schema] = {
    "verify": _needing(
        VERIFY, "schema", "seed", "cells", "verdict", "reason", cells=_rows(VERIFY, "cells", *_CELL_OF_VERIFY)
    ),
    "explore": _needing(EXPLORE, "schema", "seed", "results", results=_rows(EXPLORE, "results", *_RESULT_OF_EXPLORE)),
    "bench": _needing(
        BENCH,
        *("schema", "seed", "host", "baseline", "workloads"),
        host=record({"kernel": TEXT}),
        workloads=array(
            _needing(
                _MEASURED,
                *("workload", "rounds", "stopped", "sides"),
                workload=_NAMED,
                sides=array(_needing(_SIDE, "side", "seconds", "compared"), least=1),
            ),
            least=1,
        ),
    ),
}
"""Command -> what its JSON must be here."""
