"""Does tasks in processes of this machine, one for each core.

They are started afresh (spawn): a fork would take locks along that threads hold, Arrow's and the terminal's. They leave
signals to their parent, and the kernel kills them if it dies.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from tracer import interrupts
from tracer.analysis import shares
from tracer.analysis.shares import Done, News, Task
from tracer.errors import EofraceError, InconclusiveError
from tracer.parent import die_with

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT = 1 << 30
_LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGHUP)


class Processes:
    """`tracer.analysis.engine.Execute` by `count` processes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[int, News | Done]]:
        """Yield what the tasks say. Raises what a task raises, InconclusiveError if a process is killed."""
        todo = iter(enumerate(tasks))
        with contextlib.ExitStack() as stack:
            busy: dict[Connection, SpawnProcess] = {}
            for _ in range(min(self.count, len(tasks))):
                process, connection = stack.enter_context(_worker())
                connection.send(next(todo))
                busy[connection] = process
            while busy:
                for connection in [one for one in wait(list(busy)) if isinstance(one, Connection)]:
                    number, said = _heard(connection, busy[connection])
                    if isinstance(said, Done):
                        task = next(todo, None)
                        connection.send(task)
                        if task is None:
                            del busy[connection]
                    yield number, said


@contextlib.contextmanager
def signals_left_to_the_parent() -> Iterator[None]:
    """What a terminal sends to all of its processes is blocked for good in those that are started in the block.

    Also in threads that are started there, and their processes. What arrives here meanwhile comes right after.
    """
    resource_tracker.ensure_running()  # which unblocks signals, the first time
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _worker() -> Iterator[tuple[SpawnProcess, Connection]]:
    """A process that waits for tasks, killed at the end, if it has not ended by then."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
    # Deferred, too: what is blocked in this thread comes by way of another (Arrow's), and a start that is cut in two
    # leaves a child without its orders, which says so with a traceback.
    with interrupts.deferred(), signals_left_to_the_parent():
        process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.kill()
        process.join()


def _heard(connection: Connection, process: SpawnProcess) -> tuple[int, News | Done]:
    try:
        said: Any = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise InconclusiveError(
            f"a process that did a part of the work was killed (exit status {process.exitcode}): for want of memory?"
            " Try --workers 1"
        ) from None
    number, what = said
    if isinstance(what, EofraceError):
        raise what
    if isinstance(what, str):
        raise RuntimeError(f"a process that did a part of the work failed:\n{what}")
    return number, what


def _work(connection: Connection, parent: int) -> None:
    """Do tasks until there are no more."""
    die_with(parent)
    library = ctypes.CDLL(None)
    # Memory that is used again and again is not given back meanwhile: a sixth of the time was page faults.
    with contextlib.suppress(AttributeError):  # another libc
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (job := connection.recv()) is not None:
            number, task = job
            try:
                for said in shares.run(task):
                    connection.send((number, said))
            except EofraceError as error:
                connection.send((number, error))
            except Exception:
                connection.send((number, traceback.format_exc()))
