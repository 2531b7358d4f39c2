"""Where a write went that its call does not say: at the end of the file, or at a position that others move."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tracer import trace
from tracer.capture.run import Options, capture
from tracer.errors import Status
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.operations import Operations

pytestmark = pytest.mark.root

RING = str(Path(__file__).with_name("ring.py"))
WRITERS, EACH = 4, 300
HOW = ("shared", "own", "forked", "pwrite", "flag", "position")

LOAD = f"""
import os, sys, threading

def write(number, how, descriptor):
    data = bytes([number]) * number
    for _ in range({EACH}):
        if how == "flag":
            os.pwritev(descriptor, [data], 0, 0x10)  # RWF_APPEND
        elif how == "pwrite":
            os.pwrite(descriptor, data, 0)
        else:
            os.write(descriptor, data)

sys.setswitchinterval(1e-6)
for how in {HOW}:
    path = os.path.join(sys.argv[1], how)
    flags = os.O_RDWR | os.O_CREAT | (0 if how in ("position", "flag") else os.O_APPEND)
    shared = os.open(path, flags, 0o600)
    if how in ("own", "forked"):
        for number in range(1, {WRITERS} + 1):
            if not os.fork():
                write(number, how, os.open(path, flags) if how == "own" else shared)
                os._exit(0)
        for _ in range({WRITERS}):
            os.wait()
    else:
        threads = [threading.Thread(target=write, args=(i, how, shared)) for i in range(1, {WRITERS} + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""


@pytest.fixture(params=("xfs", "ext4", "btrfs"))
def scratch(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    """A file system of each kind."""
    with loop_scratch(request.param, 512 << 20, default_directory()) as made:
        yield made


def check(ops: Operations, path: Path) -> int:
    """Every operation lies where its data is, and no two in the same place; returns how many there are.

    A writer writes its number, that many times.
    """
    data = path.read_bytes()
    mine = ops[ops["ino"] == path.stat().st_ino]
    for offset, length in mine[["offset", "length"]].tolist():
        assert data[offset : offset + length] == bytes([length]) * length
    assert len(np.unique(mine["offset"])) == len(mine)
    return len(mine)


def test_many_at_once(scratch: Scratch, tmp_path: Path) -> None:
    """As often as it takes for some to begin with the same size: by that they would lie on top of each other."""
    for number in range(5):
        output = tmp_path / f"{number}.parquet"
        command = (sys.executable, "-c", LOAD, str(scratch.path))
        captured = capture(Options(command=command, output=output), lambda *_: None)
        assert captured.exit_status == 0
        ops = trace.read(output).ops
        found = {how: check(ops, scratch.path / how) for how in HOW}
        lost = {reason: count for reason, count in captured.totals.dropped.items() if count}
        assert sum(found.values()) + lost.get("place not known", 0) == len(HOW) * WRITERS * EACH
        if scratch.fs == "btrfs":
            assert found["own"] == WRITERS * EACH
            assert lost.keys() <= {"place not known"}
            assert captured.status is (Status.INCONCLUSIVE if lost else Status.OK)
        else:
            assert (lost, captured.status) == ({}, Status.OK)
        begun = np.unique(ops[["ino", "size_begin"]])
        if lost or len(begun) < len(ops):
            return
        for how in HOW:
            (scratch.path / how).unlink()
    pytest.fail("no two of them were ever in the kernel together")


def test_appending_by_io_uring(scratch: Scratch, tmp_path: Path) -> None:
    """Two at once, that begin with the same size; with a descriptor, and as a registered file."""
    output, file = tmp_path / "out.parquet", scratch.path / "f"
    captured = capture(Options(command=(sys.executable, RING, str(file), "appends"), output=output), lambda *_: None)
    assert captured.exit_status == 0
    ops = trace.read(output).ops
    ops = ops[ops["ino"] == file.stat().st_ino]
    assert sorted(ops["offset"].tolist()) == [0, 1000, 2000, 3000, 4000, 5000]
    assert captured.status is Status.OK
