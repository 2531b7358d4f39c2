"""The order of two size updates, as a probe shows it."""

from typing import Any

import numpy as np

from tracer.analysis.size_order import First, SizeUpdate, size_order
from tracer.operations import NONE_SIZE, OPERATION, Op, Operations

K = 1024


def trace(**fallocate: Any) -> Operations:
    ops = np.zeros(3, OPERATION)
    ops["op"] = [Op.FALLOCATE, Op.AIO_WRITE, Op.TRUNCATE]
    ops["seq_begin"], ops["seq_end"] = [1, 2, 5], [4, 3, 6]
    ops["t_applied"] = [30, 20, 55]
    ops["length"], ops["offset"] = [64 * K, 64 * K, 0], [0, 64 * K, 64 * K]
    ops["result"] = [0, 64 * K, 0]
    ops["size_applied"] = [128 * K, 0, 128 * K]
    for name, value in fallocate.items():
        ops[name][0] = value
    return ops


def test_a_cut() -> None:
    found = size_order(trace(), 0, 1)
    assert (found.first, found.cut_to) == (First.WRITE, 64 * K)
    assert (found.fallocate, found.write) == (SizeUpdate(30, 128 * K), SizeUpdate(20, 0))


def test_the_fallocate_came_first() -> None:
    found = size_order(trace(t_applied=10, size_applied=0), 0, 1)
    assert (found.first, found.cut_to, found.fallocate) == (First.FALLOCATE, None, SizeUpdate(10, 0))


def test_not_seen() -> None:
    found = size_order(trace(t_applied=0, size_applied=NONE_SIZE), 0, 1)
    assert (found.first, found.cut_to, found.fallocate) == (First.UNKNOWN, None, SizeUpdate(None, None))


def test_the_size_was_left_alone() -> None:
    found = size_order(trace(size_applied=NONE_SIZE), 0, 1)
    assert (found.first, found.cut_to, found.fallocate) == (First.WRITE, None, SizeUpdate(30, None))


def test_an_emulated_fallocate_is_its_truncate() -> None:
    ops = trace(op=Op.MARK_FALLOCATE, seq_end=9, t_applied=70, size_applied=NONE_SIZE)
    ops["request"][[0, 2]] = 7
    found = size_order(ops, 0, 1)
    assert (found.first, found.cut_to, found.fallocate) == (First.WRITE, 64 * K, SizeUpdate(55, 128 * K))
