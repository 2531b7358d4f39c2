"""A completion that a program did not see: another one does. If neither did, its write is in flight, or lost once its
kiocb is another's: never silent.
"""

import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.test_recorder import KIB, Aio, watched
from tracer import attach, hooks
from tracer.lab.held import held_scratch
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.recorder import Recorder

pytestmark = pytest.mark.root

BOTH = "on_iomap_dio_complete", "on_iomap_dio_complete_again"
ROUNDS, BATCH = 8, 2000  # at once: more than other tests have left in the allocator


@pytest.fixture
def place() -> Iterator[Scratch]:
    with loop_scratch("xfs", 320 << 20, default_directory()) as made:
        yield made


def test_the_kiocb_is_used_again(place: Scratch) -> None:
    """Both programs are taken away while a write completes, as when the kernel skips them."""
    aio = Aio(BATCH)
    with (
        attach.attach(1 << 20, mechanism="tracepoint") as probes,
        watched(probes, place) as (direct, _, _),
        Recorder(probes) as recorder,
    ):
        for program in BOTH:
            probes._detach(program)
        assert aio.submit(direct, [(0, 4 * KIB, 1)]) == 1
        assert aio.results(1) == {1: 4 * KIB}
        for program in BOTH:
            assert probes._raw("iomap_dio_complete", program) is None
        found = recorder.take()
        dropped = recorder.dropped_by["end not seen"]  # another process has had the kiocb since
        expected = ([], []) if dropped else ([1], [0])
        assert (found["request"].tolist(), found["seq_end"].tolist()) == expected
        assert recorder.unfinished + dropped == 1
        assert recorder.dropped == dropped
        for number in range(ROUNDS):
            batch = [(at * 8 * KIB, 4 * KIB, number * BATCH + at + 2) for at in range(BATCH)]
            assert aio.submit(direct, batch) == BATCH
            aio.results(BATCH)
            found = recorder.take()
            ended = found[found["seq_end"] != 0]
            assert sorted(ended["request"].tolist()) == [request for _, _, request in batch]
            dropped += recorder.dropped_by["end not seen"]
            assert recorder.unfinished + dropped == 1
        assert dropped == 1, "so many kiocbs at once, and none of them was that one"
    aio.close()


@pytest.mark.parametrize("skipped", [(), *((program,) for program in BOTH)], ids=["neither", "first", "second"])
def test_one_of_them_is_enough(place: Scratch, skipped: tuple[str, ...]) -> None:
    """One is skipped all the time: what is submitted is recorded once, as with both.

    XFS does the writes of 512 bytes a second time with another lock, after -EAGAIN.
    """
    aio = Aio(BATCH)
    with (
        attach.attach(1 << 20) as probes,
        watched(probes, place) as (direct, _, _),
        Recorder(probes) as recorder,
    ):
        for program in skipped:
            probes._detach(program)
        os.ftruncate(direct, BATCH * 8 * KIB)
        recorder.take()
        batch = [(at * 8 * KIB, KIB // 2 if at % 2 else 4 * KIB, at + 1) for at in range(BATCH)]
        assert aio.submit(direct, batch) == BATCH
        done = aio.results(BATCH)
        assert done == {request: length for _, length, request in batch}
        found = recorder.take()
        assert sorted(zip(found["request"].tolist(), found["result"].tolist(), strict=True)) == sorted(done.items())
        assert (recorder.unfinished, recorder.dropped) == (0, 0)
        assert probes._taken() > BATCH if BOTH[0] in skipped else probes._taken() < BATCH // 10
    aio.close()


def test_one_of_before_that_the_first_is_not_run_for() -> None:
    """It has no entry, by which the second could tell it from one that the first has told: it is counted."""
    aio = Aio(1)
    with held_scratch("xfs", 320 << 20, default_directory()) as disk, disk.scratch.new_file() as file:
        os.pwrite(file.fd, bytes(8 * KIB), 0)
        os.fsync(file.fd)
        direct = os.open(file.path, os.O_RDWR | os.O_DIRECT)
        marker = disk.marker()
        with disk.hold(marker) as hold:
            aio._memory[: len(marker)] = marker
            assert aio.submit(direct, [(4 * KIB, 4 * KIB, 1)]) == 1
            assert hold.wait(20)
            with attach.attach(1 << 20) as probes, Recorder(probes) as recorder:
                probes.watch_file(direct)
                probes._detach(BOTH[0])
                hold.release()
                assert aio.results(1) == {1: 4 * KIB}
                assert len(recorder.take()) == 0
        os.close(direct)
    assert recorder.dropped == recorder.dropped_by["end not seen"] == 1
    aio.close()


def test_those_of_others_do_not_count(place: Scratch) -> None:
    """The first program is not run for writes of a process that is not traced: no entry, and nothing lost."""
    aio = Aio(BATCH)
    selection = hooks.Selection(by_file=False, by_process=True)
    with attach.attach(1 << 20, selection=selection) as probes, place.new_file() as file:
        probes._detach(BOTH[0])
        direct = os.open(file.path, os.O_RDWR | os.O_DIRECT)
        assert aio.submit(direct, [(at * 4 * KIB, 4 * KIB, at) for at in range(BATCH)]) == BATCH
        assert len(aio.results(BATCH)) == BATCH
        os.close(direct)
        assert probes._taken() >= BATCH
        assert not any(probes.dropped().values())
    aio.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fio") is None, reason="no fio: apt install fio")
@pytest.mark.parametrize("selection", [hooks.WATCHED_FILES, hooks.Selection(by_process=True, by_file=False)])
def test_interrupts_of_itself_are_told_exactly(selection: hooks.Selection, tmp_path: Path) -> None:
    """Of what the kernel does not run the first program for under load, nothing is left that neither was run for.

    The load is somebody else's: none of its writes counts as lost.
    """
    words = ["fio", "--name=j", f"--filename={tmp_path / 'f'}", "--size=256m", "--direct=1", "--ioengine=libaio"]
    words += ["--iodepth=32", "--rw=randrw", "--bs=4k", "--numjobs=2", "--time_based", "--runtime=20"]
    with attach.attach(mmap.PAGESIZE, selection=selection) as probes:
        if probes._preempts:
            pytest.skip("on this kernel tasks preempt the programs: an upper bound is all there is")
        attaching = probes._misses(probes._programs[BOTH[0]]) - probes._taken()
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as fio:
            while fio.poll() is None and probes._taken() < 10:
                time.sleep(0.1)
            assert fio.poll() in (0, None), fio.stdout and fio.stdout.read()
            fio.terminate()
        missed = probes._misses(probes._programs[BOTH[0]])
        if missed == attaching:
            pytest.skip("no completion came in an interrupt of another")
        assert probes._taken() == missed - attaching
        assert not any(probes.dropped().values())
