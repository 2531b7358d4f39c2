"""The emulated fallocate of XFS before 5.5: loses exactly what the real one lost, and nothing else."""

import asyncio
from pathlib import Path

import pytest

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE
from blockstack.file_posix import FilePosix
from blockstack.journal import Journal, Kind
from blockstack.strategies import STRATEGIES
from tests.blockstack.conftest import How
from tests.blockstack.support import Double, Hold, run, turns

pytestmark = pytest.mark.usefixtures("zero_range")

BLOCK = 65536


def _open(path: Path, how: How, behaviour: str, journal: Journal | None = None) -> FilePosix:
    path.write_bytes(b"o" * BLOCK)
    return FilePosix(path, **how, strategy=STRATEGIES["none"], fallocate=behaviour, journal=journal)


@pytest.mark.parametrize(
    ("behaviour", "mode", "offset", "lost"),
    [
        ("legacy-xfs", 0, BLOCK, True),
        ("legacy-xfs", FALLOC_FL_ZERO_RANGE, BLOCK, True),
        ("legacy-xfs", FALLOC_FL_KEEP_SIZE, BLOCK, False),
        ("legacy-xfs", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, BLOCK, False),
        ("legacy-xfs", FALLOC_FL_ZERO_RANGE, 0, False),  # not post-EOF
        ("legacy-xfs", FALLOC_FL_ZERO_RANGE, 8 * BLOCK, False),  # behind the write
        ("kernel", 0, BLOCK, False),
        ("kernel", FALLOC_FL_ZERO_RANGE, BLOCK, False),
    ],
)
def test_a_write_in_flight_behind_a_fallocate(
    tmp_path: Path, how: How, behaviour: str, mode: int, offset: int, lost: bool
) -> None:
    path = tmp_path / "file"
    sizes: dict[str, int] = {}

    async def main() -> None:
        file = _open(path, how, behaviour)
        hold = Hold(Double(file), 3 * BLOCK, 4 * BLOCK)
        write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
        await hold.held.wait()
        fallocate = asyncio.create_task(file._behaviour.fallocate(mode, offset, BLOCK, 0))
        if behaviour == "kernel":
            await fallocate
        else:
            await asyncio.sleep(0.02)
            assert not fallocate.done()  # inode_dio_wait
            assert path.stat().st_size == BLOCK
        hold.release.set()
        await write
        await fallocate
        sizes["end"] = path.stat().st_size
        await file.close()

    run(main())
    data = path.read_bytes()
    if lost:
        assert sizes["end"] == offset + BLOCK  # what was computed before the write raised the size
        assert b"w" not in data
    else:
        assert data[3 * BLOCK : 4 * BLOCK] == b"w" * BLOCK
        assert sizes["end"] == max(4 * BLOCK, 0 if mode & FALLOC_FL_KEEP_SIZE else offset + BLOCK)


def test_new_writes_are_held_off_meanwhile(tmp_path: Path, how: How) -> None:
    """They wait for the inode lock, and are not lost."""
    path = tmp_path / "file"

    async def main() -> None:
        file = _open(path, how, "legacy-xfs")
        double = Double(file)
        hold = Hold(double, 3 * BLOCK, 4 * BLOCK)
        write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
        await hold.held.wait()
        zero = asyncio.create_task(file.pwrite_zeroes(BLOCK, BLOCK))
        await turns()
        late = asyncio.create_task(file.pwritev(6 * BLOCK, [b"l" * BLOCK]))
        await turns(100)
        assert double.writes == [(3 * BLOCK, BLOCK)]
        hold.release.set()
        await asyncio.gather(write, zero, late)
        await file.close()

    run(main())
    data = path.read_bytes()
    assert len(data) == 7 * BLOCK
    assert data[6 * BLOCK :] == b"l" * BLOCK
    assert b"w" not in data


def test_the_journal_tells_the_steps(tmp_path: Path, how: How) -> None:
    journal = Journal()

    async def main() -> None:
        file = _open(tmp_path / "file", how, "legacy-xfs", journal)
        hold = Hold(Double(file), 3 * BLOCK, 4 * BLOCK)
        write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
        await hold.held.wait()
        zero = asyncio.create_task(file.pwrite_zeroes(BLOCK, BLOCK))
        await asyncio.sleep(0.01)
        hold.release.set()
        await asyncio.gather(write, zero)
        await file.close()

    run(main())
    by_kind = {entry.kind: entry for entry in journal.entries}
    whole, inner, cut = by_kind[Kind.EMULATED_FALLOCATE], by_kind[Kind.FALLOCATE], by_kind[Kind.TRUNCATE]
    written = by_kind[Kind.WRITE]
    assert whole.request == inner.request == cut.request != written.request
    assert whole.seq_begin < written.seq_end < inner.seq_begin < inner.seq_end < cut.seq_begin < cut.seq_end
    assert cut.seq_end < whole.seq_end
    assert (whole.size_begin, inner.size_begin, cut.size_begin) == (BLOCK, 4 * BLOCK, 4 * BLOCK)
    assert cut.offset == cut.size_end == whole.size_end == 2 * BLOCK
    assert whole.t_begin < whole.t_applied <= whole.t_end
    assert inner.flags == whole.flags | FALLOC_FL_KEEP_SIZE


@pytest.mark.parametrize("how_it_ends", ["error", "cancelled"])
def test_a_failed_fallocate_lets_writes_go_on(tmp_path: Path, how: How, how_it_ends: str) -> None:
    journal = Journal()

    async def main() -> None:
        file = _open(tmp_path / "file", how, "legacy-xfs", journal)
        if how_it_ends == "error":
            with pytest.raises(OSError, match="fallocate"):
                await file._behaviour.fallocate(0x8000, BLOCK, BLOCK, 0)
        else:
            hold = Hold(Double(file), 3 * BLOCK, 4 * BLOCK)
            write = asyncio.create_task(file.pwritev(3 * BLOCK, [b"w" * BLOCK]))
            await hold.held.wait()
            zero = asyncio.create_task(file._behaviour.fallocate(0, BLOCK, BLOCK, 0))
            await turns()
            zero.cancel()
            with pytest.raises(asyncio.CancelledError):
                await zero
            hold.release.set()
            await write
        await file.pwritev(5 * BLOCK, [b"n" * BLOCK])
        await file.close()

    run(main())
    entry = next(entry for entry in journal.entries if entry.kind is Kind.EMULATED_FALLOCATE)
    assert entry.result < 0
    assert entry.t_applied == 0
    assert (tmp_path / "file").stat().st_size == 6 * BLOCK
