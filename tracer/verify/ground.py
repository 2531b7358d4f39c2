"""The ground a run stands on: a scratch file system, eyes in the kernel if there are any, and an AIO engine that works.

What a host cannot do is found by trying, and each step back (from XFS to whatever there is, from the kernel's evidence
to the driver's, from Linux AIO to threads) leaves a note that names its cause.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from blockstack.aio import ENGINES
from blockstack.guest import make_plan
from blockstack.journal import Journal
from blockstack.strategies import CONTROL, STRATEGIES
from tracer import attach
from tracer.errors import EofraceError, UnsupportedError, UsageError
from tracer.lab.namespace import enter_private_namespace
from tracer.lab.scratch import Scratch, default_directory, directory_scratch, loop_scratch
from tracer.operations import WRITES, Op
from tracer.recorder import Recorder
from tracer.verify.evidence import Evidence, driver_evidence, kernel_evidence
from tracer.verify.options import Options
from tracer.verify.play import Played, play

_LOOP_MINIMUM = 1 << 30
_LOOP_ROOM = 12
"""Size of the scratch file system over what an image takes: XFS frees deleted files late, and keeps reserves."""
_MARGIN = 64 << 20
"""Bytes to leave free where the scratch file system's backing file lies."""
_PREFLIGHT_WRITES = 24
_SUBMITS_SYNCHRONOUSLY = {"zfs": "io_submit(2) does the whole of a write there (zpl_iter_write, OpenZFS 2.3.2)"}
"""File systems on which Linux AIO has one write in flight at a time, and why: next to nothing would meet there."""


