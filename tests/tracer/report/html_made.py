"""Runs and traces of which the tests write reports as HTML, and hostile ones among them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tracer import trace
from tracer.analysis.examples import as_operations, operation
from tracer.operations import Op, Operations
from tracer.trace_meta import TraceMeta

K = 1024

COMM = b"</script><img s"
"""What 15 characters of a thread's name can do."""

HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\"><svg onload=alert(1)>' onfocus=x \" autofocus {{7*7}} "
    "\u2028\u2029\x1b[31m\x00\x07\u202e]]>&lt;b&gt;"
)

COUNTS = (
    *("guest_writes", "zero_writes", "post_eof_fallocates", "conflicts", "exposed", "kernel_serialised", "lost"),
    *("lost_events", "unfinished", "lost_bytes", "corrupt_clusters", "waits"),
)


def pair(number: int = 0, *, lost: bool = True, comm: bytes = b"qemu") -> Operations:
    """A fallocate and a write behind it in the kernel together, a wait, and a request with its guest's write."""
    seq, at = 20 * number, 256 * K * number
    size = at + 64 * K if lost else at + 128 * K
    ops = as_operations(
        (
            operation(Op.MARK_GUEST_WRITE, seq + 1, seq + 12, 5 * K, 512, request=7 << 32),
            operation(Op.MARK_REQUEST, seq + 2, seq + 11, at, 64 * K, request=7 << 32 | 9, flags=9, result=0),
            operation(Op.AIO_WRITE, seq + 3, seq + 5, at + 64 * K, 64 * K, size_begin=at, size_end=at + 128 * K),
            operation(
                Op.FALLOCATE, seq + 4, seq + 6, at, 64 * K, size_begin=at, size_end=size, request=7 << 32 | 9, flags=16
            ),
            operation(Op.MARK_WAIT, seq + 7, seq + 10, at, 64 * K, request=7 << 32 | 9, result=5 << 32 | 4),
        )
    )
    ops["comm"], ops["pid"], ops["tid"] = comm, 4711, 4712
    return ops


def cell(strategy: str, verdict: str, **more: Any) -> dict[str, Any]:
    """As verify.json has it."""
    return {
        **dict.fromkeys(COUNTS, 0),
        "strategy": strategy,
        "fs": "xfs",
        "aio": "native",
        "fallocate": "kernel",
        "kernel": "6.1.0",
        "evidence": "kernel",
        "verdict": verdict,
        "reason": f"a reason for {verdict}",
        "min_gap_ns": 168_316,
        "trace": None,
        **more,
    }


def run(directory: Path, cells: list[tuple[dict[str, Any], Operations | None]], **more: Any) -> Path:
    """Keep a run of verify."""
    directory.mkdir()
    told = more.pop("meta", {})
    for number, (one, ops) in enumerate(cells):
        if ops is not None:
            one["trace"] = str(directory / f"{number}.parquet")
            dropped = one["lost_events"]
            meta = TraceMeta(command=("eofrace", "verify"), seed=7, dropped=dropped, **told)
            trace.write(one["trace"], ops, meta)
    document = {
        "schema": "eofrace.verify/1",
        "host": {"kernel": "6.1.0", "facts": [{"name": "XFS", "ok": True, "detail": "made", "remedy": ""}]},
        "seed": 7,
        "writes": 2000,
        "mechanisms": {"system calls": "raw tracepoints"},
        "gaps": {},
        "cells": [one for one, _ in cells],
        "verdict": "inconclusive",
        "reason": "all is well",
        **more,
    }
    (directory / "verify.json").write_text(json.dumps(document))
    return directory


def usual(directory: Path) -> Path:
    """A control that lost data, a strategy that is confirmed, and one whose recorder dropped something."""
    many = np.concatenate([pair(number) for number in range(3)])
    few = pair()[2:3]
    return run(
        directory,
        [
            (cell("none", "corrupt", conflicts=3, exposed=3, lost=3, control=True), many),
            (cell("serialise", "confirmed", conflicts=60), few),
            (cell("skip-zero-xfs", "inconclusive", lost_events=12, reason="12 records were dropped"), few),
            (cell("no-alloc-space", "confirmed", conflicts=60), None),
        ],
    )
