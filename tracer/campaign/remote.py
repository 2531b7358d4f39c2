"""Runs cells on the workers of a Dask cluster. Each cell is a process there, as it is one here.

A worker does not end what it runs when nobody wants the result any more, because the campaign was interrupted or
killed: the cell asks for itself, and ends its process.
"""

import asyncio
import contextlib
import datetime
import signal
from collections.abc import Callable, Iterator

from tracer.analysis import cluster
from tracer.campaign.cell import Execute, Job, Outcome, execute
from tracer.campaign.version import version
from tracer.errors import InconclusiveError, UsageError
from tracer.trace_meta import short

_LOOK = 0.5  # seconds between two looks whether the result is still wanted


@contextlib.contextmanager
def executing(address: str) -> Iterator[tuple[Execute, int]]:
    """What runs a cell on the cluster of a scheduler, and how many run there at a time.

    Raises UsageError where none answers, UnsupportedError without Dask.
    """
    distributed = cluster.require_dask()
    with cluster.scheduler(address) as workers:
        executor = workers.executor()

        async def run(job: Job) -> Outcome:
            future = asyncio.wrap_future(executor.submit(_on_worker, job))
            try:
                outcome = await future
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and not task.cancelling():
                    raise InconclusiveError("the Dask cluster has dropped a cell: is its scheduler gone?") from None
                raise
            except distributed.KilledWorker as error:
                # Perhaps it is what kills them: the others go on.
                return _lost(f"workers were lost again and again: {short(error)}")
            except (ImportError, AttributeError) as error:
                raise UsageError(
                    f"the workers cannot run this eofrace ({short(error)}): install the same version there"
                ) from error
            if outcome.version != version():
                raise UsageError(f"the workers have eofrace {outcome.version}, and this is {version()}: install one")
            return outcome

        yield run, workers.count


def _lost(error: str) -> Outcome:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return Outcome(-signal.SIGKILL, b"", "", error, now, 0.0, "", "", version())


def _on_worker(job: Job) -> Outcome:
    return asyncio.run(_while_wanted(job))


async def _while_wanted(job: Job) -> Outcome:
    """Run a cell until it ends, or until its result is not wanted: then `CancelledError`."""
    wanted = _looking()
    running = asyncio.create_task(execute(job))
    while not (await asyncio.wait([running], timeout=_LOOK))[0]:
        if not wanted():
            running.cancel()
    return running.result()


def _looking() -> Callable[[], bool]:
    """What tells whether the task of this thread is still wanted; yes, where this version of Dask does not tell."""
    distributed = cluster.require_dask()
    with contextlib.suppress(AttributeError, ValueError, KeyError):
        worker = distributed.get_worker()
        key = worker.get_current_task()
        tasks = worker.state.tasks
        # The state machine calls a task "cancelled" that still runs and that the scheduler has released.
        return lambda: key in tasks and tasks[key].state not in ("cancelled", "released", "forgotten")
    return lambda: True
