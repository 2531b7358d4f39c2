"""A completion that no program saw: its write is in flight, or lost once its kiocb is another's: never silent."""

from collections.abc import Iterator

import pytest

from tests.tracer.test_recorder import KIB, Aio, watched
from tracer import attach
from tracer.lab.scratch import Scratch, default_directory, loop_scratch
from tracer.recorder import Recorder

pytestmark = pytest.mark.root

ROUNDS, BATCH = 8, 2000  # at once: more than other tests have left in the allocator


@pytest.fixture
def place() -> Iterator[Scratch]:
    with loop_scratch("xfs", 320 << 20, default_directory()) as made:
        yield made


def test_the_kiocb_is_used_again(place: Scratch) -> None:
    """The program is taken away while a write completes, as when the kernel skips it."""
    aio = Aio(BATCH)
    with (
        attach.attach(1 << 20, mechanism="tracepoint") as probes,
        watched(probes, place) as (direct, _, _),
        Recorder(probes) as recorder,
    ):
        probes._detach("iomap_dio_complete")
        assert aio.submit(direct, [(0, 4 * KIB, 1)]) == 1
        assert aio.results(1) == {1: 4 * KIB}
        assert probes._raw("iomap_dio_complete") is None
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
