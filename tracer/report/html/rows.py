"""Operations as packed columns: what can be foretold of a row is not stored, only by how much it differs.

A hundred bytes become seven. `assets/rows.js` foretells the same, row by row, and has every field back as it was;
only times lose what is below the unit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tracer.operations import NONE_CPU, NONE_RESULT, NONE_SIZE, WRITES, Op, Operations
from tracer.report.html.pack import I64, block

SEEN = {"size_begin": 1, "size_end": 2, "size_applied": 4, "t_applied": 8, "ended": 16, "cpu_begin": 32, "result": 64}
"""Bits of the column `seen`: what is not null."""


def pack_rows(ops: Operations, header: Mapping[str, Any], *, begin_ns: int, unit_ns: int) -> str:
    """Operations (n,) of one file, sorted by `seq_begin`, as a block. Times count in units from `begin_ns`."""
    names, comm = np.unique(ops["comm"], return_inverse=True)
    described = {
        **header,
        "comms": [name.decode("utf-8", "replace") for name in names.tolist()],
        "unit_ns": unit_ns,
        "writes": [int(op) for op in WRITES],
        "wait": int(Op.MARK_WAIT),
        "seen": SEEN,
    }
    return block(described, _columns(ops, begin_ns, unit_ns) | {"comm": comm.astype(np.int64)})


def _columns(ops: Operations, begin_ns: int, unit_ns: int) -> dict[str, I64]:
    signed = {name: ops[name].astype(np.int64) for name in ops.dtype.names or () if name != "comm"}
    ended = ops["seq_end"] != 0
    seen = {
        "size_begin": ops["size_begin"] != NONE_SIZE,
        "size_end": ops["size_end"] != NONE_SIZE,
        "size_applied": ops["size_applied"] != NONE_SIZE,
        "t_applied": ops["t_applied"] != 0,
        "ended": ended,
        "cpu_begin": ops["cpu_begin"] != NONE_CPU,
        "result": ops["result"] != NONE_RESULT,
    }
    begin = (signed["t_begin"] - begin_ns) // unit_ns
    end = np.where(ended, (signed["t_end"] - begin_ns) // unit_ns, begin)
    applied = (signed["t_applied"] - begin_ns) // unit_ns
    before = _same_request_before(ops)
    # The steps of an emulated fallocate have its range, and what waited is where it had waited for.
    offset, length = (
        _less_earlier(signed[name], before, np.zeros(len(ops), np.int64)) for name in ("offset", "length")
    )
    request = signed["request"]
    size = _last_seen(signed["size_begin"], seen["size_begin"])
    size_end = np.maximum(signed["size_begin"], signed["offset"] + signed["length"])
    told = np.where(
        np.isin(ops["op"], WRITES), signed["length"], np.where(ops["op"] == Op.MARK_WAIT, request, np.int64(0))
    )
    zero = np.int64(0)
    return {
        "op": signed["op"],
        "seen": sum((SEEN[name] * mask.astype(np.int64) for name, mask in seen.items()), np.zeros(len(ops), np.int64)),
        "seq_begin": _steps(signed["seq_begin"]),
        "seq_end": np.where(ended, signed["seq_end"] - signed["seq_begin"], zero),
        "t_begin": _steps(begin),
        "t_end": _less_earlier(end, before, begin),
        "t_applied": np.where(seen["t_applied"], end - applied, zero),
        "request_guest": _steps(request >> 32),
        "request_serial": _steps(request & 0xFFFFFFFF),
        "offset": offset,
        "length": length,
        "size_begin": np.where(seen["size_begin"], signed["size_begin"] - size, zero),
        "size_end": np.where(seen["size_end"], signed["size_end"] - size_end, zero),
        "size_applied": np.where(seen["size_applied"], signed["size_applied"] - signed["size_begin"], zero),
        "result": np.where(seen["result"], signed["result"] - told, zero),
        "flags": signed["flags"],
        "pid": _steps(signed["pid"]),
        "tid": signed["tid"] - signed["pid"],
        "cpu_begin": np.where(seen["cpu_begin"], signed["cpu_begin"], zero),
        "cpu_end": np.where(ended, signed["cpu_end"], zero),
    }


def _steps(values: I64) -> I64:
    """By how much each differs from the one before."""
    return np.diff(values, prepend=np.int64(0))


def _same_request_before(ops: Operations) -> I64:
    """Index of the last row before each that has the same request; -1: there is none."""
    before = np.full(len(ops), -1, np.int64)
    order = np.argsort(ops["request"], kind="stable")
    request = ops["request"][order]
    again = np.flatnonzero((request[1:] == request[:-1]) & (request[1:] != 0))
    before[order[again + 1]] = order[again]
    return before


def _less_earlier(values: I64, before: I64, otherwise: I64) -> I64:
    return values - np.where(before >= 0, values[before], otherwise)


def _last_seen(sizes: I64, seen: np.ndarray[Any, np.dtype[np.bool_]]) -> I64:
    """The size before each row that was seen last; 0 before the first."""
    rows = np.where(seen, np.arange(1, len(sizes) + 1), 0)
    last = np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(rows)])[:-1]
    return np.where(last > 0, sizes[last - 1], 0) if len(sizes) else sizes
