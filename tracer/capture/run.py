"""Record until it is time to stop: attach, follow, drain, keep, count."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer import attach, interrupts, trace
from tracer.analysis.completeness import OTHER_PROCESSES
from tracer.analysis.hazards import Analysis, analyse
from tracer.attach import Probes
from tracer.capture import mappings, processes
from tracer.capture.before import Before
from tracer.capture.parts import PART_OPERATIONS, Directory, Memory
from tracer.capture.paths import Paths
from tracer.capture.result import Captured, Totals
from tracer.capture.targets import Command, Targets, age
from tracer.hooks import Mechanism
from tracer.operations import Operations
from tracer.output import check_writable
from tracer.recorder import Recorder
from tracer.report.escape import printable
from tracer.trace import TraceMeta

MAX_KEPT = 1_000_000
"""Operations that are kept in memory, to be judged, or for a trace in one file: 145 MB."""

_DEEP = ("xfs", "ext4", "btrfs")
"""File systems whose direct writes are seen inside of them."""

_MAX_WORDS, _MAX_WORD = 256, 1024
"""Words of the command line that a trace keeps, and characters of each."""

_TURN = 0.1
"""Seconds between two looks at whether it is time to stop."""
_TAKE = 0.3
"""Seconds between two looks at the ring: to wake up costs as much as some hundred operations."""
_LOOK = 1.0
"""Seconds between two looks at the table of names, at the processes, and at what the kernel has counted as lost."""


@dataclass(frozen=True, slots=True)
class Options(Targets):
    """What is recorded, until when, and where it is kept."""

    output: Path | None = None
    """A file that ends in .parquet, or a directory; None: nothing is kept when it is over."""
    part_operations: int = PART_OPERATIONS
    ring_bytes: int = 16 << 20
    mechanism: str = Mechanism.AUTO

    @property
    def rotates(self) -> bool:
        """Whether the trace is a directory."""
        return self.output is not None and self.output.suffix != ".parquet"


Progress = Callable[[Totals, float], None]
"""Is told the counts so far and the seconds since the start, several times a second."""


def capture(options: Options, progress: Progress, recording: Callable[[], None] = lambda: None) -> Captured:
    """Record as `options` says, until its time is over, its processes have ended, or SIGINT or SIGTERM comes.

    `recording` is called once, when nothing that begins can escape any more, and the command, if any, was started.
    Raises UsageError for a process, a file or a command that is not there, UnsupportedError where the kernel cannot be
    traced, OSError.
    """
    options.check()
    if options.output is not None and not options.rotates:
        check_writable(options.output)
    with contextlib.ExitStack() as stack:
        probes = stack.enter_context(attach.attach(options.ring_bytes, options.mechanism, options.selection))
        recorder = stack.enter_context(Recorder(probes))
        return _Capture(options, probes, recorder, progress).run(recording)


class _Capture:
    def __init__(self, options: Options, probes: Probes, recorder: Recorder, progress: Progress) -> None:
        self._options = options
        self._probes = probes
        self._recorder = recorder
        self._progress = progress
        self._paths = Paths()
        self._totals = Totals()
        self._notes: list[str] = []
        self._gaps: dict[str, str] = {}
        self._memory = Memory(MAX_KEPT)
        self._directory: Directory | None = None
        if options.output is not None and options.rotates:
            self._directory = Directory(options.output, options.part_operations, self._meta)
        self._mapped: set[tuple[int, int]] = set()
        """Files that can be changed by storing into memory."""
        self._started = time.monotonic()
        self._looked = 0.0
        self._evicted = 0
        """`Totals.evicted`, as of the last look."""
        self._processes = 1
        """That are followed, as of the last look."""

    def run(self, recording: Callable[[], None]) -> Captured:
        options = self._options
        with contextlib.ExitStack() as stack:
            stopped = stack.enter_context(interrupts.collected())
            command = stack.enter_context(options.followed(self._probes, self._paths))
            followed = options.processes(self._probes)
            self._mapped = mappings.shared(followed)
            before = Before(self._probes, followed)
            attached_after = age()
            self._started = time.monotonic()
            recording()
            taken = self._started
            while (why := self._over(stopped, command)) is None:
                time.sleep(_TURN)
                if time.monotonic() - taken < _TAKE:
                    continue
                taken = time.monotonic()
                self._take()
                self._progress(self._totals, taken - self._started)
            seconds = time.monotonic() - self._started
            self._gaps |= options.ended(self._probes, command) | before.gaps() | self._paths.replaced()
            self._notes += self._paths.gone()
            self._take(final=True)
            self._note_mappings()
            if self._memory.full:
                self._gaps["the rest of the recording"] = f"of more than {MAX_KEPT:,} operations the first were kept"
        written = self._write()
        totals = self._totals
        kinds = {dev: self._paths.kind(dev) for dev in {dev for dev, _ in totals.files}}
        self._notes += _shallow(kinds.values(), self._probes.tells_subvolumes)
        return Captured(
            seconds=seconds,
            attached_after=attached_after,
            totals=totals,
            paths={file: self._paths.get(*file) for file in totals.files},
            earlier={file: earlier for file in totals.files if (earlier := self._paths.earlier(*file))},
            kinds=kinds,
            analysis=self._judge(),
            trace=written,
            mechanisms=dict(self._probes.mechanisms),
            gaps=self._probes.gaps | self._gaps,
            notes=tuple(self._notes),
            ended_by=why,
            exit_status=None if command is None else command.returncode,
        )

    def _over(self, stopped: list[int], command: Command | None) -> str | None:
        """Why it is time to stop; None if it is not."""
        why = self._options.over(stopped, command, self._started, self._processes)
        if why is None and self._memory.full and self._options.output is not None:
            self._notes.append(
                f"stopped after {MAX_KEPT:,} operations, which is what one file takes: name a directory with -o DIR/"
            )
            return "the trace is full"
        return why

    def _take(self, *, final: bool = False) -> None:
        """Count and keep what has ended; at the end what is in flight, too."""
        now = time.monotonic()
        looks = final or now - self._looked >= _LOOK
        ops = self._recorder.take_columns(in_flight=final, dropped=looks)
        self._totals.add(ops, self._recorder.dropped_by)
        (self._directory or self._memory).add(ops, self._recorder.dropped)
        if not looks:
            return
        self._looked = now
        if self._options.selection.by_process:
            self._processes = processes.sweep(self._probes)
        if not self._options.files:
            if self._totals.evicted > self._evicted:
                self._evicted = self._totals.evicted
                self._paths.retain(self._totals.files)
            self._paths.learn(self._probes.names())

    def _note_mappings(self) -> None:
        """A file that is only mapped is not judged. One that is written to as well may be changed unseen."""
        before = {
            file for file in self._mapped if self._options.files or self._paths.kind(file[0]) not in mappings.MEMORY
        }
        found = before | self._probes.mapped().keys()
        if not self._totals.evicted:  # else nobody knows any more of which files there were operations
            found &= self._totals.files.keys()
        if found:
            first = min(found)
            path = self._paths.get(*first) or f"inode {first[1]}"
            more = f", and {len(found) - 1} more files," if len(found) > 1 else ""
            self._gaps["stores to shared mappings"] = (
                f"{printable(path)}{more} could be changed by them, and nobody tells when that happens"
            )

    def _write(self) -> Path | None:
        if self._directory is not None:
            self._directory.close()
        elif self._options.output is not None:
            trace.write(self._options.output, self._memory.all(), self._meta())
        return self._options.output

    def _judge(self) -> Analysis | None:
        if self._totals.operations > MAX_KEPT:
            where = f"eofrace analyze {self._options.output}" if self._options.output else "-o DIR/, then analyze DIR"
            self._notes.append(f"not judged: more than {MAX_KEPT:,} operations: {where}")
            return None
        ops: Operations = self._memory.all() if self._directory is None else trace.read(self._directory.path).ops
        return analyse(ops, self._meta())

    def _meta(self) -> TraceMeta:
        """Of everything so far."""
        kernel = os.uname()
        others = {OTHER_PROCESSES: "what they do to the same files is not recorded"}
        scope = others if self._options.selection.by_process else {}
        return TraceMeta(
            host={"kernel": kernel.release, "machine": kernel.machine},
            mechanisms=self._probes.mechanisms,
            gaps=self._probes.gaps | self._gaps | scope,
            dropped=sum(self._totals.dropped.values()),
            unfinished=self._totals.unfinished,
            command=_shortened(sys.argv),
            evidence="kernel",
        )


def _shortened(words: Sequence[str]) -> tuple[str, ...]:
    """A command line as far as it is worth keeping."""
    kept = [word[:_MAX_WORD] for word in words[:_MAX_WORDS]]
    return (*kept, "...") if len(words) > _MAX_WORDS else tuple(kept)


def _shallow(kinds: Iterable[str | None], tells_subvolumes: bool) -> list[str]:
    """What the file systems met do not let us see."""
    notes = []
    for kind in sorted({kind for kind in kinds if kind is not None}):
        if kind == "overlay":
            notes.append("overlay: operations are recorded from the system call, and again on the file system below it")
        elif kind == "btrfs" and not tells_subvolumes:
            notes.append("btrfs, loaded too late: files of the same inode number in several subvolumes count as one")
        elif kind not in _DEEP:
            notes.append(f"{kind}: recorded from the system call alone: when a change took effect is not seen")
    return notes
