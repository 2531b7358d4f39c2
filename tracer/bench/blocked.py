"""Where the threads of a run sleep in the kernel: looked at again and again, in a run of its own.

How long inode_dio_wait() takes no tracepoint says: between xfs_ilock and xfs_zero_file_space (v6.18) lies the wait for
the lock, too, and a kprobe is not to be had on every host. But /proc/PID/task/TID/stack says of a sleeping thread in
which function it sleeps, on every file system, for whoever is root (CONFIG_STACKTRACE). A thread that is seen there
counts for the time since the look before: a sample, to be read as such.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

WITHIN: Mapping[str, tuple[str, ...]] = {
    "inode_dio_wait": ("inode_dio_wait",),
    "log": ("xlog_", "xfs_log_", "jbd2_", "btrfs_wait_", "wait_current_trans"),
    "device": ("io_schedule", "submit_bio_wait", "folio_wait_", "rq_qos_wait"),
}
"""Place -> beginnings of functions: a thread with one of them anywhere in its stack sleeps there; the first counts.

inode_dio_wait: direct I/O of the file in flight is waited for, by a fallocate, or by a write behind the file's end.
"""

AT: Mapping[str, tuple[str, ...]] = {
    "lock": ("xfs_ilock", "ext4_fallocate", "ext4_file_write_iter", "ext4_dio_", "btrfs_inode_lock", "btrfs_fallocate"),
    "own_write": ("iomap_dio_rw",),
}
"""The same of the innermost function. The scheduler's are never shown, and those of locks are among them: a thread that
sleeps in what takes the inode's lock waits for that. A direct write that is not aligned to blocks waits for itself.
"""

OTHER = "other"

PLACES = (*WITHIN, *AT, OTHER)

_NOT_TIMED = ("x64_sys_io_destroy", "arm64_sys_io_destroy")
"""Closing takes that; what a flush at the end waits for is not told from other flushes."""

_PAUSE = 0.0005
"""Seconds between two looks."""


class Sampler:
    """Looks at all threads of the children of this process, from another thread, while it is entered.

    Children that were there before are not the run's: a held disk's servers.
    """

    def __init__(self) -> None:
        self.ns: Counter[str] = Counter()
        """Place -> ns that threads slept there, all together."""
        self.failure = "the looking broke off"
        """Why there are no figures, once it is left; empty: there are some."""
        self._others: frozenset[int] = frozenset()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        self._others = frozenset(_children(os.getpid()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def figures(self) -> dict[str, int] | None:
        """Place -> ns, all places there are; None for a run that was not looked at from its begin to its end."""
        return None if self.failure else {name: self.ns[name] for name in PLACES}

    def _run(self) -> None:
        try:
            seen = self._look()
        except OSError as error:
            self.failure = f"{error.filename or '/proc'}: {error.strerror}"
        else:
            self.failure = "" if seen else "no process of the run was seen"

    def _look(self) -> bool:
        """Until it is left. Returns whether there was anybody to look at."""
        seen = False
        before = time.monotonic_ns()
        while not self._ended.wait(_PAUSE):
            children = list(_children(os.getpid(), self._others))
            seen |= bool(children)
            found = [place_of(stack) for stack in _asleep(children)]
            now = time.monotonic_ns()
            for place in found:
                if place is not None:
                    self.ns[place] += now - before
            before = now
        return seen


def missing() -> str | None:
    """Why this host does not say where a thread sleeps; None: it does."""
    for name, remedy in (("stack", "root and CONFIG_STACKTRACE"), ("children", "CONFIG_PROC_CHILDREN")):
        try:
            Path(f"/proc/thread-self/{name}").read_text()
        except OSError as error:
            return f"/proc/PID/task/TID/{name} cannot be read ({error.strerror}): it needs {remedy}"
    return None


def place_of(stack: Sequence[str]) -> str | None:
    """Where a thread sleeps whose functions, innermost first, are these; None: where no time is taken any more."""
    plain = [function.lstrip("_") for function in stack]
    if plain[0] in _NOT_TIMED:
        return None
    for name, functions in WITHIN.items():
        if any(function.startswith(functions) for function in plain):
            return name
    return next((name for name, functions in AT.items() if plain[0].startswith(functions)), OTHER)


def _asleep(processes: Iterable[int]) -> Iterator[list[str]]:
    """The stacks of all threads of some processes that sleep and cannot be woken by a signal."""
    for process in processes:
        with _gone():
            for task in os.scandir(f"/proc/{process}/task"):
                with _gone(), contextlib.suppress(IndexError):
                    # The name may hold anything, the state follows its closing bracket (proc_pid_stat(5)).
                    if Path(task.path, "stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "D":
                        continue
                    lines = Path(task.path, "stack").read_text().splitlines()
                    # "[<0>] inode_dio_wait+0x79/0xb0". It may have been woken since: then there is nothing.
                    stack = [line.split()[1].partition("+")[0] for line in lines if line]
                    if stack:
                        yield stack


def _children(pid: int, others: Collection[int] = ()) -> Iterator[int]:
    """Its children and theirs (CONFIG_PROC_CHILDREN), but for those others and theirs."""
    tasks: list[Path] = []
    with _gone():
        tasks += Path(f"/proc/{pid}/task").iterdir()
    for task in tasks:
        found: list[str] = []
        with _gone():
            found += (task / "children").read_text().split()
        for child in map(int, found):
            if child not in others:
                yield child
                yield from _children(child, others)


def _gone() -> AbstractContextManager[None]:
    """Around what is read of a process that may end at any moment."""
    return contextlib.suppress(FileNotFoundError, ProcessLookupError)
