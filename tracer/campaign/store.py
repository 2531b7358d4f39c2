"""What is done of a campaign, in a directory that a kill at any moment leaves in order.

    DIR/campaign.json             whose directory it is
    DIR/runs/RUN/run.json         a run: its cells, and which eofrace and kernel it was begun with
    DIR/runs/RUN/cells/KEY.json   a finished cell, its result as the command printed it
    DIR/runs/RUN/errors/KEY.json  how the last try of a cell failed that is not finished
    DIR/results.parquet           all of it as one table, made of the above whenever a run ends

Every file appears whole under its name (tracer/output.py), and a cell counts as finished when its file is there: there
is no list beside it that could say something else. Whoever writes holds a lock on the directory itself, which ends with
its process, however that ends.
"""

import contextlib
import fcntl
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.campaign import records, rows, shapes
from tracer.campaign.plan import NAME, Plan
from tracer.campaign.records import Record
from tracer.errors import UsageError
from tracer.files import open_regular
from tracer.output import make_directory, write_text
from tracer.report.escape import printable

TABLE = "results.parquet"

_CAMPAIGN = "eofrace.campaign/1"
_REMEDY = "put it back as it was, or delete it and run the campaign again, which does that cell again"
_REMEDY_OF_RUN = "put the file back as it was, or move that run's directory away"

_TRIES, _PAUSE = 10, 0.05  # to get the lock, which somebody who looks at the status has for a moment


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over the cells of a campaign."""

    path: Path
    number: int
    """From 1, in the order in which they were begun."""
    campaign: str
    version: str
    host_kernel: str
    started: str
    cells: Mapping[str, Mapping[str, Any]]
    """Key -> as `Cell.to_json` gives it, in the order of the plan."""

    @property
    def name(self) -> str:
        """What users call it."""
        return self.path.name

    def finished(self, key: str) -> Record | None:
        """The record of a finished cell, None if it is not. Half a file, of a power failure, is none.

        Raises UsageError for one that was changed since, or is of another cell, or does not bear itself out.
        """
        path = self._path("cells", key)
        record = self._read(path, shapes.FINISHED_CELL, key)
        if record is not None and record["digest"] not in _fit:
            try:
                rows.fit(record["command"], record["options"], record["exit"], record["result"])
            except rows.UnfitError as error:
                raise records.bad(path, str(error), _REMEDY) from None
            _fit.add(record["digest"])
        return record

    def error(self, key: str) -> Record | None:
        """How the last try of a cell failed, if one did since. Raises UsageError as `finished` does."""
        return self._read(self._path("errors", key), shapes.FAILED_CELL, key)

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """The cell is finished: from now on, or not at all. `record` has a result that is fit."""
        _fit.add(records.write(self._path("cells", key), shapes.CELL, {**self.cells[key], **record})["digest"])
        self._path("errors", key).unlink(missing_ok=True)

    def put_error(self, key: str, record: Mapping[str, Any]) -> None:
        """A try of a cell has failed. It is not finished."""
        records.write(self._path("errors", key), shapes.ERROR, {**self.cells[key], **record})

    def check(self) -> None:
        """Read all that there is of the run. Raises UsageError for what is not as it was written."""
        for key in self.cells:
            self.finished(key)
            self.error(key)

    def _path(self, kind: str, key: str) -> Path:
        return self.path / kind / f"{key}.json"

    def _read(self, path: Path, schema: Mapping[str, Any], key: str) -> Record | None:
        record = records.read(path, schema, _REMEDY)
        if record is not None and {name: record[name] for name in self.cells[key]} != dict(self.cells[key]):
            raise records.bad(path, "it is of another cell", _REMEDY)
        return record


_fit: set[str] = set()
"""Digests of records whose results have been looked at."""


class Store:
    """The directory of a campaign."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for a directory that is no campaign's."""
        self.path = path
        try:
            with open_regular(path / "campaign.json") as stream:
                data = json.loads(stream.read(1 << 16))
        except (OSError, ValueError, RecursionError, UsageError):
            data = None
        name = data.get("campaign") if isinstance(data, dict) and data.get("schema") == _CAMPAIGN else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(f"{printable(str(path))}: not the directory of a campaign")
        self.name = name

    def runs(self) -> list[Run]:
        """All runs, the oldest first. A directory that was made for one, and has nothing yet, is passed over.

        Raises UsageError for a run that cannot be read.
        """
        try:
            paths = sorted((self.path / "runs").iterdir())
        except FileNotFoundError:
            return []
        paths = [path for path in paths if NAME.fullmatch(path.name) and path.is_dir()]
        found = [run for path in paths if (run := _run(path)) is not None]
        for earlier, later in itertools.pairwise(sorted(found, key=lambda run: run.number)):
            if earlier.number == later.number:
                raise records.bad(later.path, f"it has the number of run {earlier.name}", "move one of the two away")
        return sorted(found, key=lambda run: run.number)

    def check(self) -> None:
        """Read all that there is, of all runs. Raises UsageError for what is not as it was written."""
        for run in self.runs():
            run.check()

    def run(self, name: str | None) -> Run:
        """The run of a name, or the last one. Raises UsageError."""
        runs = self.runs()
        for run in reversed(runs):
            if name in (None, run.name):
                return run
        there = ", ".join(run.name for run in runs[-10:]) or "none"
        what = "no run yet" if name is None else f"no run {printable(name)} (there are: {there})"
        raise UsageError(f"{printable(str(self.path))}: {what}")

    def begin(self, name: str | None, plan: Plan, *, version: str, host_kernel: str, started: str) -> Run:
        """A new run, named by its number if it has no other name. Under the lock."""
        runs = self.runs()
        number = 1 + max((run.number for run in runs), default=0)
        if name is None:
            taken, free = {run.name for run in runs}, number
            while str(free) in taken:
                free += 1
            name = str(free)
        path = self.path / "runs" / name
        for part in (path / "cells", path / "errors"):
            part.mkdir(parents=True, exist_ok=True)
        return _save(Run(path, number, self.name, version, host_kernel, started, _cells(plan)))

    def grow(self, run: Run, plan: Plan) -> Run:
        """The run with the cells of a plan that has all of its cells. Raises UsageError for one that has not."""
        cells = _cells(plan)
        if list(cells.values()) == list(run.cells.values()):
            return run
        gone = run.cells.keys() - cells.keys()
        if gone:
            raise UsageError(
                f"{len(gone)} cells of run {run.name} are not in the campaign's file any more: begin another run"
                " (--new), or put them back"
            )
        return _save(Run(run.path, run.number, run.campaign, run.version, run.host_kernel, run.started, cells))

    def busy(self) -> bool:
        """Whether a campaign is running on it now."""
        try:
            with _locked(self.path, tries=1):
                return False
        except UsageError:
            return True


