"""Runs one cell: an eofrace command in a process of its own, with a limit of time and of output."""

import asyncio
import contextlib
import datetime
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tracer.campaign.born import CODE
from tracer.campaign.version import ROOT, version

MOST_OUTPUT = 64 << 20
"""Bytes of JSON that a cell may print."""

_TAIL = 4096  # bytes of what it says on stderr, the last ones
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL: mounts are undone in them
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Job:
    """What whoever runs a cell has to know."""

    words: tuple[str, ...]
    """Behind `eofrace`."""
    seconds: float
    """After which it is ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended and what it said, not what that is worth (tracer/campaign/rows.py)."""

    exit: int
    """Exit status, or minus the signal that ended it."""
    stdout: bytes
    stderr: str
    """The end of it."""
    error: str | None
    """Why it was ended, if it did not end by itself."""
    started: str
    """UTC, ISO 8601."""
    took: float
    """Seconds."""
    host: str
    """Name of the machine that it ran on."""
    host_kernel: str
    """That machine's kernel, also if the cell had another one in a VM."""
    version: str


class Child(Protocol):
    """A process of a cell, however it was started: the leader of a session."""

    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    async def wait(self) -> int:
        """Its exit status, or minus the signal that ended it, when it has ended."""

    def kill(self, number: int, *, session: bool) -> None:
        """Send it a signal, or all of its session. Nothing happens if it has ended."""


Execute = Callable[[Job], Awaitable[Outcome]]


async def execute(job: Job) -> Outcome:
    """Run a cell to its end, in a new interpreter."""
    return await watched(lambda: _spawn(job), job)


async def watched(start: Callable[[], Awaitable[Child]], job: Job) -> Outcome:
    """Run a cell to its end. When that is cancelled, the process and all of its session end first."""
    started, begin = datetime.datetime.now(datetime.UTC), time.monotonic()
    child = await start()
    stdout, stderr = bytearray(), bytearray()
    error = None
    try:
        async with asyncio.timeout(job.seconds):
            await asyncio.gather(
                _read(child.stdout, stdout, MOST_OUTPUT, tail=False),
                _read(child.stderr, stderr, _TAIL, tail=True),
                child.wait(),
            )
    except TimeoutError:
        error = f"it did not end within {job.seconds:g} s"
    finally:
        await _end(child)
    if error is None and len(stdout) > MOST_OUTPUT:
        error = f"it printed more than {MOST_OUTPUT} bytes"
    machine = os.uname()
    return Outcome(
        await child.wait(),
        bytes(stdout[:MOST_OUTPUT]),
        stderr.decode(errors="replace"),
        error,
        started.isoformat(timespec="milliseconds"),
        round(time.monotonic() - begin, 3),
        machine.nodename,
        machine.release,
        version(),
    )


class _Spawned:
    """A process that we have started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdout, self.stderr = process.stdout, process.stderr
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self, number: int, *, session: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            if session:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


async def _spawn(job: Job) -> Child:
    # A session of its own: what a terminal sends is for us alone, and whatever the cell starts can be ended with it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", CODE, str(ROOT), str(os.getpid()), *job.words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    return _Spawned(process)


async def _read(stream: asyncio.StreamReader, into: bytearray, most: int, *, tail: bool) -> None:
    """All of a stream: its last `most` bytes, or its first and one more, which says that there were more."""
    while piece := await stream.read(_PIECE):
        into += piece
        if tail:
            del into[: max(0, len(into) - most)]
        else:
            del into[most + 1 :]


async def _end(child: Child) -> None:
    """Have a cell's session end. Nothing happens if it has."""
    ended = asyncio.ensure_future(child.wait())
    try:
        # Whatever has ended by now is not asked to: a second turn lets a process that has say so.
        if not (await asyncio.wait([ended], timeout=0.001))[0]:
            child.kill(signal.SIGTERM, session=False)
            await asyncio.wait([ended], timeout=_GRACE)
    finally:
        # Somebody who is in a hurry may cancel that, too; and its leader may be gone and what it started may not.
        child.kill(signal.SIGKILL, session=True)
    await ended
