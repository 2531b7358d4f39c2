"""Does tasks on a Dask cluster: one that runs somewhere, or a local one for as long as it takes.

Dask is an optional dependency, loaded only when it is asked for. Whatever worker is lost, Dask gives its tasks to
another one. Every worker reads the trace by itself, under the same path.
"""

import contextlib
import dataclasses
import importlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

from tracer import interrupts
from tracer.analysis import shares
from tracer.analysis.processes import signals_left_to_the_parent
from tracer.analysis.shares import Done, News, Task
from tracer.errors import InconclusiveError, UnsupportedError, UsageError
from tracer.report.escape import printable
from tracer.trace_meta import short

REMEDY = "pip install 'eofrace[dask]' (in a checkout: .venv/bin/pip install -e '.[dask]')"

_CONNECTING = 10.0
"""Seconds until a scheduler that does not answer is not there."""

_LOSSES = 20
"""Workers that a task may lose before it is held to be what kills them."""


def require_dask() -> Any:
    """The package `distributed`. Raises UnsupportedError that says how to get it."""
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise UnsupportedError(f"--scheduler and --workers need Dask, which is not installed: {REMEDY}") from error


class Cluster:
    """`tracer.analysis.engine.Execute` on a Dask client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def count(self) -> int:
        """Tasks that run at a time, by now."""
        return sum(worker["nthreads"] for worker in self._client.scheduler_info(n_workers=-1)["workers"].values())

    def executor(self) -> Executor:
        """Its workers for other things than the tasks of an analysis."""
        executor: Executor = self._client.get_executor()
        return executor

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[int, News | Done]]:
        """Yield what each task has found when it is done, in any order. Raises what a task raises."""
        distributed = require_dask()
        # The working directory of a worker is another one.
        remote = [dataclasses.replace(task, trace=task.trace.absolute()) for task in tasks]
        futures = self._client.map(_run, remote, pure=False) if remote else []
        numbers = {future: number for number, future in enumerate(futures)}
        for future in distributed.as_completed(futures, loop=self._client.loop):
            try:
                done: Done = future.result()
            except UsageError as error:
                raise type(error)(f"on a worker: {error}") from error
            except distributed.KilledWorker as error:
                raise InconclusiveError(f"workers were lost again and again: {short(error)}") from error
            except (ImportError, AttributeError) as error:
                raise UsageError(
                    f"the workers cannot run this eofrace ({short(error)}): install the same version there"
                ) from error
            number = numbers[future]
            future.release()
            yield number, News(done.operations)
            yield number, done


def _run(task: Task) -> Done:
    for said in shares.run(task):
        if isinstance(said, Done):
            return said
    raise RuntimeError("a task has ended without a result")


@contextlib.contextmanager
def scheduler(address: str) -> Iterator[Cluster]:
    """The cluster whose scheduler has an address. Raises UsageError where none answers, or it has no workers."""
    distributed = require_dask()
    shown = printable(address)
    try:
        client = distributed.Client(address, timeout=_CONNECTING, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{shown}: no Dask scheduler answers there ({short(error)}): tcp://HOST:8786?") from error
    with client:
        cluster = Cluster(client)
        if not cluster.count:
            raise UsageError(f"{shown}: the scheduler has no workers: start some (dask worker {shown})")
        yield cluster


@contextlib.contextmanager
def local(count: int) -> Iterator[Cluster]:
    """A cluster of `count` processes on this machine, until the block ends."""
    distributed = require_dask()
    dask = importlib.import_module("dask")
    with contextlib.ExitStack() as stack:
        # Its own, the scheduler's as well as the workers', would be left behind.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="eofrace-dask-", ignore_cleanup_errors=True))
        settings = {"distributed.scheduler.allowed-failures": _LOSSES, "temporary-directory": scratch}
        stack.enter_context(dask.config.set(settings))
        # Interrupted half-way it would not get rid of its processes in peace: seconds.
        with interrupts.deferred(), signals_left_to_the_parent():
            workers = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=None,  # a limit would be one of Dask's making
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(workers)
            client = stack.enter_context(distributed.Client(workers, set_as_default=False))
        yield Cluster(client)
