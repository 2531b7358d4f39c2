"""A large search on many cores, or machines: tasks out, what they found back, in whatever order; and a checkpoint.

The checkpoint has one JSON line for each task that is done, so that a search that was interrupted, or killed, goes on
where it was. What is found does not depend on how many workers there are, nor on how often it was interrupted.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tracer.analysis import cluster
from tracer.errors import UsageError
from tracer.explore.space import Space
from tracer.explore.tasks import Found, Task, run_task
from tracer.parent import die_with
from tracer.report.escape import printable

_POLL = 0.2  # seconds between two looks whether somebody wants to stop


def _begin_worker(parent: int) -> None:
    """A worker leaves signals of the terminal to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)


@contextmanager
def executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """Workers on this host's cores, or on a Dask cluster. Raises UnsupportedError without Dask, UsageError without
    its scheduler."""
    if scheduler is not None:
        with cluster.scheduler(scheduler) as workers:
            yield workers.executor()
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin_worker, (os.getpid(),))
    try:
        yield pool
    finally:
        for process in list((pool._processes or {}).values()):  # a task may take minutes: nobody waits for it
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


class Checkpoint:
    """What is done of the tasks of some searches. Raises UsageError for a file that is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: dict[str, Found] = {}
        if path is None or not path.exists():
            return
        try:
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self._done[entry["task"]] = Found.from_json(entry["found"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            # The last line of a run that was killed may be half a line: it is done again.
            if not isinstance(error, ValueError) or not self._done:
                raise UsageError(f"{printable(str(path))}: not a checkpoint of explore") from error

    def get(self, space: Space, task: Task) -> Found | None:
        """What the task has found, if it is done."""
        return self._done.get(_key(space, task))

    def put(self, space: Space, task: Task, found: Found) -> None:
        """The task is done."""
        if self._path is None:
            return
        line = json.dumps({"task": _key(space, task), "found": found.to_json()}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def _key(space: Space, task: Task) -> str:
    how = f"{space.guest.cluster_size}{' tight' if space.tight else ''}{' late' if space.late else ''}"
    guest = f"{space.guest} ({how})"
    return f"{space.strategy.name} x {space.model.name} x {guest} behind {list(task.prefix)} asleep {list(task.sleep)}"


def run_tasks(
    pool: Executor,
    space: Space,
    tasks: Sequence[Task],
    checkpoint: Checkpoint,
    stopped: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> Found:
    """Do all tasks that are not done; merged in their order. `progress` is told how many are done, of how many."""
    results = {task: found for task in tasks if (found := checkpoint.get(space, task)) is not None}
    waiting: dict[Future[Found], Task] = {
        pool.submit(run_task, space, task): task for task in tasks if task not in results
    }
    while waiting and not stopped():
        done, _ = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
        for future in done:
            task = waiting.pop(future)
            results[task] = future.result()
            checkpoint.put(space, task, results[task])
        progress(len(results), len(tasks))
    for future in waiting:
        future.cancel()
    total = Found(complete=not waiting)
    for task in tasks:
        if task in results:
            total.merge(results[task])
    return total
