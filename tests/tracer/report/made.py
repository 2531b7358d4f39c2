"""Runs and traces for reports to tell of, made by hand: usual ones, and such as an enemy would send."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracer import trace
from tracer.analysis.examples import as_operations, operation
from tracer.operations import Op, Operations
from tracer.trace_meta import TraceMeta

K = 1024

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script><img src=x onerror=alert(1)>]]>&amp;"
    "|`a`|**b**|[c](javascript:alert(1))\n# heading\n- item\r\x00\x9b31m\u202e\ufffe\ud800@root https://evil.example"
    " www.evil.example"
)
"""What acts on a terminal, HTML, XML, Markdown, or a reader."""

COUNTS = ("guest_writes", "zero_writes", "post_eof_fallocates", "conflicts", "exposed", "kernel_serialised", "lost")

COMM = b"\x1b[2J<b>`|\n@x"
"""The same in the 16 bytes that a process' name has."""


def cell(verdict: str, **more: Any) -> dict[str, Any]:
    """A cell of verify.json, of a protecting strategy unless it says otherwise."""
    more_counts = ("lost_events", "unfinished", "lost_bytes", "corrupt_clusters", "waits")
    counts = dict.fromkeys((*COUNTS, *more_counts), 0) | {"conflicts": 60 if verdict == "confirmed" else 0}
    texts = {"strategy": "serialise", "fs": "xfs", "aio": "native", "fallocate": "kernel", "kernel": "6.1.0"}
    reason = f"because it is {verdict}"
    said = {"evidence": "kernel", "verdict": verdict, "reason": reason, "min_gap_ns": None, "trace": None}
    return {**counts, **texts, **said, **more}


def control(verdict: str = "unsafe", **more: Any) -> dict[str, Any]:
    """The cell of a control."""
    return cell(verdict, **{"strategy": "none", "control": True, "exposed": 1, **more})


def run(directory: Path, cells: Sequence[dict[str, Any]], verdict: str = "confirmed", **more: Any) -> Path:
    """A directory as `verify -o` leaves it."""
    directory.mkdir(exist_ok=True)
    document = {"schema": "eofrace.verify/1", "cells": list(cells), "verdict": verdict, "reason": "of the run"}
    (directory / "verify.json").write_text(json.dumps({**document, "seed": 7, "writes": 200, **more}))
    return directory


def exposed(comm: bytes = b"qemu", ino: int = 1) -> Operations:
    """An AIO write and a fallocate below it, in the kernel together; nothing of it was lost."""
    ops = as_operations(
        (
            operation(Op.AIO_WRITE, 1, 3, 64 * K, 64 * K),
            operation(Op.FALLOCATE, 2, 4, 0, 64 * K, size_begin=0),
        )
    )
    ops["comm"], ops["ino"], ops["pid"], ops["tid"] = comm, ino, 100, [100, 101]
    return ops


def stored(path: Path, ops: Operations, **meta: Any) -> Path:
    """A trace on disk."""
    trace.write(path, ops, TraceMeta(**meta))
    return path
