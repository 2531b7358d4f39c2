"""The rounds: every side does every workload once in each, in an order of its own, until enough is known."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracer.bench.sides import QEMU, Images, check, run
from tracer.bench.statistics import Estimate, enough, estimate
from tracer.bench.workload import Workload
from tracer.lab.scratch import Scratch


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared."""

    workloads: tuple[Workload, ...]
    strategies: tuple[str, ...]
    """The first is the baseline of the ratios."""
    fs: str
    aio: str
    cluster_size: int
    budget: float
    """Seconds after which no further round begins."""
    width: float
    """Of the intervals that are narrow enough, as a part of the ratio."""
    seed: int
    delay_ms: int = 0
    """What every read and write of the disk takes more; 0: the disk is memory, or as fast as the host's."""

    def sides(self, workload: Workload) -> tuple[str, ...]:
        """Who does a workload."""
        return (*self.strategies, *([QEMU] if workload.qemu_can else []))


@dataclass(slots=True)
class Measured:
    """One workload's rounds."""

    workload: Workload
    sides: tuple[str, ...]
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By side, a round's figures each, in the order of the rounds."""
    narrow: bool = False
    """Whether its rounds ended because the intervals were narrow."""

    @property
    def rounds(self) -> int:
        """How many every side has done."""
        return min(len(self.runs.get(side, ())) for side in self.sides)

    def seconds(self, side: str) -> list[float]:
        """Of each round."""
        return [one["seconds"] for one in self.runs[side][: self.rounds]]

    def compared(self, side: str, other: str) -> Estimate:
        """How much longer a side takes than another one. Raises ValueError before the first round."""
        return estimate(self.seconds(side), self.seconds(other))

    def estimates(self) -> list[Estimate]:
        """Of every side but the baseline, against that."""
        return [self.compared(side, self.sides[0]) for side in self.sides[1:]]


Progress = Callable[[Measured, str], None]
"""Hears which side is about to do which workload."""


def play(
    options: Options,
    scratch: Scratch,
    told: Progress,
    *,
    clock: Callable[[], float] = time.monotonic,
    side: Callable[..., Mapping[str, Any]] = run,
) -> list[Measured]:
    """Run rounds until all intervals are narrow or the budget is spent. One round, at least. Raises ChildError.

    `side` does a run, for tests that know what it takes.
    """
    chosen = random.Random(options.seed)
    found = [Measured(workload, options.sides(workload)) for workload in options.workloads]
    begin, number = clock(), 0
    while (left := [one for one in found if not one.narrow]) and (not number or clock() - begin < options.budget):
        for measured in left:
            _round(options, scratch, measured, chosen.sample(measured.sides, len(measured.sides)), told, number, side)
            measured.narrow = enough(measured.estimates(), options.width) if len(measured.sides) > 1 else number > 0
        number += 1
    return found


def _round(
    options: Options,
    scratch: Scratch,
    measured: Measured,
    order: Sequence[str],
    told: Progress,
    number: int,
    side: Callable[..., Mapping[str, Any]],
) -> None:
    images = Images(scratch.path, measured.workload, options.cluster_size)
    runs: dict[str, dict[str, Any]] = {}
    for name in order:
        told(measured, name)
        image = images.make(measured.workload.name)
        try:
            runs[name] = dict(
                side(
                    name,
                    image,
                    measured.workload,
                    aio=options.aio,
                    cluster_size=options.cluster_size,
                    seed=options.seed + number,
                )
            )
            if number == 0:
                check(image)
        finally:
            image.unlink()
    for name, one in runs.items():  # a round counts when all of it is done
        measured.runs.setdefault(name, []).append(one)
