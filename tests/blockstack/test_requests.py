"""Tracked requests: who waits for whom, and the marks that say so."""

import asyncio
from collections.abc import Iterator

import pytest

from blockstack.journal import GUEST_SHIFT, NO_RESULT, Journal, Kind, RequestFlag, guest_request
from blockstack.requests import MAX_LENGTH, RequestTracker, RequestType, TrackedRequest
from tests.blockstack.support import run, turns


class Play:
    """Requests on one tracker that begin now and end when told to. `log` says what ran, in order."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.tracker = RequestTracker(journal)
        self.log: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.requests: dict[str, TrackedRequest] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(
        self, name: str, offset: int, length: int, *, serialising: bool = False, stretch: int = 0, align: int = 512
    ) -> TrackedRequest:
        self.ends[name] = asyncio.Event()
        request = self.requests[name] = TrackedRequest(offset, length, RequestType.WRITE)

        async def work() -> None:
            with self.tracker.track(request):
                if stretch:
                    request.stretch(stretch)
                if serialising:
                    request.make_serialising(align)
                await self.tracker.wait_serialising(request)
                self.log.append(name)
                await self.ends[name].wait()

        self.tasks[name] = asyncio.create_task(work())
        await turns()
        return request

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await turns()

    async def finish(self) -> None:
        for event in self.ends.values():
            event.set()
        await asyncio.gather(*self.tasks.values())
        assert not self.tracker.in_flight


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_overlap_matters_only_if_either_serialises(first: bool, second: bool, waits: bool) -> None:
    async def main() -> None:
        play = Play()
        await play.begin("a", 0, 4096, serialising=first)
        await play.begin("b", 2048, 4096, serialising=second)
        assert play.log == (["a"] if waits else ["a", "b"])
        assert play.tracker.waits == int(waits)
        await play.end("a")
        assert play.log == ["a", "b"]
        await play.finish()

    run(main())


@pytest.mark.parametrize("offset", [4096, 1 << 40])
def test_neighbours_do_not_overlap(offset: int) -> None:
    async def main() -> None:
        play = Play()
        await play.begin("a", 0, 4096, serialising=True)
        await play.begin("b", offset, 512, serialising=True)
        assert play.log == ["a", "b"]
        await play.finish()

    run(main())


@pytest.mark.parametrize(("serialising", "expected"), [(True, ["a"]), (False, ["a", "b"])])
def test_serialising_aligns_the_overlap_range_out(serialising: bool, expected: list[str]) -> None:
    async def main() -> None:
        play = Play()
        request = await play.begin("a", 600, 100, serialising=serialising, align=512)
        assert (request.overlap_offset, request.overlap_end) == ((512, 1024) if serialising else (600, 700))
        assert (request.offset, request.end) == (600, 700)
        await play.begin("b", 1000, 24)
        assert play.log == expected
        await play.finish()

    run(main())


@pytest.mark.parametrize(("serialising", "expected"), [(True, ["zero"]), (False, ["zero", "write"])])
def test_stretched_to_infinity_keeps_off_everything_behind(serialising: bool, expected: list[str]) -> None:
    async def main() -> None:
        play = Play()
        zero = await play.begin("zero", 65536, 65536, serialising=serialising, stretch=MAX_LENGTH)
        assert zero.overlap_end == MAX_LENGTH
        await play.begin("write", 1 << 50, 512)
        assert play.log == expected
        await play.begin("below", 0, 65536)
        assert play.log == [*expected, "below"]
        await play.finish()

    run(main())


def test_a_request_that_waits_itself_is_skipped() -> None:
    async def main() -> None:
        play = Play()
        await play.begin("a", 0, 512)
        await play.begin("b", 0, 2048, serialising=True)  # waits for a
        assert play.requests["b"].waiting_for is play.requests["a"]
        # c overlaps only b, which waits: without the rule a cycle of such waits would never end.
        await play.begin("c", 1024, 512, serialising=True)
        assert play.log == ["a", "c"]
        await play.end("a")
        assert play.log == ["a", "c"]  # b looked again, and found c
        assert play.requests["b"].waiting_for is play.requests["c"]
        await play.end("c")
        assert play.log == ["a", "c", "b"]
        assert play.tracker.waits == 2
        await play.finish()

    run(main())


def test_two_that_turn_serialising_at_once_do_not_deadlock() -> None:
    async def main() -> None:
        play = Play()
        for name in "abcd":
            await play.begin(name, 0, 4096, serialising=True, stretch=MAX_LENGTH)
        for name in "abcd":
            assert play.log[-1] == name
            await play.end(name)
        assert play.log == list("abcd")
        await play.finish()

    run(main())


def test_those_that_wait_are_passed_on_in_order() -> None:
    async def main() -> None:
        play = Play()
        for name in "abcd":
            await play.begin(name, 0, 512, serialising=True, stretch=MAX_LENGTH)
        assert play.tracker.waits == 3
        await play.end("a")
        assert play.requests["b"].waiting_for is None
        assert [play.requests[name].waiting_for for name in "cd"] == [play.requests["b"]] * 2
        assert play.tracker.waits == 5
        await play.begin("e", 0, 512)
        play.tasks.pop("c").cancel()
        await play.end("b")
        assert play.requests["c"].waiting_for is None
        assert play.requests["e"].waiting_for is play.requests["d"]
        assert play.log == ["a", "b", "d"]
        await play.end("d")
        assert play.log == ["a", "b", "d", "e"]
        await play.finish()

    run(main())


def test_whoever_ended_goes_on_before_those_it_wakes() -> None:
    """A zero-write's own data write comes before the next zero-write, which looks again when it goes on."""

    async def main() -> None:
        tracker, log, over = RequestTracker(), [], asyncio.Event()

        async def two() -> None:
            with tracker.track(TrackedRequest(0, 512, RequestType.ZERO_WRITE)) as request:
                request.make_serialising(512)
                await turns(3)
            with tracker.track(TrackedRequest(0, 512, RequestType.WRITE)):
                log.append("its own")
                await over.wait()
                log.append("its own has ended")

        async def other() -> None:
            with tracker.track(TrackedRequest(0, 512, RequestType.ZERO_WRITE)) as request:
                request.make_serialising(512)
                await tracker.wait_serialising(request)
                log.append("the next one")

        both = asyncio.gather(two(), other())
        await turns()
        assert log == ["its own"]
        over.set()
        await both
        assert log == ["its own", "its own has ended", "the next one"]

    run(main())


