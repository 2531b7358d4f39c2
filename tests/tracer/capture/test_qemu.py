"""The worked example of docs/qemu.md: what QEMU does to a fresh image, recorded exactly, judged, and its control."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tracer.capture.test_capture import stop, tracing
from tracer import trace
from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.errors import Status
from tracer.lab import children
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.operations import FALLOC_FL_ZERO_RANGE, Op, Operations

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("qemu-storage-daemon") is None, reason="needs qemu-utils"),
]

CLUSTER, CLUSTERS = 65536, 1000
INSIDE = 8192  # of a cluster: where the guest writes 4 KiB


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    with loop_scratch("xfs", 512 << 20, default_directory()) as scratch:
        yield scratch


@pytest.fixture
def image(scratch: Scratch) -> Iterator[Path]:
    path = scratch.path / "disk.qcow2"
    fresh(path)
    yield path
    path.unlink()


def fresh(path: Path) -> None:
    children.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1G"])


def recorded(image: Path, tmp_path: Path, *options: str) -> tuple[Captured, Operations]:
    """qemu-io writes to fresh clusters, to all of them at once."""
    writes = [f"aio_write -P 7 {at * CLUSTER + INSIDE} 4k\n" for at in range(CLUSTERS)]
    (tmp_path / "writes").write_text("".join([*writes, "aio_flush\n"]))
    command = (sys.executable, str(Path(__file__).with_name("qemu.py")), str(image), str(tmp_path / "writes"), *options)
    output = tmp_path / "out.parquet"
    captured = capture(Options(command=command, output=output), lambda *_: None)
    assert captured.exit_status == 0
    # A skipped program is the whole host's; here a missing operation would be seen.
    assert not any((captured.totals.dropped | {"program skipped": 0}).values()), captured.totals.dropped
    ops = trace.read(output).ops
    return captured, ops[ops["ino"] == image.stat().st_ino]


def hosts(image: Path) -> list[int]:
    """Host offsets of the guest's clusters, as QEMU tells them."""
    extents = json.loads(children.run(["qemu-img", "map", "--output=json", str(image)]).stdout)
    data = [extent for extent in extents if extent["data"] and "offset" in extent]
    return sorted(
        extent["offset"] + at for extent in data for at in range(0, extent["length"], CLUSTER)
    )  # fmt: skip


def assert_exact(ops: Operations, image: Path) -> None:
    """One zero-write of each cluster, and the guest's write in it, once."""
    places = hosts(image)
    assert len(places) == CLUSTERS
    zeroed = ops[(ops["op"] == Op.FALLOCATE) & (ops["flags"] == FALLOC_FL_ZERO_RANGE)]
    assert sorted(zeroed[["offset", "length"]].tolist()) == [(place, CLUSTER) for place in places]
    written = ops[np.isin(ops["op"], (Op.AIO_WRITE, Op.DIRECT_WRITE)) & (ops["length"] == 4096)]
    assert sorted(written["offset"].tolist()) == [place + INSIDE for place in places]
    assert np.all(ops["result"] >= 0)


def test_qemu_io_keeps_its_zero_writes_apart(image: Path, tmp_path: Path) -> None:
    captured, ops = recorded(image, tmp_path)
    assert_exact(ops, image)
    assert captured.status is Status.OK
    assert captured.analysis is not None
    assert not captured.analysis.hazards


def test_qemu_io_that_takes_the_file_for_longer_does_not(image: Path, tmp_path: Path) -> None:
    """Which of them meet is chance: on a machine that is busy with other things, none in one run of some twenty."""
    for _ in range(5):
        captured, ops = recorded(image, tmp_path, "misled")
        assert_exact(ops, image)
        if captured.status is Status.HAZARD:
            break
        fresh(image)
    assert captured.status is Status.HAZARD
    assert captured.analysis is not None
    assert {hazard.rule for hazard in captured.analysis.hazards} == {"post-eof-fallocate"}


def test_a_storage_daemon_that_runs_already(image: Path, tmp_path: Path) -> None:
    socket, output = tmp_path / "socket", tmp_path / "out.parquet"
    words = ["qemu-storage-daemon", "--nbd-server", f"addr.type=unix,addr.path={socket}"]
    words += ["--blockdev", f"driver=file,node-name=file,filename={image},aio=native,cache.direct=on"]
    words += ["--blockdev", "driver=qcow2,node-name=disk,file=file"]
    words += ["--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on"]
    with subprocess.Popen(children.dying_with_us(words)) as daemon:
        try:
            while not socket.exists():
                time.sleep(0.05)
            with tracing(output, "-p", daemon.pid) as recorder:
                bench = ["qemu-img", "bench", "-w", "-t", "none", "-f", "raw", "-c", str(CLUSTERS), "-d", "16"]
                bench += ["-s", "4096", "-S", str(CLUSTER), "-o", str(INSIDE), f"nbd+unix:///disk?socket={socket}"]
                children.run(bench)
                stop(recorder)
            assert recorder.returncode == Status.OK
        finally:
            daemon.terminate()
    ops = trace.read(output).ops
    assert set(ops["pid"].tolist()) == {daemon.pid}
    assert_exact(ops, image)