def _cells(plan: Plan) -> dict[str, dict[str, Any]]:
    return {cell.key: cell.to_json() for cell in plan.cells}


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[Store]:
    """The store of the campaign `name`, made if need be, for one process to write to.

    Raises UsageError for a directory that holds something else, or that another campaign writes to.
    """
    make_directory(path)
    shown = printable(str(path))
    with _locked(path):
        if not (path / "campaign.json").exists():
            if any(path.iterdir()):
                raise UsageError(f"{shown}: not empty, and not the directory of a campaign: name another one")
            write_text(path / "campaign.json", json.dumps({"schema": _CAMPAIGN, "campaign": name}) + "\n")
        store = Store(path)
        if store.name != name:
            raise UsageError(f"{shown}: the directory of the campaign {store.name}, not {name}: name another one (-o)")
        yield store


@contextlib.contextmanager
def _locked(path: Path, tries: int = _TRIES) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{printable(str(path))}: {error.strerror}") from error
    try:
        for left in reversed(range(tries)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    shown = printable(str(path))
                    raise UsageError(f"{shown}: a campaign is running there: wait until it has ended") from None
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _save(run: Run) -> Run:
    data = {
        "number": run.number,
        "campaign": run.campaign,
        "version": run.version,
        "host_kernel": run.host_kernel,
        "started": run.started,
        "cells": list(run.cells.values()),
    }
    records.write(run.path / "run.json", shapes.RUN_OF, data)
    return run


def _run(path: Path) -> Run | None:
    """A run, None for a directory that was made for one and has nothing yet. Raises UsageError.

    Cells that it does not know are refused: somebody has taken them out of it, and they would be passed over.
    """
    file = path / "run.json"
    # In this order: a cell is never there before the run.json that has it.
    there = [one for kind in ("cells", "errors") for one in sorted((path / kind).glob("*.json"))]
    data = records.read(file, shapes.RUN, _REMEDY_OF_RUN)
    if data is None:
        if there or file.exists():
            raise records.bad(file, "there are cells of that run, and this cannot be read", _REMEDY_OF_RUN)
        return None
    cells = {cell["key"]: cell for cell in data["cells"]}
    for one in there:
        if one.stem not in cells:
            raise records.bad(one, f"run {path.name} has no such cell", "move it away, or put run.json back as it was")
    version, kernel, started = (data[name] for name in ("version", "host_kernel", "started"))
    return Run(path, data["number"], data["campaign"], version, kernel, started, cells)
