"""Plays the guest's plan on a fresh image, watched; then reads the image back."""

import errno
import os
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import blockstack
from blockstack.gate import Gate
from blockstack.guest import Damage, Oracle, Plan, run
from blockstack.journal import Journal
from blockstack.qcow2 import Qcow2
from blockstack.qcow2.mapping import Mapping
from blockstack.strategies import Strategy
from tracer import interrupts
from tracer.analysis.losses import lost_ranges
from tracer.errors import UnsupportedError
from tracer.lab.children import ChildError
from tracer.lab.scratch import AnonymousFile
from tracer.taskstats import BlockDelays, block_io_delay
from tracer.verify.evidence import Evidence
from tracer.verify.readback import Readback, read_back, read_back_with_qemu

if TYPE_CHECKING:
    from tracer.verify.ground import Ground

Extents = list[tuple[int, int, int, int]]
"""Guest cluster, host offset, offset of its L2 table, index in the table; as the driver had them in memory."""


@dataclass(slots=True)
class Played:
    """One finished (or failed) play of a plan."""

    evidence: Evidence
    dropped: int
    unfinished: int
    dev: int
    ino: int
    acknowledged: int = 0
    failure: str | None = None
    readback: Readback | None = None
    lost_bytes_traced: int = 0
    block_io_delay_ns: dict[int, int] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """What the driver leaves behind when it has closed the image."""

    oracle: Oracle
    extents: Extents
    block_io_delay_ns: dict[int, int] | None
    note: str


Drive = Callable[[AnonymousFile, Journal], Coroutine[Any, Any, Run]]
"""Opens the image, works on it as a guest, and closes it."""

Make = Callable[[AnonymousFile], Coroutine[Any, Any, None]]
"""Makes the image in an empty file."""

Compare = Callable[[AnonymousFile, Run, Played], None]
"""Reads the image back, and puts into the play what it finds."""


def play(ground: "Ground", plan: Plan, strategy: Strategy, fallocate: str, progress: Callable[[int], None]) -> Played:
    """Play `plan` under `strategy`. A workload that fails is told in `failure`; a full disk raises UnsupportedError."""
    acknowledged = 0

    def count(number: int) -> None:
        nonlocal acknowledged
        acknowledged = number
        progress(number)

    async def drive(image: AnonymousFile, journal: Journal) -> Run:
        before = delays()
        async with opened(ground, image, strategy, fallocate, journal) as disk:
            oracle = await run(disk, plan, journal=journal, progress=count)
            return await leave(disk, oracle, before)

    played = play_image(ground, plan.size, plan.cluster_size, drive)
    played.acknowledged = acknowledged
    return played


def play_image(
    ground: "Ground",
    size: int,
    cluster_size: int,
    drive: Drive,
    *,
    make: Make | None = None,
    compare: "Compare | None" = None,
) -> Played:
    """Have `drive` work on a fresh image, watched, and read it back. Raises as `play`.

    The image is qcow2, unless `make` makes another one; then `compare` reads it back.
    """
    journal = Journal()
    with ground.scratch.new_file() as image:
        created = make(image) if make else blockstack.create(image.path, size, cluster_size=cluster_size)
        interrupts.run(created)
        if ground.probes is not None:
            ground.probes.watch_file(image.fd)
        run_result, failure = None, None
        try:
            run_result = interrupts.run(drive(image, journal))
        except (OSError, blockstack.ImageError) as error:
            failure = first_cause(error)
        except ExceptionGroup as group:
            if group.split((OSError, blockstack.ImageError))[1] is not None:
                raise
            failure = first_cause(group)
        finally:
            evidence, dropped, unfinished = ground.gather(journal, image.dev, image.ino)
            if ground.probes is not None:
                ground.probes.unwatch(image.dev, image.ino)
        played = Played(evidence, dropped, unfinished, image.dev, image.ino, failure=failure)
        if run_result is not None:
            played.block_io_delay_ns = run_result.block_io_delay_ns
            if run_result.note:
                played.notes.append(run_result.note)
            if compare is None:
                read_back_run(ground, image, run_result, played)
            else:
                compare(image, run_result, played)
    return played


def opened(
    ground: "Ground",
    image: AnonymousFile,
    strategy: Strategy,
    fallocate: str,
    journal: Journal,
    gate: Gate | None = None,
) -> AbstractAsyncContextManager[blockstack.Disk]:
    """The image under test, opened as the ground has it."""
    return blockstack.open(
        image.path,
        "qcow2",
        aio=ground.aio,
        strategy=strategy,
        direct=ground.direct,
        fallocate=fallocate,
        journal=journal,
        stand_in=ground.stand_in,
        gate=gate,
    )


async def leave(disk: blockstack.Disk, oracle: Oracle, before: BlockDelays) -> Run:
    """What has to be known of the disk before closing it forgets the tables and ends the worker threads."""
    waited = delays().since(before)
    return Run(oracle, await mapping(disk).extents(), waited.delays, waited.note)


def mapping(disk: blockstack.Disk) -> Mapping:
    """The tables of an image that was opened as qcow2."""
    assert isinstance(disk.node, Qcow2)
    return disk.node.mapping


def delays() -> BlockDelays:
    """What every thread has waited for block I/O so far."""
    return block_io_delay(int(name) for name in os.listdir("/proc/self/task"))


def read_back_run(ground: "Ground", image: AnonymousFile, run_result: Run, played: Played) -> None:
    try:
        damage = interrupts.run(read_back(image.path, run_result.oracle, ground.aio, direct=ground.direct))
    except (OSError, blockstack.ImageError) as error:
        played.failure = f"the image cannot be read back: {error}"
        return
    played.readback = Readback(damage)
    try:
        read_back_with_qemu(image.path, run_result.oracle, ground.scratch, played.readback)
    except UnsupportedError as error:
        played.readback.notes.append(f"the image was not compared through qemu-img: {error}")
    except ChildError as error:
        played.failure = f"the image cannot be compared through qemu-img: {error}"
    predicted = predicted_damage(played, run_result)
    played.lost_bytes_traced = predicted.bytes


def predicted_damage(played: Played, run_result: Run) -> Damage:
    """What the guest must have lost if the trace is right: data whose place in the file, or whose L2 entry, was cut
    off.
    """
    lost = lost_ranges(played.evidence.ops, played.dev, played.ino).tolist()
    damage = Damage()
    oracle = run_result.oracle
    for guest, host, table, index in run_result.extents:
        entry = table + 8 * index
        if any(start < entry + 8 and entry < end for start, end in lost):
            oracle.predict(guest, 0, oracle.cluster_size, damage)
            continue
        for start, end in lost:
            low, high = max(start - host, 0), min(end - host, oracle.cluster_size)
            if low < high:
                oracle.predict(guest, low, high, damage)
    return damage


def first_cause(error: Exception) -> str:
    """The first cause in one line. Raises UnsupportedError for a full disk, which says nothing about the stack."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise UnsupportedError(
            f"the disk is full ({error.strerror}): make room, set --dir, or lower --writes"
        ) from None
    return f"{type(error).__name__}: {error}"
