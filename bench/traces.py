"""Traces to be judged: random writes and fallocates on some files, as a recorder would have kept them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tracer import trace
from tracer.capture.parts import Directory
from tracer.operations import NONE_SIZE, OPERATION, Op, Operations, in_columns
from tracer.trace import TraceMeta

FILES = 64
SHORTEST_NS, LONGEST_NS = 20_000, 400_000  # in flight
PER_SECOND = 155_000
"""Operations that begin in a second: what a recorder has kept up with."""

FALLOCATES = 51
"""Every so many-th operation is a fallocate: 200,000 to 10 million writes."""

_BLOCK = 1 << 20
BYTES = 30
"""On disk, of an operation, at most."""


def record(path: Path, count: int, seed: int) -> None:
    """Write a trace of `count` operations, a directory of parts. The sequence number 1 is left free."""
    directory = Directory(path, 200_000, lambda: TraceMeta(seed=seed))
    for ended in _ended(count, seed):
        directory.add(in_columns(ended), 0)
    directory.close()


def with_one_that_lasts(path: Path, source: Path) -> None:
    """Write the trace `source` once more, with one write in flight from the begin to the end of it."""
    path.mkdir()
    *others, last = sorted(source.iterdir())
    for part in others:
        os.link(part, path / part.name)
    read = trace.read(last)
    ops = np.concatenate([read.ops[:1], read.ops])
    write = ops[:1]
    write["op"], write["seq_begin"], write["seq_end"] = Op.AIO_WRITE, 1, read.ops["seq_end"].max() + 1
    write["t_begin"], write["t_end"] = 0, read.ops["t_end"].max()
    write["result"] = write["length"]
    trace.write(path / last.name, ops, read.meta)


def record_growing(path: Path, count: int, seed: int) -> None:
    """Write a trace of one file that grows by every operation, as a healthy kernel has it: no size goes back."""
    chance = np.random.default_rng(seed)
    ops = _begun(chance, count, 0, 0)
    lasts = ops["t_end"] - ops["t_begin"]
    ops["t_begin"] *= 4  # eight in flight, on average
    ops["t_end"] = ops["t_begin"] + lasts
    ops["ino"], ops["length"] = 1, chance.integers(1, 17, count) << 12
    ops["result"][ops["op"] == Op.AIO_WRITE] = ops["length"][ops["op"] == Op.AIO_WRITE]
    until = np.cumsum(ops["length"])
    ops["offset"] = until - ops["length"]
    by_end = np.argsort(ops["t_end"], kind="stable")
    ends, sizes = ops["t_end"][by_end], np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(until[by_end])])
    ops["size_begin"] = sizes[np.searchsorted(ends, ops["t_begin"], "left")]
    ops["size_end"] = sizes[np.searchsorted(ends, ops["t_end"], "right")]
    numbers = np.empty(2 * count, np.uint64)
    numbers[np.argsort(np.concatenate([ops["t_begin"], ops["t_end"]]), kind="stable")] = np.arange(1, 2 * count + 1)
    ops["seq_begin"], ops["seq_end"] = numbers[:count], numbers[count:]
    trace.write(path, ops, TraceMeta(seed=seed))


def _ended(count: int, seed: int) -> Iterator[Operations]:
    """Yield the operations in the order of their ends, in blocks."""
    chance = np.random.default_rng(seed)
    open_ops = np.empty(0, OPERATION)
    number, now = 2, 0
    for low in range(0, count, _BLOCK):
        size = min(_BLOCK, count - low)
        begun = _begun(chance, size, low, now)
        now = int(begun["t_begin"][-1])
        ops = np.concatenate([open_ops, begun])
        past = (ops["t_end"] <= now) | (low + size == count)
        times = np.concatenate([begun["t_begin"], ops["t_end"][past]])
        numbers = np.empty(len(times), np.uint64)
        numbers[np.argsort(times, kind="stable")] = np.arange(number, number + len(times))
        number += len(times)
        ops["seq_begin"][len(open_ops) :] = numbers[:size]
        ops["seq_end"][past] = numbers[size:]
        ended, open_ops = ops[past], ops[~past]
        yield ended[np.argsort(ended["seq_end"])]


def _begun(chance: np.random.Generator, size: int, low: int, now: int) -> Operations:
    """The next operations, without numbers."""
    ops = np.zeros(size, OPERATION)
    ops["t_begin"] = now + 1 + np.cumsum(chance.integers(0, 2 * 10**9 // PER_SECOND, size))
    ops["t_end"] = ops["t_begin"] + chance.integers(SHORTEST_NS, LONGEST_NS, size)
    is_fallocate = (low + np.arange(size)) % FALLOCATES == 0
    ops["op"] = np.where(is_fallocate, Op.FALLOCATE, Op.AIO_WRITE)
    ops["dev"], ops["ino"] = 2049, chance.integers(1, FILES + 1, size)
    ops["offset"], ops["length"] = chance.integers(0, 1 << 20, size) << 12, 4096
    ops["result"] = np.where(is_fallocate, 0, 4096)
    ops["size_begin"] = chance.integers(0, 1 << 20, size) << 12
    ops["size_end"], ops["size_applied"] = np.maximum(ops["size_begin"], ops["offset"] + 4096), NONE_SIZE
    ops["pid"], ops["tid"], ops["comm"] = 4711, 4712, b"qemu"
    return ops
