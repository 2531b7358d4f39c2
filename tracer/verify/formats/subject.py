"""What stands under the guest, and what all subjects share."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from blockstack.disk import Disk
from blockstack.file_posix import FilePosix
from blockstack.filters import Filter
from blockstack.guest import Oracle
from blockstack.guest.mixed import Action, Choice, MixedPlan, Profile, make_mixed_plan, run_mixed
from blockstack.journal import Journal
from blockstack.node import Node
from blockstack.parallels import Parallels
from blockstack.qcow2 import Qcow2
from blockstack.settled import settled
from blockstack.strategies import Strategy
from tracer.lab.scratch import AnonymousFile
from tracer.taskstats import BlockDelays
from tracer.verify.ground import Ground
from tracer.verify.options import Options
from tracer.verify.play import Extents, Run, delays

FIXED = Profile(
    fresh=(
        Choice(Action.ZERO, whole=True, weight=25),
        Choice(Action.ZERO, whole=False, weight=15),
        Choice(Action.WRITE, whole=False, weight=20),
        Choice(Action.WRITE, whole=True, weight=40),
    ),
    old=(
        Choice(Action.WRITE, whole=False, weight=40),
        Choice(Action.ZERO, whole=False, weight=30),
        Choice(Action.DISCARD, whole=True, weight=20),
        Choice(Action.READ, whole=False, weight=10),
    ),
)
"""A guest of a disk whose zero-writes and discards reach the file."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One play: the watched file `image`, another one that may be needed (`other`), and who watches."""

    ground: Ground
    plan: MixedPlan
    strategy: Strategy
    fallocate: str
    image: AnonymousFile
    other: AnonymousFile
    journal: Journal
    progress: Callable[[int], None]

    def file(self) -> FilePosix:
        """The watched file's node."""
        return FilePosix(
            self.image.path,
            aio=self.ground.aio,
            strategy=self.strategy,
            direct=self.ground.direct,
            fallocate=self.fallocate,
            journal=self.journal,
            stand_in=self.ground.stand_in,
            discard=True,
        )


class Subject(ABC):
    """One row of the table: a format, one case of it, or the control that takes away what the claim rests on."""

    format: str
    """By the name that `--format` takes."""
    case: str | None = None
    """Where a format has several."""
    variant: str | None = None
    """Of a control: what is different."""
    image_format: str
    """Of the watched file, by QEMU's name."""
    profile: Profile = FIXED
    untouched: int = 0
    """As many times what the guest touches lie behind it on the disk."""
    of_reads: bool = False
    """What is to be shown is what the guest's reads cause: no other write counts for a conflict."""

    def plan(self, options: Options) -> MixedPlan:
        """What the guest does here. Raises ValueError where it cannot be."""
        plan = make_mixed_plan(options.seed, options.writes, self.profile, options.cluster_size)
        return replace(plan, size=plan.size * (1 + self.untouched))

    @abstractmethod
    async def make(self, stage: Stage) -> None:
        """Make the image, and whatever else it takes. Nothing is watched yet."""

    @abstractmethod
    def opened(self, stage: Stage, oracle: Oracle) -> AbstractAsyncContextManager[Disk]:
        """The disk for the guest. `oracle` is told what is on it already."""

    async def play(self, stage: Stage) -> Run:
        """Open the image, let the guest work, close it. Raises what a request raises."""
        before = delays()
        oracle = Oracle(stage.plan.cluster_size)
        async with self.opened(stage, oracle) as disk:
            await run_mixed(disk, stage.plan, oracle, journal=stage.journal, progress=stage.progress)
            return await leave(disk.node, oracle, before)


@asynccontextmanager
async def served(node: Node, file: FilePosix) -> AsyncIterator[Disk]:
    """A disk over `node`, which is closed at the end."""
    try:
        yield Disk(node, file)
    finally:
        await settled(asyncio.ensure_future(node.close()))


async def leave(node: Node, oracle: Oracle, before: BlockDelays) -> Run:
    """What has to be known before closing forgets the tables and ends the worker threads."""
    waited = delays().since(before)
    return Run(oracle, await extents(node, oracle), waited.delays, waited.note)


async def extents(node: Node, oracle: Oracle) -> Extents:
    """Where the guest's clusters (the oracle's) are in the file, and where it says so; at 0 what is never cut off."""
    size = oracle.cluster_size
    while isinstance(node, Filter):
        node = node.child
    if isinstance(node, Qcow2):
        parts = max(1, node.header.cluster_size // size)
        return [
            (guest * parts + part, host + part * size, table, index)
            for guest, host, table, index in await node.mapping.extents()
            for part in range(parts)
        ]
    if isinstance(node, Parallels):
        return [(guest, host, 0, 0) for guest, host in node.extents()]
    return [(cluster, cluster * size, 0, 0) for cluster in oracle.clusters]
