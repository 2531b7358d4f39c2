"""One hostile image on trial: what it may not do, and how that is found out.

An image may be refused, or its writes be; never an exception of another kind, never more than `MEMORY` bytes, never
`SECONDS` of silence, never guest data over metadata.
"""

import asyncio
import faulthandler
import resource
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path

from blockstack.journal import Journal
from tests.fuzz.guest import live
from tests.fuzz.sparse import Entry
from tests.fuzz.watch import Watch

MEMORY = 256 << 20
"""Bytes that one image may cost, above what the process has before it."""

SECONDS = 60
"""After which an image has hung: the slowest takes 2 s."""

_STACK_BYTES = 256 << 10
_SPARE = 128 << 20  # what the walker takes, and memory that is allocated and never touched


@dataclass(slots=True)
class Summary:
    """What was tried, so that a run that tried nothing is seen."""

    images: int = 0
    opened: int = 0
    opened_for_writing: int = 0
    refusals: int = 0
    data_writes: int = 0
    metadata_writes: int = 0


def limit_memory() -> None:
    """Make it an error to take much more than an image may: the machine of whoever runs this goes on working."""
    threading.stack_size(_STACK_BYTES)  # RLIMIT_DATA counts whole stacks, touched or not
    limit = _status("VmData") + MEMORY + _SPARE
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def judge(entry: Entry, directory: Path, summary: Summary) -> list[str]:
    """Everything that is wrong with what happened to `entry`, which is written to `directory`."""
    try:
        path = entry.write(directory)
    except OSError:
        return []  # no file of this length here
    watch, journal = Watch(path), Journal()
    before = _begin_peak()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    wrong: list[str] = []
    try:
        told = asyncio.run(live(path, journal))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        wrong.append("".join(traceback.format_exception(error)))
    else:
        wrong += told.wrong
        summary.opened += len(told.opened)
        summary.opened_for_writing += told.opened.count(False)
        summary.refusals += len(told.refusals)
    faulthandler.cancel_dump_traceback_later()
    taken = _status("VmHWM") - before
    if taken > MEMORY:
        wrong.append(f"{taken >> 20} MiB of memory")
    wrong += watch.violations(journal)
    summary.images += 1
    summary.data_writes += watch.data_writes
    summary.metadata_writes += watch.metadata_writes
    return wrong


def _begin_peak() -> int:
    """Forget the process's peak of memory (proc(5), clear_refs); returns what it has now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)
