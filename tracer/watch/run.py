"""Watch until it is time to stop: attach, follow, judge what the kernel's side lets out, tell."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tracer import attach, interrupts
from tracer.analysis.hazards import Counts, Hazard
from tracer.attach import Probes
from tracer.capture import processes
from tracer.capture.before import Before
from tracer.capture.paths import Paths
from tracer.capture.targets import Targets, age
from tracer.hooks import TABLE, Mechanism, Table
from tracer.operations import OPERATION, Op
from tracer.recorder import Recorder
from tracer.watch.pairs import Pairs
from tracer.watch.result import Event, State, Watched

_TURN = 0.25
"""Seconds between two looks at the ring."""
_LOOK = 1.0
"""Seconds between two looks at the counts and the processes."""
RING_BYTES = 4 << 20
"""Room for 26,000 operations that have met others: what does not fit is counted."""


@dataclass(frozen=True, slots=True)
class Options(Targets):
    """What is watched, until when, and with what."""

    mechanism: str = Mechanism.AUTO
    table: Table = TABLE
    ring_bytes: int = RING_BYTES


Tell = Callable[[Event], None]
"""Is told of each hazard."""
Progress = Callable[[State], None]
"""Is told the counts so far, once a second."""


def watch(options: Options, tell: Tell, progress: Progress, watching: Callable[[], None] = lambda: None) -> Watched:
    """Watch as `options` says, until its time is over, its processes have ended, or SIGINT or SIGTERM comes.

    `watching` is called when nothing can escape any more.

    Raises UsageError for a process, a file or a command that is not there, UnsupportedError where the kernel cannot be
    traced, OSError.
    """
    options.check()
    with contextlib.ExitStack() as stack:
        probes = stack.enter_context(
            attach.attach(options.ring_bytes, options.mechanism, options.selection, options.table)
        )
        recorder = stack.enter_context(Recorder(probes))
        return _Watch(options, probes, recorder, tell, progress).run(watching)


class _Watch:
    def __init__(self, options: Options, probes: Probes, recorder: Recorder, tell: Tell, progress: Progress) -> None:
        self._options = options
        self._probes = probes
        self._recorder = recorder
        self._tell = tell
        self._progress = progress
        self._paths = Paths()
        self._pairs = Pairs()
        self._state = State(started=time.time(), processes=1)
        self._begun = time.monotonic()
        self._looked = 0.0

    def run(self, watching: Callable[[], None]) -> Watched:
        options, gaps = self._options, dict(self._probes.gaps)
        with contextlib.ExitStack() as stack:
            stopped = stack.enter_context(interrupts.collected())
            command = stack.enter_context(options.followed(self._probes, self._paths))
            before = Before(self._probes, options.processes(self._probes))
            attached_after = age()
            self._begun = time.monotonic()
            watching()
            while (why := options.over(stopped, command, self._begun, self._state.processes)) is None:
                time.sleep(_TURN)
                self._take()
            gaps |= options.ended(self._probes, command) | before.gaps() | self._paths.replaced()
            self._close()
        return Watched(
            state=self._state,
            attached_after=attached_after,
            mechanisms=dict(self._probes.mechanisms),
            gaps=gaps,
            ended_by=why,
            exit_status=None if command is None else command.returncode,
        )

    def _take(self) -> None:
        ops = self._recorder.take(in_flight=self._pairs.waiting > 0)
        ended = ops["seq_end"] != 0
        self._note(*self._pairs.add(ops[ended], ops[~ended]))
        if time.monotonic() - self._looked >= _LOOK:
            self._look()

    def _close(self) -> None:
        ops = self._recorder.take()
        ended = ops["seq_end"] != 0
        flying, remembered, unsure = ops[~ended], np.empty(0, OPERATION), 0
        writes = flying[~np.isin(flying["op"], (Op.FALLOCATE, Op.TRUNCATE))]
        if len(writes):
            remembered, unsure = self._probes.remembered(writes)
        self._note(*self._pairs.close(ops[ended], flying, remembered))
        self._state.in_flight = len(flying)
        self._look()
        self._state.lost["not watched"] += unsure

    def _note(self, hazards: Sequence[Hazard], counts: Counts) -> None:
        """Count hazards and tell of them."""
        state = self._state
        state.counts += counts
        state.hazards += len(hazards)
        for hazard in hazards:
            state.last_hazard = time.time()
            dev = hazard.kind.dev
            self._tell(Event(state.last_hazard, dev, self._path(dev, hazard.ino), hazard))

    def _path(self, dev: int, ino: int) -> str | None:
        if not self._options.files:
            # As a rule a few thousand names, and hazards are rare.
            names = [name for name in self._probes.names() if name.file == (dev, ino)]
            if names:
                return self._paths.resolve(names[-1])
        return self._paths.get(dev, ino)

    def _look(self) -> None:
        """Bring the counts up to date."""
        state = self._state
        state.seconds = time.monotonic() - self._begun
        state.operations = self._probes.seen()
        state.post_eof_fallocates = self._probes.post_eof_fallocates()
        state.lost = self._probes.dropped() | {"not waited for": self._pairs.forgotten}
        if self._options.selection.by_process:
            state.processes = processes.sweep(self._probes)
        self._looked = time.monotonic()
        self._progress(state)
