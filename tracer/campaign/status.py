"""How far a run is, and what it has shown: counts, and the cells that somebody has to look at."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tracer.campaign import rows
from tracer.campaign.keys import KEYS
from tracer.campaign.store import Run
from tracer.errors import Status

SCHEMA = "eofrace.campaign.status/1"

UNFINISHED = "unfinished"
VERDICTS = {Status.OK: "fine", Status.HAZARD: "hazard", Status.INCONCLUSIVE: "inconclusive"}
"""What an exit status makes of a finished cell."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A cell that is not fine."""

    name: str
    what: str
    reason: str
    exit: int


@dataclass(slots=True)
class Summary:
    """One run."""

    campaign: str
    run: str
    started: str
    version: str
    host_kernel: str
    running: bool
    """Whether something runs in the directory right now."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Command -> fine, hazard, inconclusive, error, unfinished -> cells."""
    noted: list[Noted] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Names of the other runs."""

    @property
    def cells(self) -> int:
        """Of the plan."""
        return sum(count.total() for count in self.counts.values())

    @property
    def finished(self) -> int:
        """Cells with a result."""
        return sum(count[what] for count in self.counts.values() for what in VERDICTS.values())

    @property
    def status(self) -> Status:
        """Of the command: the worst of the cells; 4 if this host cannot do some, 3 if some are not finished."""
        found = {noted.what for noted in self.noted}
        if VERDICTS[Status.HAZARD] in found:
            return Status.HAZARD
        if any(noted.what == rows.ERROR and noted.exit == Status.UNSUPPORTED for noted in self.noted):
            return Status.UNSUPPORTED
        return Status.OK if self.cells and not found and self.finished == self.cells else Status.INCONCLUSIVE

    def to_json(self) -> dict[str, Any]:
        """In the schema `eofrace.campaign.status/1`."""
        return {
            "schema": SCHEMA,
            "campaign": self.campaign,
            "run": self.run,
            "started": self.started,
            "version": self.version,
            "host_kernel": self.host_kernel,
            "running": self.running,
            "cells": self.cells,
            "finished": self.finished,
            "counts": {command: dict(count) for command, count in self.counts.items()},
            "noted": [
                {"cell": one.name, "what": one.what, "reason": one.reason, "exit": one.exit} for one in self.noted
            ],
            "other_runs": self.others,
            "status": int(self.status),
        }


def of(run: Run, *, running: bool = False, others: list[str] | None = None) -> Summary:
    """Look at a run."""
    found = Summary(run.campaign, run.name, run.started, run.version, run.host_kernel, running, others=others or [])
    commands = {cell["command"] for cell in run.cells.values()}
    found.counts = {command: Counter() for command in KEYS if command in commands}
    for cell in run.cells.values():
        command, key = cell["command"], cell["key"]
        name = " ".join([command, *(f"{option}={value}" for option, value in cell["options"].items())])
        record = run.finished(key)
        if record is not None:
            what = VERDICTS[Status(record["exit"])]
            if record["exit"] != Status.OK:
                reason = _reason(command, cell["options"], record)
                found.noted.append(Noted(name, what, reason, record["exit"]))
        elif (failed := run.error(key)) is not None:
            what = rows.ERROR
            found.noted.append(Noted(name, what, str(failed["error"]), int(failed["exit"])))
        else:
            what = UNFINISHED
        found.counts[command][what] += 1
    return found


def _reason(command: str, options: dict[str, Any], record: dict[str, Any]) -> str:
    """Of the cell's own result, in a line."""
    result = record["result"]
    if "reason" in result:
        return str(result["reason"])
    told = [row for row in rows.rows(command, options, result) if row["verdict"] not in ("confirmed", rows.MEASURED)]
    guilty = [row for row in told if not row["control"]] or list(rows.rows(command, options, result))
    return "; ".join(f"{row['row']}: {row['verdict']}, {row['reason']}" for row in guilty[:3])
