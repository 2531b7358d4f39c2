"""Traces on disk in whatever shape: any operations, in any order, over any files and row groups."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tracer import trace
from tracer.operations import NONE_RESULT, NONE_SIZE, OPERATION, WRITES, Op, Operations
from tracer.stored import Stored, stored
from tracer.trace import TraceMeta
from tracer.trace_meta import encode_groups

OPS = (Op.AIO_WRITE, Op.FALLOCATE, Op.TRUNCATE, Op.BUFFERED_WRITE)
K = 1024


@dataclasses.dataclass(frozen=True)
class Shape:
    """How a trace lies on disk."""

    parts: tuple[int, ...]
    """Which part each operation is in, modulo its length."""
    order: int
    """Seed of the order of rows in a part; 0: by `seq_begin`."""
    rows: int
    """Of a row group."""
    ranges: bool


SHAPES = st.builds(
    Shape,
    parts=st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple),
    order=st.integers(0, 3),
    rows=st.integers(1, 9),
    ranges=st.booleans(),
)


@st.composite
def operations(draw: st.DrawFn, max_size: int = 24) -> Operations:
    """Operations on a few files with each number used once, of which some never ended; emulated fallocates, too.

    From a seed: what takes time in such a test is to draw, and a smaller number of them shrinks the example.
    """
    return some(draw(st.integers(0, max_size)), draw(st.integers(0, 1 << 20)))


def some(count: int, seed: int) -> Operations:
    """The same of a seed."""
    chance = np.random.default_rng(seed)
    ops = np.zeros(count, OPERATION)
    # From all in flight together to each alone.
    places = np.arange(2 * count) + chance.integers(0, 1 + chance.choice([0, 4, 8, 4 * count + 1]), 2 * count)
    numbers = np.sort(1 + np.argsort(np.argsort(places, kind="stable")).reshape(-1, 2), axis=1)
    ops["seq_begin"], ops["seq_end"] = numbers[:, 0], np.where(chance.integers(0, 10, count) > 0, numbers[:, 1], 0)
    ops["op"] = chance.choice(OPS, count)
    files = np.array([(1, 1), (1, 2), (2, 1), (2**63, 2**64 - 1)], np.uint64)
    ops["dev"], ops["ino"] = files[chance.integers(0, 4, count)].T
    ops["offset"], ops["length"] = chance.integers(0, 6, count) * 64 * K, 64 * K
    ops["flags"] = chance.choice([0, 0, 1, 16], count)
    ops["comm"] = chance.choice([b"qemu", b"fio", b"w1", b"w2"], count)
    ended = ops["seq_end"] != 0
    ops["t_begin"] = 10 * (ops["seq_begin"] // 2)  # clocks that tie
    ops["t_end"] = np.where(ended, 10 * (ops["seq_end"] // 2), 0)
    sizes = np.maximum(chance.integers(-1, 6, (count, 3)) * 64 * K, NONE_SIZE)
    ops["size_begin"], ops["size_end"], ops["size_applied"] = np.where(ended[:, None], sizes, NONE_SIZE).T
    ops["t_applied"] = np.where(ended & (chance.integers(0, 2, count) > 0), ops["t_end"], 0)
    ops["result"] = np.where(ended, np.where(np.isin(ops["op"], WRITES), ops["length"], 0), NONE_RESULT)
    if chance.integers(2):
        ops["request"] = chance.integers(0, 3, count)
        ops["op"][chance.integers(0, 5, count) == 0] = Op.MARK_FALLOCATE
    return ops


def saved(path: Path, ops: Operations, shape: Shape, **meta: Any) -> Stored:
    """Write a trace as a directory of parts, and open it."""
    path.mkdir()
    count = max(shape.parts) + 1
    part_of = np.resize(np.array(shape.parts), len(ops))
    for number in range(count):
        mine = TraceMeta(part=number + 1, last=number == count - 1, **meta)
        _save(path / f"part-{number + 1:06d}.parquet", ops[part_of == number], mine, shape)
    return stored(path)


def _save(path: Path, ops: Operations, meta: TraceMeta, shape: Shape) -> None:
    sink = io.BytesIO()
    trace.write(sink, ops, meta)
    table = pq.read_table(io.BytesIO(sink.getvalue()))
    ops = ops[np.argsort(ops["seq_begin"], kind="stable")]
    if shape.order:
        order = np.random.default_rng(shape.order).permutation(len(ops))
        table, ops = table.take(order), ops[order]
    cut = [ops[low : low + shape.rows] for low in range(0, len(ops), shape.rows)]
    ranges = [trace.group_range({name: some[name] for name in OPERATION.names or ()}) for some in cut]
    described = {name: value for name, value in table.schema.metadata.items() if name != b"eofrace.groups"}
    table = table.replace_schema_metadata(described | (encode_groups(ranges) if shape.ranges else {}))
    pq.write_table(table, path, row_group_size=shape.rows)


def many(count: int, *, fallocates: int = 50, files: int = 4, seed: int = 1) -> Operations:
    """Writes in flight together by the dozen, every so many-th a fallocate instead."""
    chance = np.random.default_rng(seed)
    ops = np.zeros(count, OPERATION)
    begin = np.arange(count) * 1000
    times = np.concatenate([begin, begin + chance.integers(5_000, 40_000, count)])
    order = np.argsort(times, kind="stable")
    numbers = np.empty(2 * count, np.uint64)
    numbers[order] = np.arange(1, 2 * count + 1)
    ops["seq_begin"], ops["seq_end"] = numbers[:count], numbers[count:]
    ops["t_begin"], ops["t_end"] = times[:count], times[count:]
    ops["op"] = np.where(np.arange(count) % fallocates == 0, Op.FALLOCATE, Op.AIO_WRITE)
    ops["ino"] = chance.integers(1, files + 1, count)
    ops["offset"], ops["length"] = chance.integers(0, 1 << 20, count) * 4096, 4096
    ops["result"] = np.where(ops["op"] == Op.FALLOCATE, 0, 4096)
    ops["size_end"] = ops["size_applied"] = NONE_SIZE
    ops["size_begin"] = ops["offset"]
    return ops


def pairs_of(found: Sequence[Any]) -> list[tuple[int, int]]:
    """Pairs as `seq_begin` of both, sorted."""
    return sorted(
        pair
        for one in found
        for pair in zip(one.first["seq_begin"].tolist(), one.second["seq_begin"].tolist(), strict=True)
    )
