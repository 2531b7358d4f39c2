"""Rounds: who does what, when it ends, what is made of it; with sides whose times are made up, and with real ones."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracer.bench import rounds, sides
from tracer.bench.blocked import PLACES
from tracer.bench.driver import Job
from tracer.bench.figures import Watcher
from tracer.bench.result import Report, middle, to_json
from tracer.bench.rounds import Measured, Options, play
from tracer.bench.sides import QEMU
from tracer.bench.statistics import LOOKS, ROUNDS, Conclusion
from tracer.bench.workload import KIB, WORKLOADS, Workload, named
from tracer.errors import Status, UsageError
from tracer.lab import children
from tracer.lab.scratch import MIB, Scratch, loop_scratch

SMALL = Workload("small", "", 4 * KIB, 64 * KIB, count=40, depth=8)


def options(**changes: Any) -> Options:
    return replace(Options((SMALL,), ("none", "serialise"), "xfs", "native", 65536, 1e9, 0.1, 1), **changes)


class Made:
    """Runs that take what is said, on a clock of their own; no image is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self._seconds = seconds
        self._chance = random.Random(1)
        monkeypatch.setattr(rounds, "check", lambda image: None)
        monkeypatch.setattr(sides.Images, "make", lambda images, name: Path("/nonexistent") / name)
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)

    def run(self, side: str, *_: Any, **__: Any) -> dict[str, Any]:
        took = self._seconds[side.partition(" ")[0].partition("-")[0]] * self._chance.uniform(0.98, 1.02)
        self.now += took
        self.order.append(side)
        return {"seconds": took}

    def play(self, wanted: Options) -> list[Measured]:
        scratch = Scratch(Path("/nonexistent"), "xfs", 0)
        return play(wanted, scratch, lambda *_: None, clock=lambda: self.now, side=self.run)


def test_it_ends_when_the_intervals_are_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch, none=1, serialise=2, qemu=0.5)
    (measured,) = made.play(options())
    assert measured.narrow
    assert measured.rounds == LOOKS[0]
    slower, faster = measured.estimates()
    assert (slower.conclusion, faster.conclusion) == (Conclusion.SLOWER, Conclusion.FASTER)
    # Every round has every side once; the order is not always the same.
    by_round = [tuple(made.order[at : at + 3]) for at in range(0, len(made.order), 3)]
    assert {frozenset(one) for one in by_round} == {frozenset(["none", "serialise", QEMU])}
    assert len(set(by_round)) > 1


def test_the_budget_ends_it_and_nothing_is_concluded_from_a_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch, none=1, serialise=2, qemu=0.5)
    found = made.play(options(budget=10))
    assert not found[0].narrow
    assert found[0].rounds == 3
    assert {one.conclusion for one in found[0].estimates()} == {Conclusion.OPEN}
    report = Report(options(budget=10), {"kernel": "x"}, "qemu-img", found)
    assert report.status is Status.INCONCLUSIVE
    (told,) = to_json(report)["workloads"]
    assert (told["rounds"], told["stopped"]) == (3, "budget")


def test_a_workload_that_is_known_does_not_take_the_others_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch, none=1, serialise=1, qemu=1)
    never = replace(SMALL, name="never", random=True)
    found = made.play(options(workloads=(SMALL, never), strategies=("none",), budget=100))
    # `never` has one side alone: nothing to compare, two rounds to know its time.
    assert [one.rounds for one in found] == [LOOKS[0], 2]
    assert all(one.narrow for one in found)
    alone = Report(options(), {"kernel": "x"}, "qemu-img", found[1:])
    assert alone.status is Status.OK  # it is compared with nobody


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with loop_scratch("xfs", 900 * MIB, Path("/var/tmp")) as made:
        yield made


@pytest.mark.root
@pytest.mark.slow
def test_a_driver_that_sleeps_is_called_slower(scratch: Scratch) -> None:
    """For real: blockstack against itself with 20 ms more in every write, and against itself."""
    code = (
        "import asyncio, sys\nfrom blockstack.disk import Disk\nfrom tracer.bench import driver\nplain = Disk.pwritev\n"
        "async def pwritev(self, *words, **names):\n    await asyncio.sleep(0.02)\n"
        "    return await plain(self, *words, **names)\nDisk.pwritev = pwritev\ndriver.main()"
    )

    def run(side: str, image: Path, workload: Workload, *, aio: str, cluster_size: int, seed: int) -> dict[str, Any]:
        if side != "asleep":
            return sides.run("none", image, workload, aio=aio, cluster_size=cluster_size, seed=seed)
        job = Job(str(image), aio, "none", cluster_size, seed, workload)
        found: dict[str, Any] = json.loads(children.run([sys.executable, "-c", code, job.encode()]).stdout)
        return found

    workload = replace(SMALL, depth=1, random=True)
    wanted = options(workloads=(workload,), strategies=("none", "asleep"))
    (measured,) = play(replace(wanted, width=10.0), scratch, lambda *_: None, side=run)
    (found,) = measured.estimates()
    assert found.rounds == ROUNDS
    assert found.conclusion is Conclusion.SLOWER
    latency = [middle(measured, side, "latency", "allocating write", "p50") for side in ("none", "asleep")]
    assert latency[0] is not None
    assert latency[1] is not None
    assert latency[1] > latency[0]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_runs_and_is_watched(scratch: Scratch, name: str) -> None:
    workload = replace(named()[name], count=80)
    wanted = options(workloads=(workload,), strategies=("serialise",))
    with ExitStack() as stack:
        watcher = Watcher(stack)
        if watcher.missing:
            pytest.skip("; ".join(watcher.missing))
        for side in wanted.sides(workload):
            image = sides.Images(scratch.path, workload, 65536).make(workload.name)
            took = sides.run(side, image, workload, aio="native", cluster_size=65536, seed=1)
            assert took["seconds"] > 0
            sides.check(image)
            image.unlink()
            found = watcher.figures(wanted, scratch, workload, side)
            guest = 80 * workload.length * (100 - workload.reads) // 100
            assert found["dropped"] == 0
            assert found["written_bytes"] >= guest * 0.7
            assert found["device_bytes"] >= found["written_bytes"]
            assert found["extents"] >= 1
            assert set(found["asleep_ns"]) == set(PLACES)
            if side != QEMU:
                assert ("block I/O delay" in " ".join(watcher.missing)) is (found["block_io_delay_ns"] is None)
            # Zero-writes are where a write takes a part of a fresh cluster, and nowhere else.
            assert (found["fallocates"] > 0) is (name in ("sub-cluster", "random", "straddling", "append", "mixed"))


def test_a_time_of_nothing_is_none(tmp_path: Path) -> None:
    """qemu-img bench tells milliseconds: of one request it says 0.000, which no ratio can be made of."""
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    how: dict[str, Any] = {"aio": "threads", "form": "raw", "count": 1, "depth": 1, "length": 4096, "step": 4096}
    times = (sides.qemu_bench(image, **how) for _ in range(20))  # a busy machine takes longer now and then
    with pytest.raises(UsageError, match="1 requests take qemu-img bench less than the millisecond"):
        list(times)
