"""A completion that a program did not see: another one does. If neither did, its write is in flight, or lost once its
kiocb is another's: never silent.
"""

import ctypes
import os
from collections.abc import Iterator

import pytest

from tests.tracer.test_recorder import KIB, Aio, watched
from tracer import attach
from tracer.lab.held import held_scratch
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.operations import NONE_CPU
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
        taken = sum(place.taken for place in probes._program["completing_here"].getvalue(ctypes.c_int(0)))
        assert taken > BATCH if BOTH[0] in skipped else taken < BATCH // 10
    aio.close()


def test_one_of_before_that_the_first_is_not_run_for() -> None:
    """It has no entry that tells: that the first is running on that CPU does."""
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
                table = probes._program["completing_here"]
                places = table.getvalue(ctypes.c_int(0))
                for place in places:
                    place.busy = 1
                table[ctypes.c_int(0)] = places
                hold.release()
                assert aio.results(1) == {1: 4 * KIB}
                (row,) = recorder.take()
        os.close(direct)
    assert (row["request"], row["offset"], row["cpu_begin"]) == (1, 4 * KIB, NONE_CPU)
    aio.close()
