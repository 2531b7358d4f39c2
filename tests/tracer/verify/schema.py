"""design.md's contract of `verify --json`, as a JSON Schema."""

from typing import Any

COUNT = {"type": "integer", "minimum": 0}
VERDICT = {"enum": ["confirmed", "unsafe", "corrupt", "inconclusive"]}

CELL: dict[str, Any] = {
    "type": "object",
    "required": [
        "strategy", "fs", "aio", "fallocate", "kernel", "evidence", "guest_writes", "zero_writes",
        "post_eof_fallocates", "conflicts", "exposed", "kernel_serialised", "lost", "lost_events", "unfinished",
        "lost_bytes", "corrupt_clusters", "waits", "min_gap_ns", "verdict", "reason", "trace",
        "case", "held_ms", "relies_on_kernel", "format", "variant", "driver", "qemu", "control",
    ],
    "properties": {
        "strategy": {
            "anyOf": [
                {"enum": ["none", "serialise-xfs-native", "skip-zero-xfs", "no-alloc-space", "serialise", "auto"]},
                {"pattern": r"^(misled-)?qemu-[0-9.]+(#[0-9]+)?$"},
            ]
        },
        "driver": {"enum": ["blockstack", "qemu"]},
        "qemu": {"type": ["string", "null"]},
        "fs": {"type": "string"},
        "aio": {"enum": ["native", "threads", "io_uring"]},
        "fallocate": {"enum": ["kernel", "legacy-xfs"]},
        "kernel": {"type": "string"},
        "evidence": {"enum": ["kernel", "driver"]},
        **dict.fromkeys(
            (
                "guest_writes", "zero_writes", "post_eof_fallocates", "conflicts", "exposed", "kernel_serialised",
                "lost", "lost_events", "unfinished", "lost_bytes", "corrupt_clusters", "waits",
            ),
            COUNT,
        ),
        "min_gap_ns": {"type": ["integer", "null"]},
        "verdict": VERDICT,
        "reason": {"type": "string", "minLength": 1},
        "trace": {"type": ["string", "null"]},
        "relies_on_kernel": {"type": "boolean"},
        "case": {"enum": ["data", "far", "l2-table", "refcount-block", "raw", "overlay", "qcow2", "qcow2-128k", None]},
        "format": {"enum": ["qcow2", "raw", "parallels", "filter", "mirror"]},
        "variant": {"type": ["string", "null"]},
        "held_ms": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
}  # fmt: skip

VERIFY: dict[str, Any] = {
    "type": "object",
    "required": ["schema", "host", "seed", "cells", "verdict"],
    "properties": {
        "schema": {"const": "eofrace.verify/1"},
        "host": {"type": "object"},
        "seed": {"type": "integer"},
        "cells": {"type": "array", "items": CELL, "minItems": 1},
        "verdict": VERDICT,
    },
}
