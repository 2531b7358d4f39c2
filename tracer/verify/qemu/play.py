"""Plays the guest's plan through a qemu-storage-daemon on a fresh image, watched; then reads the image back."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import blockstack
from blockstack.guest import Oracle, Plan, run
from blockstack.journal import Journal
from tracer import interrupts
from tracer.lab.scratch import AnonymousFile
from tracer.operations import WRITES
from tracer.verify.evidence import Evidence
from tracer.verify.ground import Ground
from tracer.verify.play import Extents, Played, Run, first_cause, mapping, read_back_run
from tracer.verify.qemu.client import connected
from tracer.verify.qemu.daemon import Build, Daemon, DaemonError, served
from tracer.verify.qemu.evidence import evidence


@dataclass(frozen=True, slots=True)
class Session:
    """What one run of a daemon has left. `oracle` is None where it did not end."""

    pid: int
    oracle: Oracle | None
    failure: str | None


def play(ground: Ground, plan: Plan, build: Build, progress: Callable[[int], None], *, misled: bool = False) -> Played:
    """Play `plan` on `build`. A workload that fails is told in `failure`.

    `misled`: the file is long when QEMU opens it and short again before the guest begins. QEMU then takes every
    zero-write for one within the file, and orders none (block/file-posix.c, raw_do_pwrite_zeroes goes by
    bs->total_sectors), while for the kernel they extend it: the control, with nothing else changed.

    Raises UnsupportedError where QEMU does not serve the image at all, or the disk is full.
    """
    acknowledged = 0

    def count(number: int) -> None:
        nonlocal acknowledged
        acknowledged = number
        progress(number)

    assert ground.probes is not None
    assert ground.recorder is not None
    journal = Journal()
    with ground.scratch.new_file() as image:
        interrupts.run(blockstack.create(image.path, plan.size, cluster_size=plan.cluster_size))
        ground.probes.watch_file(image.fd)
        try:
            session = _session(ground, plan, build, image, journal, count, misled)
            seen = ground.recorder.take()
        finally:
            ground.probes.unwatch(image.dev, image.ino)
        failure, extents = session.failure, Extents()
        if failure is None:
            try:
                extents = interrupts.run(_extents(image, ground))
            except (OSError, blockstack.ImageError) as error:
                failure = f"the image cannot be read back: {error}"
        found = evidence(seen, journal, extents, plan.cluster_size, dev=image.dev, ino=image.ino, pid=session.pid)
        if failure is not None:
            found = Evidence(found.ops)  # nothing to account for it by
        if failure is None:
            failure = _other_engine(found, ground)
        # Not less the skipped programs, as in Ground.gather: nobody could say that a fallocate of QEMU's is missing.
        dropped = ground.recorder.dropped
        unfinished = int((found.ops["seq_end"] == 0).sum())
        played = Played(found, dropped, unfinished, image.dev, image.ino, acknowledged, failure)
        if session.oracle is not None and failure is None:
            read_back_run(ground, image, Run(session.oracle, extents, None, ""), played)
    return played


def _other_engine(found: Evidence, ground: Ground) -> str | None:
    """Whether QEMU wrote by another engine than it was told: since 8.1 it falls back by itself to threads.

    It leaves single writes to a thread in any case (raw_co_prw, of memory that is not aligned).
    """
    ops = found.ops[found.ops["result"] > 0]
    if not np.isin(ops["op"], WRITES).any() or (ops["op"] == ground.write_op).any():
        return None
    return f"QEMU did not write with aio={ground.aio}, as it was told to: not one {ground.write_op.label} was seen"


def _session(
    ground: Ground,
    plan: Plan,
    build: Build,
    image: AnonymousFile,
    journal: Journal,
    count: Callable[[int], None],
    misled: bool,
) -> Session:
    size = image.size
    if misled:
        os.ftruncate(image.fd, size + 2 * plan.bytes_allocated)

    async def drive(daemon: Daemon) -> Oracle:
        async with connected(daemon) as disk:
            if misled:
                os.ftruncate(image.fd, size)
            oracle = await run(disk, plan, journal=journal, progress=count)
            await disk.flush()
            return oracle

    with served(build, image.path, aio=ground.aio, direct=ground.direct) as daemon:
        try:
            oracle = interrupts.run(drive(daemon))
            daemon.stop()
        except (OSError, DaemonError) as error:
            return Session(daemon.pid, None, first_cause(error))
        except ExceptionGroup as group:
            if group.split(OSError)[1] is not None:
                raise
            return Session(daemon.pid, None, first_cause(group))
        return Session(daemon.pid, oracle, None)


async def _extents(image: AnonymousFile, ground: Ground) -> Extents:
    """The mapping as it is on the disk, by our own driver."""
    async with blockstack.open(image.path, "qcow2", aio=ground.aio, direct=ground.direct, read_only=True) as disk:
        return await mapping(disk).extents()