class Space(Protocol):
    """A guest's plan, as far as the ground is concerned."""

    @property
    def bytes_allocated(self) -> int:
        """Bytes that its files fill at most."""
        ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What every cell of a run shares."""

    scratch: Scratch
    aio: str
    direct: bool  # O_DIRECT
    stand_in: bool  # the scratch is not XFS and stands in for it
    probes: attach.Probes | None
    recorder: Recorder | None
    notes: list[str] = field(default_factory=list)

    @property
    def evidence(self) -> str:
        """`kernel` or `driver`."""
        return "driver" if self.recorder is None else "kernel"

    @property
    def mechanisms(self) -> dict[str, str]:
        """Hook -> how it is attached; none where the kernel is not watched."""
        return {} if self.probes is None else dict(self.probes.mechanisms)

    @property
    def gaps(self) -> dict[str, str]:
        """Hook that could not be attached -> why, and what that costs."""
        return {} if self.probes is None else dict(self.probes.gaps)

    @property
    def write_op(self) -> Op:
        """What a data write of the driver is, by its own evidence."""
        if not self.direct:
            return Op.BUFFERED_WRITE
        return {"native": Op.AIO_WRITE, "io_uring": Op.URING_WRITE}.get(self.aio, Op.DIRECT_WRITE)

    def gather(self, journal: Journal, dev: int, ino: int) -> tuple[Evidence, int, int]:
        """The evidence on one file since the last call: the trace, events dropped, operations unfinished."""
        if self.recorder is None:
            evidence = driver_evidence(journal, dev=dev, ino=ino, write=self.write_op)
            unfinished = int(sum(evidence.ops["seq_end"] == 0))
            return evidence, 0, unfinished
        seen = self.recorder.take()
        evidence = kernel_evidence(seen, journal, dev=dev, ino=ino)
        dropped = self.recorder.dropped
        if not evidence.unaccounted:
            # Skipped programs are counted for the whole host. Where every call of the driver is in the trace, begin and
            # end, the one that was skipped was somebody else's.
            dropped -= self.recorder.dropped_by["program skipped"]
        return evidence, dropped, int(sum(evidence.ops["seq_end"] == 0))


@contextlib.contextmanager
def prepare(options: Options, plan: Space) -> Iterator[Ground]:
    """Set everything up, and take it down again. Raises UsageError, UnsupportedError."""
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        private = _private_namespace(options, notes)
        scratch, stand_in = _scratch(options, plan, private, notes, stack)
        _need_space(scratch.path, plan, options.directory or default_directory())
        aio, direct = choose_engine(options, scratch, notes)
        probes = recorder = None
        if options.evidence != "driver" and private:
            probes, recorder = open_eyes(options, notes, stack)
        yield checked(Ground(scratch, aio, direct, stand_in, probes, recorder, notes), options)


def checked(ground: Ground, options: Options) -> Ground:
    """`ground`, blind if its hooks see nothing of a trial run. Raises UnsupportedError, EofraceError."""
    if ground.recorder is None or _preflight(ground):
        return ground
    note = f"the hooks do not see direct writes on {ground.scratch.fs} (tried)"
    if options.evidence == "kernel":
        raise UnsupportedError(f"{note}: use --fs xfs, or --evidence driver")
    ground.notes.append(note)
    return replace(ground, probes=None, recorder=None)


def _private_namespace(options: Options, notes: list[str]) -> bool:
    try:
        enter_private_namespace()
    except UnsupportedError as error:
        if options.evidence == "kernel":
            raise
        notes.append(str(error))
        return False
    return True


def _scratch(
    options: Options, plan: Space, private: bool, notes: list[str], stack: contextlib.ExitStack
) -> tuple[Scratch, bool]:
    if options.directory is not None:
        scratch = stack.enter_context(directory_scratch(options.directory))
        if options.fs not in (None, scratch.fs):
            raise UsageError(
                f"--dir {options.directory} lies on {scratch.fs}, not on {options.fs}: name another one, or leave --fs"
                f" out"
            )
        return scratch, False
    fs = options.fs or "xfs"
    where = default_directory()
    if private:
        try:
            free = _need_space(where, plan, where)
            size = min(max(_LOOP_MINIMUM, _LOOP_ROOM * plan.bytes_allocated), free - _MARGIN)
            return stack.enter_context(loop_scratch(fs, size, where)), False
        except UnsupportedError as error:
            if options.evidence == "kernel":
                raise
            notes.append(str(error))
    elif not notes:
        notes.append("no scratch file system can be mounted")
    scratch = stack.enter_context(directory_scratch(where))
    if scratch.fs == fs:
        return scratch, False
    if fs != "xfs":
        raise UnsupportedError(f"{fs} cannot be mounted here ({notes[-1]}), and {where} lies on {scratch.fs}")
    notes.append(f"{scratch.fs} ({where}) stands in for XFS: the strategies are told that it is XFS with aio=native")
    return scratch, True


def _need_space(path: Path, plan: Space, shown: Path) -> int:
    """Bytes free at `path`, shown as `shown`. Raises UnsupportedError if an image and its copy do not fit."""
    return need_bytes(path, 2 * plan.bytes_allocated + _MARGIN, shown)


def need_bytes(path: Path, needed: int, shown: Path) -> int:
    """Bytes free at `path`, shown as `shown`. Raises UnsupportedError if they are fewer than `needed`."""
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise UnsupportedError(
            f"{shown} has {free >> 20} MiB free and the run needs {needed >> 20} MiB: make room, set --dir or TMPDIR,"
            " or lower --writes"
        )
    return free


def choose_engine(options: Options, scratch: Scratch, notes: list[str]) -> tuple[str, bool]:
    """The AIO engine to use, and whether O_DIRECT works."""
    direct = True
    with scratch.new_file() as file:
        try:
            os.close(os.open(file.path, os.O_RDWR | os.O_DIRECT))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            direct = False
        wanted = options.aio or "native"
        if wanted == "threads":
            return wanted, direct
        why = "O_DIRECT is refused" if not direct else _engine_refused(wanted, file.path)
    if why is None and options.aio is None:
        why = _SUBMITS_SYNCHRONOUSLY.get(scratch.fs)
    if why is None:
        return wanted, True
    if options.aio is not None:
        raise UnsupportedError(
            f"aio={wanted} does not work on {scratch.fs} here ({why}): use --aio threads or another --dir"
        )
    notes.append(f"aio=threads was chosen on {scratch.fs}: {why}")
    return "threads", direct


def _engine_refused(aio: str, path: Path) -> str | None:
    async def attempt() -> str | None:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            ENGINES[aio](fd, None).close()
        except OSError as error:
            name = "Linux AIO" if aio == "native" else aio
            return f"{name} is refused ({error.strerror or error})"
        finally:
            os.close(fd)
        return None

    return asyncio.run(attempt())


def open_eyes(
    options: Options, notes: list[str], stack: contextlib.ExitStack
) -> tuple[attach.Probes | None, Recorder | None]:
    """Watch the kernel until `stack` is left; nothing where that cannot be had, with a note."""
    try:
        probes = stack.enter_context(attach.attach())
    except UnsupportedError as error:
        if options.evidence == "kernel":
            raise
        notes.append(str(error))
        return None, None
    return probes, stack.enter_context(Recorder(probes))


def _preflight(ground: Ground) -> bool:
    """Play a few writes; whether the hooks see any. Raises EofraceError if it cannot be played.

    Seeing some and not others is no reason to believe the driver instead: the cells will say that the two disagree.
    """
    plan = make_plan(1, _PREFLIGHT_WRITES)
    played: Played = play(ground, plan, STRATEGIES[CONTROL], "kernel", lambda _: None)
    if played.failure is not None:
        raise EofraceError(f"a trial run failed: {played.failure}")
    return bool(np.isin(played.evidence.ops["op"], WRITES).any())
