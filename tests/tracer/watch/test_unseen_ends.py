"""A fallocate whose end nobody sees: counted, and no later write is compared with it for ever."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.test_recorder import FIFREEZE, FITHAW
from tracer import attach
from tracer.hooks import TABLE, Selection
from tracer.lab.scratch import Scratch, default_directory, loop_scratch

pytestmark = pytest.mark.root

RING = str(Path(__file__).parents[1] / "capture/ring.py")


@pytest.fixture(scope="module")
def place() -> Iterator[Scratch]:
    with loop_scratch("xfs", 320 << 20, default_directory()) as made:
        yield made


def flying(probes: attach.Probes) -> int:
    """Post-EOF fallocates that the table takes for in flight; one may begin while it is read."""
    for _ in range(100):
        sets = list(probes._program["zero_sets"].values())
        [count] = [int(leaf.value) for leaf in probes._program["zero_flying"].values()]
        if sum(int(one.begun) - int(one.ended) for one in sets) == count:
            return count
        time.sleep(0.01)
    raise AssertionError(f"{count} in flight, and other numbers in the sets")


@pytest.mark.parametrize("then", ["begins another", "exits"])
def test_of_a_system_call(place: Scratch, then: str) -> None:
    """No program is there when it ends, as when the kernel skips it."""
    go_on = threading.Event()

    def work(descriptor: int) -> None:
        os.posix_fallocate(descriptor, 0, 1 << 20)
        go_on.wait()
        if then != "exits":
            os.posix_fallocate(descriptor, 1 << 20, 1 << 20)

    # Fallocates of XFS by the system call, if possible. Of this process only: the calls of others end unseen, too.
    with attach.attach(1 << 20, table=TABLE, selection=Selection(by_process=True)) as probes, place.new_file() as file:
        if not probes.mechanisms["xfs_file_fallocate"].startswith("system call"):
            pytest.skip("a function tells of its end, too")
        probes.follow(os.getpid())
        probes.watch_file(file.fd)
        thread = threading.Thread(target=work, args=[file.fd])
        fcntl.ioctl(file.fd, FIFREEZE, 0)
        try:
            thread.start()
            deadline = time.monotonic() + 30
            while not flying(probes) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert flying(probes) == 1
            probes._detach("on_sys_exit")
        finally:
            fcntl.ioctl(file.fd, FITHAW, 0)
        while file.size == 0:
            time.sleep(0.01)
        time.sleep(0.1)
        assert probes._raw("sys_exit") is None
        assert (flying(probes), probes.dropped()["end not seen"]) == (1, 0)
        go_on.set()
        thread.join()  # Python's: the kernel's may take its time to exit
        deadline = time.monotonic() + 30
        while flying(probes) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (flying(probes), probes.dropped()["end not seen"]) == (0, 1)


def test_of_an_io_uring_request(place: Scratch) -> None:
    """Its completion is not posted; its structure is used again by what follows."""
    with attach.attach(1 << 20, table=TABLE) as probes, place.new_file() as file:
        if not probes.mechanisms["xfs_file_fallocate"].startswith("system call"):
            pytest.skip("a function tells of its end, too")
        probes.watch_file(file.fd)
        subprocess.run(
            [sys.executable, RING, str(file.path), "skipped-fallocate"], check=True, stdout=subprocess.DEVNULL
        )
        assert probes.post_eof_fallocates() == 1
        assert (flying(probes), probes.dropped()["end not seen"]) == (0, 1)
