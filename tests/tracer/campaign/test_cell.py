"""A cell that crashes, hangs or says something else is an error: never finished, never green."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tracer.campaign import nursery, rows
from tracer.campaign.cell import Execute, Job, Outcome, execute
from tracer.campaign.plan import Cell

CELL = Cell("explore", (("strategy", "serialise"), ("model", "xfs-fixed"), ("guest", "sub@0"), ("seed", 1)), 60.0)
NEVER_ENDS = ("explore", "--strategy=serialise", "--guest=growth", "--writes=6", "--jobs=1", "-q", "--json=-")


def run(job: Job, forked: bool) -> Outcome:
    async def main() -> Outcome:
        async with nursery.executing() as run_cell:
            return await run_cell(job)

    return asyncio.run(main() if forked else _spawned(job))


async def _spawned(job: Job) -> Outcome:
    return await execute(job)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run(Job(tuple(CELL.words), CELL.seconds), forked=False)


def test_forked_or_in_a_new_interpreter_it_is_the_same(outcome: Outcome) -> None:
    forked = run(Job(tuple(CELL.words), CELL.seconds), forked=True)
    assert (forked.exit, forked.stdout, forked.stderr) == (outcome.exit, outcome.stdout, outcome.stderr)
    assert rows.result(CELL, forked)["schema"] == "eofrace.explore/1"


@pytest.mark.parametrize("forked", [False, True])
def test_one_that_hangs_is_ended(forked: bool) -> None:
    found = run(Job(NEVER_ENDS, 3.0), forked)
    assert found.error == "it did not end within 3 s"
    assert found.took < 20
    with pytest.raises(rows.UnfitError, match="did not end"):
        rows.result(CELL, found)


@pytest.mark.parametrize("forked", [False, True])
def test_one_that_says_what_is_wrong(forked: bool) -> None:
    found = run(Job(("explore", "--model=nope", "--json=-"), 30.0), forked)
    assert found.exit == 2
    with pytest.raises(rows.UnfitError, match="nope"):
        rows.result(CELL, found)


def children_of(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


@pytest.mark.parametrize("forked", [False, True])
def test_one_that_is_killed_and_others_go_on(forked: bool) -> None:
    before = children_of(os.getpid())  # of other tests: Dask leaves Python's resource tracker

    async def both(run_cell: Execute) -> list[Outcome]:
        killed = asyncio.ensure_future(run_cell(Job(NEVER_ENDS, 60.0)))
        found: list[int] = []
        while not found:
            await asyncio.sleep(0.05)
            found = [child for child in children_of(os.getpid()) if child not in before]
            found = [one for child in found for one in children_of(child)] if forked else found
        os.kill(found[0], signal.SIGKILL)
        return [await killed, await run_cell(Job(tuple(CELL.words), 60.0))]

    async def main() -> list[Outcome]:
        if not forked:
            return await both(execute)
        async with nursery.executing() as run_cell:
            return await both(run_cell)

    killed, other = asyncio.run(main())
    assert killed.exit == -signal.SIGKILL
    with pytest.raises(rows.UnfitError, match="signal 9"):
        rows.result(CELL, killed)
    assert rows.result(CELL, other)


ALONE = """
import asyncio, sys
from tracer.campaign import nursery
from tracer.campaign.cell import Job, execute

async def main():
    job = Job(tuple(sys.argv[2:]), 600.0)
    if sys.argv[1] == "spawned":
        return await execute(job)
    async with nursery.executing() as run_cell:
        return await run_cell(job)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["spawned", "forked"])
def test_none_outlives_a_parent_that_is_killed(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ALONE, how, *NEVER_ENDS])

    def family(pid: int) -> list[int]:
        found = children_of(pid)
        return found + [one for child in found for one in family(child)]

    started = time.monotonic()
    # The one that was forked is the nursery's child; and each a while, so that it is at work and not at its beginning.
    while len(found := family(parent.pid)) < (1 if how == "spawned" else 2) or time.monotonic() - started < 3:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while left := [pid for pid in found if os.path.exists(f"/proc/{pid}/exe")]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail("a cell has outlived its parent")
        time.sleep(0.02)


def changed(outcome: Outcome, **more: Any) -> Outcome:
    data = {**json.loads(outcome.stdout), **more}
    return dataclasses.replace(outcome, stdout=json.dumps(data).encode())


def test_what_does_not_fit_together(outcome: Outcome) -> None:
    good = json.loads(outcome.stdout)
    unsafe = [{**cell, "verdict": "unsafe"} for cell in good["results"]]
    control = [cell for cell in good["results"] if cell["strategy"] == "none"]
    for wrong, message in (
        (dataclasses.replace(outcome, stdout=b""), "printed no JSON"),
        (dataclasses.replace(outcome, stdout=outcome.stdout[:-20]), "printed no JSON"),
        (dataclasses.replace(outcome, stdout=b"[" * 100_000), "printed no JSON"),
        (dataclasses.replace(outcome, exit=70, stderr="x\neofrace: a bug\n"), "a bug"),
        (dataclasses.replace(outcome, exit=143), "exit status 143"),
        (dataclasses.replace(outcome, exit=int(not outcome.exit)), "its result means exit status"),
        (dataclasses.replace(outcome, error="it did not end"), "did not end"),
        (changed(outcome, schema="eofrace.verify/1"), "not eofrace.explore/1"),
        (changed(outcome, seed=2), "another seed"),
        (changed(outcome, results=[]), "should be non-empty"),
        (changed(outcome, results=control), "nothing in its result"),
        (changed(outcome, results=[{}]), "'strategy' is a required property"),
        (changed(outcome, results=unsafe), "said to be unsafe, and its numbers say confirmed"),
    ):
        with pytest.raises(rows.UnfitError, match=message):
            rows.result(CELL, wrong)
