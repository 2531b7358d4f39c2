"""What healthy programs do all day is no hazard: the rules are silent on it, and not because they see nothing."""

import shlex
import sys

import pytest

from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.errors import Status
from tracer.lab.scratch import default_directory, loop_scratch

pytestmark = [pytest.mark.root, pytest.mark.slow]

FIO = "fio --minimal --directory={dir}/. --direct=1 --size=32m"

PROGRAMS = {
    "fio, random": FIO + " --name=random --ioengine=libaio --iodepth=32 --rw=randwrite --bs=4k",
    "fio, appending": FIO + " --name=append --ioengine=libaio --iodepth=16 --rw=write --bs=128k --fallocate=none",
    "fio, preallocated": FIO + " --name=prealloc --ioengine=libaio --iodepth=16 --rw=write --bs=64k --fallocate=posix",
    "fio, io_uring": FIO + " --name=uring --ioengine=io_uring --iodepth=32 --rw=randrw --bs=4k",
    "fio, buffered": FIO + " --direct=0 --name=buffered --numjobs=4 --ioengine=psync --rw=randwrite --bs=4k",
    "copies": (
        "head -c 20000000 /dev/urandom > {dir}/source; cp {dir}/source {dir}/copy; truncate -s 1m {dir}/copy;"
        " dd if={dir}/source of={dir}/copy bs=1M oflag=direct conv=notrunc status=none; cat {dir}/source >> {dir}/copy"
    ),
    "QEMU": (
        "qemu-img create -q -f qcow2 {dir}/image 256m;"
        " qemu-img bench -f qcow2 -n -i native -w -c 3000 -d 64 -o 1k -s 64k -t none {dir}/image;"
        " qemu-img convert -n -W -t none -f qcow2 -O qcow2 {dir}/image {dir}/other || true;"
        " qemu-img convert -t none -f qcow2 -O raw {dir}/image {dir}/raw"
    ),
    # SQLite follows links by their text, and that of a directory that is mounted nowhere is "/": it has to be the root.
    "a database": shlex.join(
        [
            sys.executable,
            "-c",
            """
import os, sqlite3, threading
os.chroot("{dir}")
os.chdir("/")
def work(number):
    base = sqlite3.connect("/base", timeout=60)
    for row in range(100):
        base.execute("insert into t values (?, ?)", (number, "x" * 900))
        base.commit()
    base.execute("delete from t where a = ?", (number,))
    base.commit()
base = sqlite3.connect("/base")
base.execute("pragma journal_mode=wal")
base.execute("create table t (a, b)")
base.commit()
threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
base.execute("vacuum")
base.close()
""",
        ]
    ),
}


def traced(fs: str, script: str) -> Captured:
    with loop_scratch(fs, 1 << 30, default_directory()) as scratch:
        command = ("sh", "-c", script.replace("{dir}", str(scratch.path)))
        captured = capture(Options(command=command), lambda *_: None)
        assert any(scratch.path.iterdir()), "the program has written somewhere else"
    assert captured.exit_status == 0
    assert captured.totals.operations > 100
    assert captured.analysis is not None
    return captured


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_found(program: str, fs: str) -> None:
    captured = traced(fs, PROGRAMS[program] + " >/dev/null")
    assert captured.analysis is not None
    assert captured.analysis.hazards == ()
    assert captured.status in (Status.OK, Status.INCONCLUSIVE)


def test_fio_that_forgets_where_it_has_written() -> None:
    """The control: the same fio on a small file, told to forget. Many pairs, one finding for each code path."""
    script = PROGRAMS["fio, random"].replace("--size=32m", "--size=256k --norandommap --io_size=16m")
    captured = traced("xfs", script + " >/dev/null")
    assert captured.status is Status.HAZARD
    assert captured.analysis is not None
    assert {hazard.rule for hazard in captured.analysis.hazards} == {"overlapping-writes"}
    assert sum(hazard.pairs for hazard in captured.analysis.hazards) > 100
    assert len(captured.analysis.hazards) == 1
