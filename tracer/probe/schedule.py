"""One try: the write goes out and is held, fallocate starts, the write is released; then everything is compared.

There is no timing in it. Each step waits until the one before is *seen*: the write at the disk, fallocate asleep in the
kernel or back from it.
"""

import os
import time
from dataclasses import dataclass

import numpy as np

from tracer.attach import Probes
from tracer.lab import waiting
from tracer.lab.held import HeldDisk, Hold
from tracer.lab.scratch import KINDS, AnonymousFile
from tracer.operations import WRITES, Op, Operations
from tracer.probe.observation import MODES, Event, Layout, Observation
from tracer.probe.workers import AioWrite, Fallocate, Worker, opened_direct
from tracer.recorder import Recorder

SECONDS = 20.0
"""Limit of each step. An emulated machine takes some tenths of one."""


@dataclass(frozen=True, slots=True)
class Eyes:
    """The kernel, watched by eBPF."""

    probes: Probes
    recorder: Recorder


def observe(disk: HeldDisk, mode: str, layout: Layout, eyes: Eyes | None) -> Observation:
    """Run one try on a fresh file. Raises HeldDiskError, OSError where no file can be made."""
    seen = Observation(mode, layout)
    marker = disk.marker()
    data = marker + os.urandom(layout.write_length - len(marker))
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
        prime = KINDS[disk.scratch.fs].prime
        if prime is not None:
            prime(file.fd)
        if eyes is not None:
            eyes.probes.watch_file(file.fd)
        write = AioWrite(direct, data, layout.write_offset)
        fallocate = Fallocate(file.fd, MODES[mode], layout.fallocate_length)
        try:
            _choose(seen, file, write, fallocate, hold)
            _compare(seen, file, data)
            if eyes is not None:
                _look(seen, eyes.recorder.take(), file)
        finally:
            hold.release()
            if eyes is not None:
                eyes.probes.unwatch(file.dev, file.ino)
    if not seen.events:
        seen.events = _driver_events(seen, write, fallocate)
    return seen


def _choose(seen: Observation, file: AnonymousFile, write: AioWrite, fallocate: Fallocate, hold: Hold) -> None:
    """The schedule."""
    write.start()
    if not _held(hold, write):
        hold.release()
        write.join(SECONDS)
        seen.write_error = write.error
        seen.failure = _why_not_held(write)
        return
    seen.held, seen.t_held = True, hold.writes[0].t_held
    seen.writer = waiting.look(write.tid)
    seen.in_submit = seen.writer is not None and seen.writer.syscall == "io_submit"
    seen.size_before = file.size
    fallocate.start()
    seen.fallocate, seen.returned = waiting.wait_blocked(
        fallocate.tid, "fallocate", SECONDS, lambda: fallocate.error is not None
    )
    seen.t_released = time.monotonic_ns()
    hold.release()
    for worker in (write, fallocate):
        worker.join(SECONDS)
    seen.write_error, seen.fallocate_error = write.error, fallocate.error


def _held(hold: Hold, write: Worker) -> bool:
    for _ in range(int(SECONDS / 0.1)):
        if hold.wait(0.1):
            return True
        if write.error is not None:
            return bool(hold.writes)
    return False


def _why_not_held(write: Worker) -> str:
    if write.error:
        return f"the write failed: {os.strerror(write.error)}"
    if write.error is None:
        return f"the write did not reach the disk within {SECONDS:g} s"
    return "the write ended without its data going to the disk by itself, so it could not be held"


def _compare(seen: Observation, file: AnonymousFile, data: bytes) -> None:
    """Size and content, read through the page cache, which a direct write has invalidated."""
    layout = seen.layout
    seen.size_found = file.size
    seen.wrong_bytes = _differing(file, layout.write_offset, data)
    seen.stray_bytes = _differing(file, 0, bytes(min(layout.fallocate_length, seen.size_found)))


def _differing(file: AnonymousFile, offset: int, expected: bytes) -> int:
    """Bytes of the file that are not as expected; what lies beyond its end is not."""
    found = os.pread(file.fd, len(expected), offset)
    same = np.frombuffer(found, np.uint8) == np.frombuffer(expected[: len(found)], np.uint8)
    return len(expected) - int(same.sum())


def _look(seen: Observation, ops: Operations, file: AnonymousFile) -> None:
    """Take the order of events from the kernel, if it saw both operations begin and end."""
    ops = ops[(ops["dev"] == file.dev) & (ops["ino"] == file.ino) & (ops["seq_end"] != 0)]
    writes, fallocates = ops[np.isin(ops["op"], WRITES)], ops[ops["op"] == Op.FALLOCATE]
    if len(writes) != 1 or len(fallocates) != 1:
        return
    seen.source = "kernel"
    events = []
    for op, name in ((writes[0], "write"), (fallocates[0], "fallocate")):
        begin, applied, end = int(op["t_begin"]), int(op["t_applied"]), int(op["t_end"])
        events.append(Event(begin, f"{name} begins", int(op["size_begin"])))
        if begin < applied < end:
            events.append(Event(applied, f"{name} takes effect"))
        events.append(Event(end, f"{name} ends", int(op["size_end"])))
    seen.events = _with_hold(seen, events)


def _driver_events(seen: Observation, write: Worker, fallocate: Worker) -> list[Event]:
    """The order by our own clock around the system calls."""
    events = []
    for worker, name in ((write, "write"), (fallocate, "fallocate")):
        if worker.t_begin:
            events.append(Event(worker.t_begin, f"{name} begins"))
        if worker.t_begin and worker.error is not None:
            events.append(Event(worker.t_end, f"{name} ends", worker.size_after))
    return _with_hold(seen, events)


def _with_hold(seen: Observation, events: list[Event]) -> list[Event]:
    if seen.held:
        events.append(Event(seen.t_held, "write held at the disk", seen.size_before))
    if seen.t_released:
        events.append(Event(seen.t_released, "write released"))
    return sorted(events, key=lambda event: event.t)
