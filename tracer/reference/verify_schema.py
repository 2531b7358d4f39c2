"""The schema of a run of `verify`."""

from blockstack.aio import ENGINES
from blockstack.fallocate import BEHAVIOURS
from blockstack.strategies import STRATEGIES
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
    array,
    document,
    or_null,
    record,
)
from tracer.verify.formats.registry import FORMATS

HOST = record(
    {
        "kernel": TEXT,
        "machine": TEXT,
        "distribution": TEXT,
        "python": TEXT,
        "cpus": COUNT,
        "kernel_evidence": BOOLEAN,
        "facts": array(record({"name": SAID, "ok": BOOLEAN, "detail": TEXT, "remedy": TEXT, "required": BOOLEAN})),
    }
)

CELL = record(
    {
        "name": SAID,
        "strategy": {"anyOf": [{"enum": list(STRATEGIES)}, {"pattern": "^(misled-)?qemu-[0-9.]+(#[0-9]+)?$"}]},
        "format": {"enum": list(FORMATS)},
        "variant": or_null(TEXT),
        "fs": TEXT,
        "aio": {"enum": list(ENGINES)},
        "fallocate": {"enum": list(BEHAVIOURS)},
        "case": or_null(TEXT),
        "kernel": TEXT,
        "evidence": {"enum": ["kernel", "driver"]},
        "guest_writes": COUNT,
        "zero_writes": COUNT,
        "post_eof_fallocates": COUNT,
        "conflicts": COUNT,
        "exposed": COUNT,
        "kernel_serialised": COUNT,
        "lost": COUNT,
        "lost_events": COUNT,
        "unfinished": COUNT,
        "unaccounted": COUNT,
        "lost_bytes": COUNT,
        "lost_bytes_traced": COUNT,
        "corrupt_clusters": COUNT,
        "waits": COUNT,
        "min_gap_ns": or_null(INTEGER),
        "held_ms": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "verdict": VERDICT,
        "reason": SAID,
        "trace": or_null(TEXT),
        "qemu_img_check": or_null(COUNTED),
        "block_io_delay_ns": or_null(COUNTED),
        "notes": TEXTS,
        "relies_on_kernel": BOOLEAN,
        "driver": {"enum": ["blockstack", "qemu"]},
        "qemu": or_null(TEXT),
        "control": BOOLEAN,
        "beside": or_null(COUNT),
        "rounds": array(record({"order": TEXT, "course": TEXT, "held_ms": or_null(NUMBER), "problem": or_null(TEXT)})),
    }
)

VERIFY = document(
    "eofrace.verify/1",
    "`verify --json`, and verify.json in `-o OUTDIR`",
    "A run of the matrix: a cell for each strategy and behaviour of fallocate.",
    {
        "host": HOST,
        "seed": COUNT,
        "writes": COUNT,
        "cluster_size": COUNT,
        "notes": TEXTS,
        "mechanisms": NAMED,
        "gaps": NAMED,
        "cells": {**array(CELL), "minItems": 1},
        "verdict": VERDICT,
        "reason": SAID,
    },
)
