"""Options of `blockstack.open` that this file system allows, and a small image to be spoilt."""

from pathlib import Path
from typing import TypedDict

import pytest

import blockstack
from blockstack.fallocate.calls import FALLOC_FL_ZERO_RANGE, FileCalls
from blockstack.qcow2.header import OFLAG_COPIED
from tests.blockstack.hostile import CLUSTER, DATA, L1, L2, SIZE, word
from tests.blockstack.support import o_direct, run


class How(TypedDict):
    """Keywords of `blockstack.open`."""

    aio: str
    direct: bool


@pytest.fixture
def how(tmp_path: Path) -> How:
    """aio=native with O_DIRECT where it can be had, else threads through the page cache."""
    return {"aio": "native", "direct": True} if o_direct(tmp_path) else {"aio": "threads", "direct": False}


@pytest.fixture
def direct(tmp_path: Path) -> None:
    """Skips where O_DIRECT is refused."""
    if not o_direct(tmp_path):
        pytest.skip(f"needs O_DIRECT, which the file system of {tmp_path} refuses")


@pytest.fixture
def zero_range(tmp_path: Path) -> None:
    """Skips where fallocate has no ZERO_RANGE: a zero-write is two calls then, and races otherwise (tmpfs, ZFS)."""
    with (tmp_path / "probe").open("wb") as file:
        try:
            FileCalls(file.fileno()).fallocate(FALLOC_FL_ZERO_RANGE, 0, 4096, 0)
        except OSError as error:
            pytest.skip(f"needs FALLOC_FL_ZERO_RANGE on {tmp_path}: {error.strerror}")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image with known places: data in the first two guest clusters and in the last one."""
    path = tmp_path / "image"

    async def make() -> None:
        await blockstack.create(path, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(path, aio="threads", direct=False) as disk:
            await disk.pwritev(0, [b"d" * 2 * CLUSTER])
            await disk.pwritev(SIZE - CLUSTER, [b"e" * CLUSTER])

    run(make())
    assert word(path, L1) == L2 | OFLAG_COPIED
    assert word(path, L2) == DATA | OFLAG_COPIED
    return path
