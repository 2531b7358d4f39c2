"""Where threads sleep: by stacks as kernels show them, and in runs on a slow disk of which it is known."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tracer.bench import blocked, sides
from tracer.bench.sides import Images
from tracer.bench.workload import KIB, Image, Workload
from tracer.lab.held import held_scratch
from tracer.lab.scratch import MIB, default_directory


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        ("inode_dio_wait __xfs_file_fallocate.constprop.0 vfs_fallocate", "inode_dio_wait"),
        ("__inode_dio_wait inode_dio_wait xfs_file_fallocate", "inode_dio_wait"),
        ("xfs_ilock __xfs_file_fallocate.constprop.0 vfs_fallocate", "lock"),
        ("xlog_wait_on_iclog xfs_log_force_seq xfs_file_fsync do_fsync", "log"),
        ("submit_bio_wait blkdev_issue_flush xfs_file_fsync do_fsync", "device"),
        ("__iomap_dio_rw iomap_dio_rw xfs_file_dio_write_unaligned", "own_write"),
        ("xfs_buf_lock xfs_ilock", "other"),
        ("__x64_sys_io_destroy do_syscall_64", None),
    ],
)
def test_a_place(stack: str, place: str | None) -> None:
    assert blocked.place_of(stack.split()) == place


@pytest.mark.root
def test_a_wait_for_direct_io_is_seen_where_there_is_one_and_nowhere_else() -> None:
    """Writes to fresh clusters extend the file: they, or fallocates, wait for those in flight. Overwrites never do."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if (why := blocked.missing()) is not None:
        pytest.skip(why)
    fresh = Workload("fresh", "", 4 * KIB, 64 * KIB, count=24, depth=8)
    filled = replace(fresh, image=Image.PREALLOCATED)
    shares = {}
    with held_scratch("xfs", 1024 * MIB, default_directory(), 5) as held:
        for workload in (fresh, filled):
            image = Images(held.scratch.path, workload, 65536).make(workload.name)
            with blocked.Sampler() as sampler:
                done = sides.run("no-alloc-space", image, workload, aio="native", cluster_size=65536, seed=1)
            image.unlink()
            shares[workload.image] = slept(sampler)["inode_dio_wait"] / 1e9 / done["seconds"]
    assert shares[Image.FRESH] > 0.2
    assert shares[Image.PREALLOCATED] < shares[Image.FRESH] / 4


def test_children_are_looked_at_and_nothing_else_is() -> None:
    """A child that sleeps where a signal wakes it is not blocked; it, and its own child, are found."""
    words = [sys.executable, "-c", "import subprocess, time; subprocess.Popen(['sleep', '9']); time.sleep(9)"]
    with subprocess.Popen(words) as child:
        while len(found := list(blocked._children(os.getpid()))) < 2 or child.pid not in found:
            time.sleep(0.01)
        assert os.getpid() not in found
        assert not list(blocked._asleep(blocked._children(os.getpid()))) or blocked.missing()
        assert not set(blocked._children(os.getpid(), found)) & set(found)
        grandchild = next(one for one in blocked._children(child.pid))
        os.kill(grandchild, 9)
        child.kill()


def slept(sampler: blocked.Sampler) -> dict[str, int]:
    figures = sampler.figures()
    assert figures is not None, sampler.failure
    return figures


def test_a_run_that_was_not_seen_has_no_figures() -> None:
    """Nor has one whose only process was there before: it is not the run's."""
    with subprocess.Popen(["sleep", "9"]) as other:
        with blocked.Sampler() as sampler:
            time.sleep(0.1)
        assert (sampler.figures(), sampler.failure) == (None, "no process of the run was seen")
        with blocked.Sampler() as sampler, subprocess.Popen(["sleep", "0.2"]):
            pass
        assert set(slept(sampler)) == set(blocked.PLACES)
        other.kill()


def test_what_ends_the_looking_leaves_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(processes: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc/1/task")

    monkeypatch.setattr(blocked, "_asleep", full)
    with blocked.Sampler() as sampler, subprocess.Popen(["sleep", "0.2"]):
        pass
    assert (sampler.figures(), sampler.failure) == (None, "/proc/1/task: Too many open files")
