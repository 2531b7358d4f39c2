"""Counts that take no more room the longer a recording lasts."""

import numpy as np
import pytest

from tracer.capture import result
from tracer.capture.result import Totals
from tracer.operations import OPERATION, Columns, Op, in_columns


def writes(inodes: list[int], *, size: int = 10) -> Columns:
    ops = np.zeros(len(inodes), OPERATION)
    ops["op"], ops["dev"], ops["ino"] = Op.BUFFERED_WRITE, 5, inodes
    ops["seq_begin"], ops["seq_end"], ops["result"] = 1, 2, size
    return in_columns(ops)


def test_files_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "MAX_FILES", 100)
    totals = Totals()
    for first in range(1000, 6000, 50):
        totals.add(writes([1] * 3 + list(range(first, first + 50))), {})
        assert len(totals.files) <= 200
    assert totals.files[5, 1].operations == 300
    assert totals.files[5, 1].bytes == 3000
    assert totals.evicted + len(totals.files) == 5001
    assert totals.others.operations + sum(count.operations for count in totals.files.values()) == totals.operations
    assert totals.others.bytes + sum(count.bytes for count in totals.files.values()) == 10 * totals.operations


def test_as_many_as_there_is_room_for_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "MAX_FILES", 100)
    totals = Totals()
    totals.add(writes(list(range(200))), {})
    assert (len(totals.files), totals.evicted, totals.others.operations) == (200, 0, 0)