def test_drain_waits_for_the_last_one() -> None:
    async def main() -> None:
        play = Play()
        await play.tracker.drain()
        await play.begin("a", 0, 512)
        await play.begin("b", 0, 512)
        drained = asyncio.create_task(play.tracker.drain())
        await play.end("a")
        assert not drained.done()
        await play.end("b")
        assert drained.done()
        await play.finish()

    run(main())


def test_cancelled_while_waiting_leaves_nothing_behind() -> None:
    async def main() -> None:
        journal = Journal()
        play = Play(journal)
        await play.begin("a", 0, 512, serialising=True)
        await play.begin("b", 0, 512)
        await play.begin("c", 0, 512)
        play.tasks["b"].cancel()
        await turns()
        assert play.requests["b"] not in play.tracker.in_flight
        assert play.requests["b"].waiting_for is None
        await play.end("a")
        assert play.log == ["a", "c"]
        entry = play.requests["b"].entry
        assert entry is not None
        assert entry.result < 0  # a request that did nothing did not succeed
        del play.tasks["b"]
        await play.finish()

    run(main())


def test_journal_links_a_wait_to_both_requests() -> None:
    async def main() -> None:
        journal = Journal()
        play = Play(journal)
        guest_request.set(7)
        first = await play.begin("a", 0, 4096, serialising=True)
        guest_request.set(9)
        second = await play.begin("b", 0, 512)
        waits = [entry for entry in journal.entries if entry.kind is Kind.WAIT]
        assert [entry.request for entry in waits] == [second.id]
        assert waits[0].result == NO_RESULT
        assert waits[0].t_end == 0
        await play.end("a")
        assert waits[0].result == first.id
        await play.finish()
        assert (first.id >> GUEST_SHIFT, second.id >> GUEST_SHIFT) == (7, 9)
        requests = {entry.request: entry for entry in journal.entries if entry.kind is Kind.REQUEST}
        assert set(requests) == {first.id, second.id}
        assert requests[first.id].flags == RequestFlag.SERIALISING
        assert requests[second.id].flags == 0
        # The wait ends after the other request's end, and lies inside the waiting one.
        wait = waits[0]
        assert requests[first.id].seq_end < wait.seq_end < requests[second.id].seq_end
        assert requests[second.id].seq_begin < wait.seq_begin
        assert all(entry.result == 0 for entry in requests.values())

    run(main())


def test_journal_without_serialising_has_no_wait() -> None:
    async def main() -> None:
        journal = Journal()
        play = Play(journal)
        await play.begin("a", 0, 4096)
        await play.begin("b", 0, 512)
        await play.finish()
        assert [entry.kind for entry in journal.entries] == [Kind.REQUEST, Kind.REQUEST]

    run(main())


@pytest.mark.parametrize(
    ("type_", "metadata", "flags"),
    [
        (RequestType.READ, False, RequestFlag.READ),
        (RequestType.WRITE, True, RequestFlag.METADATA),
        (RequestType.ZERO_WRITE, False, RequestFlag.ZERO_WRITE),
    ],
)
def test_journal_names_the_type(type_: RequestType, metadata: bool, flags: RequestFlag) -> None:
    async def main() -> None:
        journal = Journal()
        request = TrackedRequest(0, 1, type_, metadata=metadata)
        with pytest.raises(OSError, match="broken"), RequestTracker(journal).track(request):
            raise OSError(28, "broken")
        (entry,) = journal.entries
        assert entry.flags == flags
        assert entry.result == -28

    run(main())


def _sequences(journal: Journal) -> Iterator[int]:
    for entry in journal.entries:
        yield entry.seq_begin
        yield entry.seq_end


def test_sequence_numbers_are_unique() -> None:
    async def main() -> None:
        journal = Journal()
        play = Play(journal)
        for name in "abcdef":
            await play.begin(name, 0, 512, serialising=name in "bd")
        await play.finish()
        numbers = list(_sequences(journal))
        assert len(numbers) == len(set(numbers))
        assert 0 not in numbers

    run(main())


def test_a_woken_request_takes_its_next_step_before_the_next_one_looks() -> None:
    """A zero-write waits twice: before it is serialising, and after. What is behind it must not slip in between."""

    async def main() -> None:
        tracker, log = RequestTracker(), []

        async def zero_write(offset: int) -> None:
            with tracker.track(TrackedRequest(offset, 512, RequestType.ZERO_WRITE)) as request:
                await tracker.wait_serialising(request)
                request.stretch(MAX_LENGTH)
                request.make_serialising(512)
                await tracker.wait_serialising(request)
                log.append(offset)
                await turns(3)

        async def write(offset: int) -> None:
            with tracker.track(TrackedRequest(offset, 512, RequestType.WRITE)) as request:
                await tracker.wait_serialising(request)
                log.append(offset)
                await turns(3)

        await asyncio.gather(zero_write(0), zero_write(512), write(1024), zero_write(1536), write(2048))
        assert log == [0, 512, 1024, 1536, 2048]

    run(main())
