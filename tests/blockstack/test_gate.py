"""The gate: where a zero-write may be kept back, and that nothing else is."""

import asyncio
from pathlib import Path

import pytest

import blockstack
from blockstack.gate import Point
from blockstack.journal import Journal, Kind, guest_request
from tests.blockstack.conftest import How
from tests.blockstack.support import eventually, run


class Barrier:
    """Keeps everything back at `point` until it is opened, and notes who came."""

    def __init__(self, point: Point) -> None:
        self.open = asyncio.Event()
        self.came: list[tuple[Point, int]] = []
        self._point = point

    async def reached(self, point: Point) -> None:
        self.came.append((point, guest_request.get()))
        if point is self._point:
            await self.open.wait()


@pytest.mark.usefixtures("zero_range")
@pytest.mark.parametrize("point", Point)
def test_a_zero_write_is_kept_back_and_a_write_passes(tmp_path: Path, how: How, point: Point) -> None:
    async def main() -> None:
        path = tmp_path / "image"
        await blockstack.create(path, 1 << 30)
        gate, journal = Barrier(point), Journal()
        async with blockstack.open(path, **how, strategy="none", journal=journal, gate=gate) as disk:
            await disk.pwritev(0, [b"f" * 65536])
            guest_request.set(7)
            kept = asyncio.create_task(disk.pwritev(65536, [b"a" * 4096]))
            guest_request.set(0)
            await eventually(lambda: (point, 7) in gate.came)
            zero_writes = [request for request in disk.file.tracker.in_flight if request.offset]
            assert len(zero_writes) == (point is Point.FALLOCATE)
            await disk.pwritev(2 * 65536, [b"w" * 65536])
            assert not [entry for entry in journal.entries if entry.kind is Kind.FALLOCATE]
            assert not kept.done()
            gate.open.set()
            await kept
            assert [entry.kind for entry in journal.entries].count(Kind.FALLOCATE) == 1
            assert await disk.preadv(65536, 65536) == (b"a" * 4096).ljust(65536, b"\0")

    run(main())
