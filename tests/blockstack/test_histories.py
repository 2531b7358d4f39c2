"""Random histories of a guest against a plain array of bytes, under every strategy and fallocate behaviour."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import blockstack
from blockstack.fallocate import BEHAVIOURS
from blockstack.strategies import CONTROL, STRATEGIES
from tests.blockstack.support import check, convert, needs_qemu, o_direct, run

pytestmark = needs_qemu

SIZE = 96 << 10


@dataclass(frozen=True)
class Step:
    """`what` is write, zero, discard, flush, reopen, or read; the steps of one `Round` run at once."""

    what: str
    offset: int = 0
    length: int = 0
    fill: int = 0


def _edges(cluster_size: int) -> st.SearchStrategy[int]:
    near = st.builds(
        lambda cluster, by: max(0, min(SIZE, cluster * cluster_size + by)),
        st.integers(0, SIZE // cluster_size),
        st.sampled_from((-513, -512, -1, 0, 1, 511, 512, 513)),
    )
    return near | st.integers(0, SIZE)


def _step(cluster_size: int) -> st.SearchStrategy[Step]:
    def build(what: str, one: int, other: int, fill: int) -> Step:
        return Step(what, min(one, other), abs(one - other), fill)

    kinds = st.sampled_from(("write", "write", "write", "zero", "discard", "flush", "reopen", "read"))
    return st.builds(build, kinds, _edges(cluster_size), _edges(cluster_size), st.integers(1, 255))


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, bool, list[list[Step]]]:
    """Cluster size, whether there is a backing file, and rounds of steps."""
    cluster_size = draw(st.sampled_from((512, 1024, 4096, 65536)))
    rounds = draw(st.lists(st.lists(_step(cluster_size), min_size=1, max_size=6), min_size=1, max_size=6))
    return cluster_size, draw(st.booleans()), rounds


def _apart(steps: list[Step]) -> list[Step]:
    """Without those that overlap an earlier one: what they leave at once is undefined."""
    kept: list[Step] = []
    for step in steps:
        if all(
            step.offset + step.length <= other.offset or other.offset + other.length <= step.offset for other in kept
        ):
            kept.append(step)
    return kept


async def _step_on(disk: blockstack.Disk, model: bytearray, step: Step) -> None:
    start, end = step.offset, step.offset + step.length
    match step.what:
        case "write":
            data = bytes((step.fill + at) % 251 for at in range(step.length))
            await disk.pwritev(start, [data[: step.length // 3], data[step.length // 3 :]])
            model[start:end] = data
        case "zero":
            await disk.pwrite_zeroes(start, step.length)
            model[start:end] = bytes(step.length)
        case "discard":
            await disk.pdiscard(start, step.length)
        case "flush":
            await disk.flush()
        case "read":
            assert await disk.preadv(start, step.length) == model[start:end]


async def _live(
    image: Path, history: tuple[int, bool, list[list[Step]]], aio: str, direct: bool, strategy: str, fallocate: str
) -> bytes:
    cluster_size, backed, rounds = history
    model = bytearray(SIZE)
    names: dict[str, str] = {}
    if backed:
        short = SIZE // 2 + 700
        model[:short] = b"\xbb" * short
        (image.parent / "backing").write_bytes(model[:short])
        names = {"backing_file": "backing", "backing_format": "raw"}
    await blockstack.create(
        image,
        SIZE,
        cluster_size=cluster_size,
        backing_file=names.get("backing_file"),
        backing_format=names.get("backing_format"),
    )
    pending = list(rounds)
    while pending:
        async with blockstack.open(image, aio=aio, direct=direct, strategy=strategy, fallocate=fallocate) as disk:
            while pending:
                steps = pending.pop(0)
                await asyncio.gather(*(_step_on(disk, model, step) for step in _apart(steps)))
                assert await disk.preadv(0, SIZE) == model
                if any(step.what == "reopen" for step in steps):
                    break
    return bytes(model)


CELLS = [(strategy, fallocate) for strategy in STRATEGIES for fallocate in BEHAVIOURS]
CELLS.remove((CONTROL, "legacy-xfs"))  # loses data, as it is meant to (test_strategies)


@pytest.mark.parametrize(("strategy", "fallocate"), CELLS)
def test_histories(tmp_path: Path, strategy: str, fallocate: str) -> None:
    direct = o_direct(tmp_path)

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(history=histories(), aio=st.sampled_from(("native", "threads") if direct else ("threads",)))
    def live(history: tuple[int, bool, list[list[Step]]], aio: str) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            image = Path(directory) / "image"
            expected = run(_live(image, history, aio, direct, strategy, fallocate))
            check(image)
            assert convert(image) == expected

    live()
