"""The ground of a held run: the ordinary one, but with its scratch file system on a held disk."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.errors import EofraceError, UnsupportedError
from tracer.lab import waiting
from tracer.lab.held import HeldDisk, held_scratch
from tracer.lab.namespace import enter_private_namespace
from tracer.lab.scratch import default_directory
from tracer.probe.workers import AioWrite, opened_direct
from tracer.verify import ground
from tracer.verify.ground import Ground
from tracer.verify.options import Options

SIZE = 640 << 20
"""Bytes of the scratch file system; sparse, of which a case takes some 20 MiB, and as much for qemu-img's copy."""
_SECONDS = 20.0
_LENGTH = 65536


@dataclass(frozen=True, slots=True)
class HeldGround:
    """What every cell of a held run shares."""

    ground: Ground
    disk: HeldDisk


@contextlib.contextmanager
def prepare(options: Options) -> Iterator[HeldGround]:
    """Set everything up, and take it down again. Raises UnsupportedError: without a held disk there is no such run."""
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        enter_private_namespace()
        where = default_directory()
        ground.need_bytes(where, SIZE // 4, where)
        disk = stack.enter_context(held_scratch(options.fs or "xfs", SIZE, where))
        aio, direct = ground.choose_engine(options, disk.scratch, notes)
        if not direct:
            raise UnsupportedError(f"O_DIRECT is refused on {disk.scratch.fs}: nothing can be held there, use --fs xfs")
        if aio == "native":
            aio = _asynchronous(options, disk, notes)
        probes = recorder = None
        if options.evidence != "driver":
            probes, recorder = ground.open_eyes(options, notes, stack)
        made = ground.checked(Ground(disk.scratch, aio, direct, False, probes, recorder, notes), options)
        yield HeldGround(made, disk)


def _asynchronous(options: Options, disk: HeldDisk, notes: list[str]) -> str:
    """`native`, if io_submit(2) returns while an extending write is held; else `threads`, or UnsupportedError.

    ext4 and btrfs wait for an extending direct write inside of io_submit(2): the driver's event loop would stand still,
    and with it whoever is to issue the other operation.
    """
    marker = disk.marker()
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
        write = AioWrite(direct, marker.ljust(_LENGTH, b"e"), _LENGTH)
        write.start()
        try:
            if not hold.wait(_SECONDS):
                raise EofraceError("a trial write did not reach the held disk: run it again")
            # Asleep in epoll_wait(2), if io_submit(2) has returned.
            place = _steady(write)
        finally:
            hold.release()
            write.join(_SECONDS)
    if place is None or place.syscall != "io_submit":
        return "native"
    fact = (
        f"on {disk.scratch.fs} an extending direct write is never asynchronous: io_submit(2) itself waited in "
        f"{place.place} for the write that was held"
    )
    if options.aio == "native":
        raise UnsupportedError(f"{fact}, so that no schedule can be chosen: use --aio threads")
    notes.append(f"aio=threads was chosen: {fact}")
    return "threads"


def _steady(write: AioWrite) -> waiting.Waiting | None:
    found, _ = waiting.wait_blocked(write.tid, "io_submit", 0.3, lambda: write.error is not None)
    return found
