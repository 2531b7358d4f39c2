"""Probe file systems: each on a held disk of its own, every mode, several tries; or a directory by repetition."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tracer import attach
from tracer.errors import EofraceError, UnsupportedError
from tracer.lab import scratch
from tracer.lab.children import ChildError
from tracer.lab.held import HeldDisk, held_scratch
from tracer.lab.namespace import enter_private_namespace
from tracer.lab.scratch import default_directory
from tracer.probe.judge import Judgement, Verdict, judge
from tracer.probe.observation import DEFAULT_MODES, Layout
from tracer.probe.repetition import repeat
from tracer.probe.result import Report, Result, of_tries
from tracer.probe.schedule import Eyes, observe
from tracer.recorder import Recorder

DEFAULT_TRIES = 3
FILE_SYSTEMS = ("xfs", "ext4", "btrfs")
"""What is probed unless somebody asks for another one."""

Progress = Callable[[str, str, int, int], None]
"""Told (file system, mode, number of the try from 1, tries) before each try."""


def probe(
    file_systems: Sequence[str] = FILE_SYSTEMS,
    *,
    modes: Sequence[str] = DEFAULT_MODES,
    tries: int = DEFAULT_TRIES,
    directory: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Probe `modes` of fallocate on each of `file_systems`; or with `directory` on the one it lies on, by repetition.

    A file system that cannot be mounted here is reported as unsupported. Raises `UnsupportedError` where nothing can be
    mounted, `UsageError` for an unknown file system or a bad directory.
    """
    notes: list[str] = []
    if directory is not None:
        return Report(repeat(directory, modes, tries, progress), notes, {})
    for fs in file_systems:
        scratch.kind_of(fs, scratch.KINDS[fs].minimum if fs in scratch.KINDS else 0)
    enter_private_namespace()
    results: list[Result] = []
    # The file systems come first: one that is a module has its tracepoints and its BTF only once it is loaded.
    with contextlib.ExitStack() as stack:
        disks = {fs: _disk(fs, stack) for fs in file_systems}
        with _eyes(notes) as eyes:
            for fs, disk in disks.items():
                if isinstance(disk, HeldDisk):
                    results += [_try(fs, mode, disk, tries, eyes, progress) for mode in modes]
                else:
                    results += [Result(fs, mode, "held", Judgement(Verdict.UNSUPPORTED, disk)) for mode in modes]
            mechanisms = dict(eyes.probes.mechanisms) if eyes is not None else {}
    return Report(results, notes, mechanisms)


def _disk(fs: str, stack: contextlib.ExitStack) -> HeldDisk | str:
    """A held disk with that file system, or why it cannot be had on this host."""
    try:
        return stack.enter_context(held_scratch(fs, scratch.KINDS[fs].minimum, default_directory()))
    except (UnsupportedError, ChildError) as error:
        missing = str(error)
    if not any(name in missing for name in (fs, "mkfs")):
        raise UnsupportedError(missing)
    return missing


def _try(fs: str, mode: str, disk: HeldDisk, tries: int, eyes: Eyes | None, progress: Progress) -> Result:
    done = []
    for number in range(1, tries + 1):
        progress(fs, mode, number, tries)
        seen = observe(disk, mode, Layout(), eyes)
        done.append((seen, judge(seen)))
        if done[-1][1].verdict is Verdict.UNSUPPORTED:
            break
    return of_tries(fs, mode, done)


@contextlib.contextmanager
def _eyes(notes: list[str]) -> Iterator[Eyes | None]:
    """eBPF if it can be had; the verdicts stand without it, on the sizes, the content and the threads' stacks."""
    with contextlib.ExitStack() as stack:
        eyes = None
        try:
            probes = stack.enter_context(attach.attach())
            eyes = Eyes(probes, stack.enter_context(Recorder(probes)))
        except EofraceError as error:
            notes.append(f"the kernel was not watched, the order is by our own clock: {error}")
        yield eyes
