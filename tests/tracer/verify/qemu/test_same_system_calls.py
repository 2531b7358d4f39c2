"""blockstack and QEMU do the same to the file: kind, offset, length and mode of every operation, and their order."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.verify.qemu.same import ALLOWED, Call, Course, Stage, differences
from tracer.attach import attach
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.operations import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tracer.recorder import Recorder
from tracer.verify.qemu.daemon import NAME, builds

DOCUMENT = Path(__file__).parents[4] / "docs" / "same-system-calls.md"
BACKED = "backing_file=FILE,backing_fmt=raw"
EXTERNAL = "data_file=FILE"
HISTORIES = (
    (512, 40, ""),
    (4096, 200, ""),
    (16384, 200, ""),
    (65536, 200, ""),
    (131072, 60, ""),
    (2 << 20, 20, ""),
    (65536, 200, "compat=0.10"),
    (65536, 200, "refcount_bits=1"),
    (65536, 200, "lazy_refcounts=on"),
    (65536, 200, "preallocation=metadata"),
    (16384, 200, "extended_l2=on"),
    (65536, 200, "extended_l2=on"),
    (65536, 200, BACKED),
    (65536, 200, f"{BACKED},compat=0.10"),
    (65536, 200, f"{BACKED},extended_l2=on"),
    (4096, 200, EXTERNAL),
    (65536, 200, f"{EXTERNAL},data_file_raw=on"),
    (16384, 200, f"{EXTERNAL},data_file_raw=on,extended_l2=on"),
)
"""Cluster size, requests (as many as one refcount block has room for), another option of qemu-img create's."""
SEEDS = (1, 3)
HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

on_xfs = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which(NAME) is None, reason=f"needs {NAME}: apt install qemu-utils"),
    pytest.mark.skipif(importlib.util.find_spec("nbd") is None, reason="needs libnbd: apt install python3-libnbd"),
]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(loop_scratch("xfs", 1 << 30, default_directory()))
        probes = stack.enter_context(attach())
        yield Stage(scratch, probes, stack.enter_context(Recorder(probes)))


@pytest.fixture(scope="module")
def of_qemu(stage: Stage) -> dict[tuple[int, str, int], Course]:
    """What QEMU did in each history, by cluster size, option and seed."""
    build = builds(())[0]
    return {
        (size, option, seed): stage.qemu(build, seed, count, size, option)
        for size, count, option in HISTORIES
        for seed in SEEDS
    }


class TestOnXfs:
    pytestmark = on_xfs

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize(("cluster_size", "count", "option"), HISTORIES)
    def test_the_operations_are_the_same(
        self, stage: Stage, of_qemu: dict[tuple[int, str, int], Course], cluster_size: int, count: int, option: str,
        seed: int,
    ) -> None:  # fmt: skip
        ours = stage.blockstack(seed, count, cluster_size, option)
        assert differences(of_qemu[cluster_size, option, seed], ours) == []

    def test_the_histories_meet_what_matters(self, of_qemu: dict[tuple[int, str, int], Course]) -> None:
        calls = [call for course in of_qemu.values() for step in course.steps for call in step]
        assert sum(call.mode == FALLOC_FL_ZERO_RANGE for call in calls) > 50
        assert sum(call.mode == HOLE for call in calls) > 10
        for (size, option, _), course in of_qemu.items():
            flat = [call for step in course.steps for call in step]
            assert any(call.kind.startswith("write") and call.length > size for call in flat)
            assert any(call.kind == "write" and call.offset in course.metadata for call in flat)
            assert any(call.kind.endswith("to the data file") for call in flat) is (EXTERNAL in option)
        # Header, refcount table and block, L1, and L2 tables of several regions.
        assert len(of_qemu[4096, "", 1].metadata) > 6

    def test_another_strategy_would_be_seen(
        self, stage: Stage, of_qemu: dict[tuple[int, str, int], Course]
    ) -> None:  # fmt: skip
        other = stage.blockstack(1, 200, 65536, strategy="no-alloc-space")
        found = differences(of_qemu[65536, "", 1], other)
        assert any("only the first has Call(kind='fallocate'" in line for line in found)

    def test_another_history_would_be_seen(
        self, stage: Stage, of_qemu: dict[tuple[int, str, int], Course]
    ) -> None:  # fmt: skip
        assert differences(of_qemu[65536, "", 1], stage.blockstack(2, 200, 65536))


# The comparison by itself

K = 1024
ZERO = Call("fallocate", 320 * K, 64 * K, FALLOC_FL_ZERO_RANGE)
DATA = Call("write", 324 * K, 4 * K, 0)
OTHER = Call("fallocate", 512 * K, 64 * K, HOLE)
L1 = Call("write", 192 * K + 512, 512, 0)
TABLE = Call("write", 256 * K, 64 * K, 0)


def course(*calls: Call) -> Course:
    return Course([list(calls)], frozenset({0, 192 * K, 256 * K}), 64 * K)


@pytest.mark.parametrize(
    "calls",
    [
        (ZERO, DATA),
        (ZERO, DATA, OTHER, TABLE),
        (DATA, ZERO, OTHER, TABLE, L1),
        (ZERO, DATA, OTHER, L1, TABLE),
        (ZERO, DATA, TABLE, OTHER, L1),
        (ZERO, DATA, OTHER, TABLE, L1, L1),
        (ZERO._replace(mode=0), DATA, OTHER, TABLE, L1),
        (ZERO, DATA._replace(length=8 * K), OTHER, TABLE, L1),
        (ZERO, DATA._replace(offset=328 * K), OTHER, TABLE, L1),
    ],
    ids=[
        "missing", "one missing", "zero-write second", "metadata in another order", "metadata before data", "twice",
        "mode", "length", "offset",
    ],
)  # fmt: skip
def test_a_difference_is_found(calls: tuple[Call, ...]) -> None:
    assert differences(course(ZERO, DATA, OTHER, TABLE, L1), course(*calls))


def test_other_clusters_come_in_any_order() -> None:
    assert differences(course(ZERO, DATA, OTHER, TABLE, L1), course(OTHER, ZERO, DATA, TABLE, L1)) == []


def test_metadata_may_be_another_parts() -> None:
    second = DATA._replace(offset=640 * K)
    parts = course(ZERO, DATA, second, TABLE, L1)
    assert differences(parts, course(ZERO, DATA, TABLE, second, L1)) == []
    assert differences(parts, course(ZERO, DATA, L1, second, TABLE))


def test_the_document_has_the_same_table() -> None:
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    assert rows[1:] == [[row.what, row.why] for row in ALLOWED]
