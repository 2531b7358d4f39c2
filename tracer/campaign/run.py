"""Runs what is not finished of a campaign: on all cores, or on a Dask cluster.

Commands come one after the other, in the order of `keys.KEYS`: bench takes times, and has the machine for itself.
"""

import asyncio
import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer import interrupts
from tracer.campaign import nursery, remote, rows, table
from tracer.campaign.cell import Execute, Job, Outcome, execute
from tracer.campaign.keys import HOST, KERNEL, KEYS
from tracer.campaign.plan import Cell, Plan
from tracer.campaign.store import Run, Store, opened
from tracer.campaign.version import version
from tracer.errors import UsageError
from tracer.report.escape import printable

Progress = Callable[[str], None]
Executing = contextlib.AbstractAsyncContextManager[Execute]


@dataclass(frozen=True, slots=True)
class Options:
    """How a campaign is run."""

    directory: Path
    name: str | None = None
    """Of the run to go on with, or to begin; None: the last one."""
    new: bool = False
    """Begin another run whatever there is."""
    jobs: int = 1
    """Cells at a time, at most."""
    scheduler: str | None = None
    """Address of a Dask scheduler, instead of this host's cores."""


def campaign(plan: Plan, options: Options, progress: Progress) -> Run:
    """Run all cells that are not finished, and make the table. Returns the run, whose cells may have failed.

    Raises UsageError, UnsupportedError, and whatever a signal becomes: then what has finished is in the store.
    """
    with opened(options.directory, plan.name) as store:
        with contextlib.ExitStack() as stack:
            if options.scheduler is None:
                jobs, executing = options.jobs, _here
            else:
                run_cell, jobs = stack.enter_context(remote.executing(options.scheduler))

                def executing(command: str) -> Executing:
                    return contextlib.nullcontext(run_cell)

            store.check()
            run = _chosen(store, plan, options)
            try:
                _finish(run, plan, executing, jobs, progress)
            finally:
                with interrupts.deferred():
                    table.write(store)
        return run


def _chosen(store: Store, plan: Plan, options: Options) -> Run:
    """The run to go on with, or a new one."""
    there = store.runs()
    name = options.name
    old = [run for run in there if name in (None, run.name)]
    kernel = os.uname().release
    if options.new and name is not None and old:
        raise UsageError(f"--new and --run {printable(name)}: that run is there already")
    if options.new or not old:
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return store.begin(name, plan, version=version(), host_kernel=kernel, started=started)
    run = store.grow(old[-1], plan)
    if all(run.finished(cell.key) for cell in plan.cells):
        return run
    # One run is of one eofrace and one kernel: a comparison of it with another one says what they changed.
    if run.version != version():
        raise UsageError(
            f"run {run.name} was begun with eofrace {run.version}, and this is {version()}: begin another one (--new)"
        )
    here = any(dict(cell.options).get(KERNEL) == HOST for cell in plan.cells)
    if here and options.scheduler is None and run.host_kernel != kernel:
        raise UsageError(
            f"run {run.name} was begun on Linux {printable(run.host_kernel)}, and this is {kernel}: begin another one"
            " (--new)"
        )
    return run


def _here(command: str) -> Executing:
    """What runs a command's cells on this host."""
    return nursery.executing() if command == "explore" else contextlib.nullcontext(execute)


def _finish(run: Run, plan: Plan, executing: Callable[[str], Executing], jobs: int, progress: Progress) -> None:
    left = [cell for cell in plan.cells if run.finished(cell.key) is None]
    done = len(plan.cells) - len(left)

    def told(cell: Cell, outcome: Outcome) -> None:
        nonlocal done
        done += keep(run, cell, outcome)
        progress(f"{done} of {len(plan.cells)} cells: {printable(cell.name)}")

    progress(f"{done} of {len(plan.cells)} cells")
    for command in KEYS:
        cells = [cell for cell in left if cell.command == command]
        if cells:
            at_once = min(jobs, plan.at_once[command] or jobs)
            with _first_error():
                interrupts.run(_all(cells, executing(command), at_once, told))


async def _all(
    cells: Sequence[Cell],
    executing: Executing,
    at_once: int,
    told: Callable[[Cell, Outcome], None],
) -> None:
    waiting = iter(cells)

    async def one_after_the_other(run_cell: Execute) -> None:
        for cell in waiting:
            told(cell, await run_cell(Job(tuple(cell.words), cell.seconds)))

    async with executing as run_cell, asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(cells))):
            group.create_task(one_after_the_other(run_cell))


def keep(run: Run, cell: Cell, outcome: Outcome) -> bool:
    """Put what a cell came to into the store. Returns whether it is finished."""
    record = {
        "words": cell.words,
        "exit": outcome.exit,
        "started": outcome.started,
        "took": outcome.took,
        "host": outcome.host,
        "host_kernel": outcome.host_kernel,
        "version": outcome.version,
    }
    try:
        result = rows.result(cell, outcome)
    except rows.UnfitError as error:
        run.put_error(cell.key, {**record, "error": str(error), "stderr": outcome.stderr})
        return False
    run.put(cell.key, {**record, "result": result})
    return True


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """A task group's first error in place of the group: what is told to the user is one line."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
