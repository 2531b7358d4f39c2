"""The five strategies: whom they keep apart, by the facts of a file, and on a real file with a held write."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from blockstack.fallocate import BEHAVIOURS
from blockstack.file_posix import FilePosix
from blockstack.journal import Journal, Kind, RequestFlag
from blockstack.requests import MAX_LENGTH, RequestTracker, RequestType, TrackedRequest
from blockstack.strategies import CONTROL, STRATEGIES, Auto
from tests.blockstack.conftest import How
from tests.blockstack.support import Double, Hold, eventually, run, turns

BLOCK = 65536


@dataclass
class Facts:
    """A file that is nothing but its facts."""

    is_xfs: bool
    linux_aio: bool
    file_system: str = "xfs"
    tracker: RequestTracker = field(default_factory=RequestTracker)
    request_alignment: int = 512


def always(xfs: bool, native: bool) -> bool:
    return True


def never(xfs: bool, native: bool) -> bool:
    return False


SERIALISES = {
    "none": never,
    "serialise-xfs-native": lambda xfs, native: xfs and native,
    "skip-zero-xfs": never,
    "no-alloc-space": never,
    "serialise": always,
    "auto": always,  # as long as nobody has told it anything
}
USES_ALLOC_SPACE = {
    "none": always,
    "serialise-xfs-native": always,
    "skip-zero-xfs": lambda xfs, native: not xfs,
    "no-alloc-space": never,
    "serialise": always,
    "auto": always,  # as long as nobody has told it anything
}


def test_every_strategy_is_here() -> None:
    assert set(STRATEGIES) == set(SERIALISES) == set(USES_ALLOC_SPACE)
    assert all(strategy.name == name for name, strategy in STRATEGIES.items())
    assert CONTROL in STRATEGIES


@pytest.mark.parametrize(
    ("known_safe", "serialises"),
    [(None, True), (set(), True), ({"ext4"}, True), ({"xfs"}, False), ({"xfs", "ext4"}, False)],
)
def test_auto_serialises_unless_it_was_told(known_safe: set[str] | None, serialises: bool) -> None:
    async def main() -> None:
        file = Facts(True, True)
        strategy = Auto(None if known_safe is None else frozenset(known_safe))
        request = TrackedRequest(1000, 100, RequestType.ZERO_WRITE)
        with file.tracker.track(request):
            await strategy.order_post_eof_zero_write(request, file)
            assert request.serialising is serialises
            assert strategy.relies_on_kernel("xfs") is not serialises

    run(main())


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("xfs", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_by_facts(name: str, xfs: bool, native: bool) -> None:
    async def main() -> None:
        file = Facts(xfs, native)
        strategy = STRATEGIES[name]
        assert strategy.uses_alloc_space(file) is USES_ALLOC_SPACE[name](xfs, native)
        request = TrackedRequest(1000, 100, RequestType.ZERO_WRITE)
        with file.tracker.track(request):
            await strategy.order_post_eof_zero_write(request, file)
            serialises = SERIALISES[name](xfs, native)
            assert request.serialising is serialises
            assert (request.overlap_offset, request.overlap_end) == ((512, MAX_LENGTH) if serialises else (1000, 1100))

    run(main())


async def _open(
    path: Path, how: How, strategy: str, journal: Journal | None = None, fallocate: str = "kernel"
) -> FilePosix:
    path.write_bytes(bytes(BLOCK))
    return FilePosix(path, **how, strategy=STRATEGIES[strategy], journal=journal, fallocate=fallocate, stand_in=True)


@pytest.mark.usefixtures("zero_range")
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_zero_write_and_a_held_write_behind_it(tmp_path: Path, how: How, name: str, behaviour: str) -> None:
    """`stand_in` makes the file one on XFS with aio=native."""
    serialises = SERIALISES[name](True, True)

    async def main() -> None:
        journal = Journal()
        file = await _open(tmp_path / "file", how, name, journal, behaviour)
        hold = Hold(Double(file), 3 * BLOCK, 4 * BLOCK)
        write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
        await hold.held.wait()
        zero = asyncio.create_task(file.pwrite_zeroes(BLOCK, BLOCK))
        if serialises:
            await asyncio.sleep(0.02)
            assert file.tracker.waits == 1
            assert not [entry for entry in journal.entries if entry.kind is Kind.FALLOCATE]
        elif behaviour == "kernel":
            await zero  # goes past the held write
        hold.release.set()
        await asyncio.gather(write, zero)
        assert file.tracker.waits == int(serialises)
        flags = [entry.flags for entry in journal.entries if entry.kind is Kind.REQUEST]
        assert flags[1] & RequestFlag.POST_EOF
        assert bool(flags[1] & RequestFlag.SERIALISING) is serialises
        lost = behaviour == "legacy-xfs" and not serialises
        assert (tmp_path / "file").stat().st_size == (2 * BLOCK if lost else 4 * BLOCK)
        await file.close()

    run(main())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_new_write_behind_a_zero_write_under_way(tmp_path: Path, how: How, name: str) -> None:
    serialises = SERIALISES[name](True, True)

    async def main() -> None:
        file = await _open(tmp_path / "file", how, name)
        double = Double(file)
        started, release = asyncio.Event(), asyncio.Event()
        behaviour = file._behaviour.fallocate

        async def held_fallocate(mode: int, offset: int, length: int, request: int) -> None:
            started.set()
            await release.wait()
            await behaviour(mode, offset, length, request)

        file._behaviour.fallocate = held_fallocate  # type: ignore[method-assign]
        zero = asyncio.create_task(file.pwrite_zeroes(BLOCK, BLOCK))
        await started.wait()
        below = asyncio.create_task(file.pwritev(0, [b"b" * 4096]))
        behind = asyncio.create_task(file.pwritev(8 * BLOCK, [b"w" * BLOCK]))
        await below  # what lies below is never held off
        if serialises:
            await turns(100)
            assert not behind.done()
            assert double.writes == [(0, 4096)]
        else:
            await behind
        release.set()
        await asyncio.gather(zero, behind)
        assert file.tracker.waits == int(serialises)
        assert file.length == 9 * BLOCK
        await file.close()

    run(main())


def test_a_zero_write_inside_the_file_waits_for_nobody(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        file = await _open(tmp_path / "file", how, "serialise")
        hold = Hold(Double(file), 3 * BLOCK, 4 * BLOCK)
        write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
        await hold.held.wait()
        await file.pwrite_zeroes(0, BLOCK)
        assert file.tracker.waits == 0
        hold.release.set()
        await write
        await file.close()

    run(main())


def test_the_length_grows_when_the_write_has_ended(tmp_path: Path, how: How) -> None:
    """A zero-write between the length and a write in flight is post-EOF, whatever the kernel's size is by then."""

    async def main() -> None:
        file = await _open(tmp_path / "file", how, "serialise")
        hold = Hold(Double(file), 3 * BLOCK, 4 * BLOCK, after=True)  # in the file already, not yet completed
        write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
        await hold.held.wait()
        assert (tmp_path / "file").stat().st_size == 4 * BLOCK
        assert file.length == BLOCK
        zero = asyncio.create_task(file.pwrite_zeroes(BLOCK, BLOCK))
        await eventually(lambda: file.tracker.waits == 1)
        hold.release.set()
        await asyncio.gather(write, zero)
        await file.close()

    run(main())
