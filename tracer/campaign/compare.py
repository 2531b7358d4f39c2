"""What got worse from one run to another: verdicts that fell, and ratios of bench that are higher.

Cells are the same if their command and all of their keys are. A verdict of a protecting strategy is compared cell by
cell: one that is unsafe under one seed is unsafe. A control is there to show the hazard: it got worse if it has fallen
silent, or if it loses data and lost none before under any seed, since which of many seeds loses is chance.

A ratio is what tracer/bench/statistics.py makes of rounds, and so is the change of one: round by round, the new ratio
over the old one, of all seeds. Both runs have their ratios to a baseline that did the same work in the same minute, so
that a machine that has become slower as a whole changes none of them. Rounds of two runs are not pairs of anything, but
any pairing is as good as another: the median of quotients of independent rounds is 1 if nothing has changed, and the
same bootstrap says how sure that is. Nothing is concluded from an interval that contains 1, or from fewer than eight.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.analysis.hazards import Verdict
from tracer.bench.statistics import CONFIDENCE, ROUNDS, Conclusion, Estimate, estimate
from tracer.campaign import rows, table
from tracer.campaign.store import Store
from tracer.errors import Status, UsageError
from tracer.report.escape import printable

SCHEMA = "eofrace.campaign.compare/1"

_RANKS = {rows.MEASURED: 0, rows.ERROR: len(Verdict), **{verdict.value: verdict.rank for verdict in Verdict}}
"""From best to worst."""

_SILENT = (Verdict.CONFIRMED.value, Verdict.INCONCLUSIVE.value, rows.ERROR)
"""Verdicts of a control that shows nothing."""

Row = Mapping[str, Any]
Name = tuple[str, str, str]
"""Of a row: command, options as JSON, and which row of the cell."""


@dataclass(frozen=True, slots=True)
class Fell:
    """A verdict that is another one now."""

    name: str
    old: str
    new: str
    reason: str
    worse: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """A ratio of bench, then and now, and what has become of it."""

    name: str
    peer: str
    old: float
    new: float
    change: Estimate
    """New to old, above 1 is slower."""

    @property
    def conclusion(self) -> Conclusion:
        """Slower, faster, or no difference shown."""
        return self.change.conclusion


@dataclass(slots=True)
class Comparison:
    """Two runs, side by side."""

    old: str
    new: str
    compared: int
    """Rows that both have."""
    verdicts: list[Fell] = field(default_factory=list)
    ratios: list[Changed] = field(default_factory=list)
    only_old: list[str] = field(default_factory=list)
    """Cells that the new one has no result of: not finished, failed, or not in it."""
    only_new: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    """Of what both have, that of which nothing can be said: inconclusive now, too few rounds, or failed in both."""

    @property
    def worse(self) -> int:
        """How many things got worse."""
        slower = [one for one in self.ratios if one.conclusion is Conclusion.SLOWER]
        return sum(one.worse for one in self.verdicts) + len(slower)

    @property
    def status(self) -> Status:
        """1 if something got worse; 3 if nothing was compared, the new run lacks something, or there is `unsure`."""
        if self.worse:
            return Status.HAZARD
        return Status.OK if self.compared and not (self.only_old or self.unsure) else Status.INCONCLUSIVE

    def to_json(self) -> dict[str, Any]:
        """In the schema `eofrace.campaign.compare/1`."""
        return {
            "schema": SCHEMA,
            "old": self.old,
            "new": self.new,
            "compared": self.compared,
            "confidence": CONFIDENCE,
            "verdicts": [
                {"row": one.name, "old": one.old, "new": one.new, "worse": one.worse, "reason": one.reason}
                for one in self.verdicts
            ],
            "ratios": [
                {
                    "row": one.name,
                    "peer": one.peer,
                    "old": one.old,
                    "new": one.new,
                    "change": one.change.ratio,
                    "low": one.change.low,
                    "high": one.change.high,
                    "rounds": one.change.rounds,
                    "conclusion": one.conclusion.value,
                }
                for one in self.ratios
            ],
            "only_old": self.only_old,
            "only_new": self.only_new,
            "unsure": self.unsure,
            "worse": self.worse,
        }


def load(reference: str, before: int = 0) -> tuple[str, list[Row]]:
    """A run's name and rows: DIR, DIR@RUN, or a Parquet file with or without @RUN. Without: the last run of it.

    `before` takes an earlier one than the last: 1 the last but one. Raises UsageError.
    """
    path, run = _split(reference)
    if path.is_dir():
        runs = Store(path).runs()
        found = [row for each in runs for row in table.of_run(each)]
        known = [each.name for each in runs]
    else:
        found, known = table.read(path)
    shown = printable(str(path))
    if run is None and len(known) <= before:
        raise UsageError(f"{shown}: it has {len(known)} runs: there is nothing to compare")
    name = run if run is not None else known[-1 - before]
    if name not in known:
        raise UsageError(f"{shown}: no run {printable(name)} (there are: {', '.join(known[-10:]) or 'none'})")
    return f"{path}@{name}", [row for row in found if row["run"] == name]


def _split(reference: str) -> tuple[Path, str | None]:
    if not Path(reference).exists() and "@" in reference:
        path, _, run = reference.rpartition("@")
        return Path(path), run
    return Path(reference), None


def compare(old: tuple[str, Iterable[Row]], new: tuple[str, Iterable[Row]]) -> Comparison:
    """Put two runs side by side."""
    before, after = ({_name(row): row for row in found} for _, found in (old, new))
    both = [name for name in before if name in after and name[2]]
    found = Comparison(old[0], new[0], len(both))
    for name in both:
        if not before[name].get("control"):
            _verdict(found, _told(name), before[name], after[name])
    _controls(found, [(name, before[name], after[name]) for name in both if before[name].get("control")])
    _ratios(found, [(name, before[name], after[name]) for name in both])
    found.unsure = _unsure(found, {name: (before[name], after[name]) for name in before if name in after})
    found.only_old = _missing(before, after)
    found.only_new = _missing(after, before)
    return found


def _name(row: Row) -> Name:
    return row["command"], row["options"], row["row"]


def _verdict(found: Comparison, name: str, old: Row, new: Row) -> None:
    then, now = old["verdict"], new["verdict"]
    if then != now:
        found.verdicts.append(Fell(name, then, now, new["reason"] or "", _RANKS[now] > _RANKS[then]))


def _controls(found: Comparison, pairs: list[tuple[Name, Row, Row]]) -> None:
    groups: dict[Name, list[tuple[Name, Row, Row]]] = defaultdict(list)
    for name, old, new in pairs:
        groups[_without_seed(name)].append((name, old, new))
        if old["verdict"] not in _SILENT and new["verdict"] in _SILENT:
            found.verdicts.append(Fell(f"control {_told(name)}", old["verdict"], new["verdict"], new["reason"], True))
    for group, members in groups.items():
        then = max((old["verdict"] for _, old, _ in members), key=_loss)
        now = max((new["verdict"] for _, _, new in members), key=_loss)
        if _loss(now) != _loss(then):
            reason = next(new["reason"] for _, _, new in members if new["verdict"] == now)
            found.verdicts.append(Fell(f"control {_told(group)}", then, now, reason, _loss(now) > _loss(then)))


def _loss(verdict: str) -> int:
    """How much a control shows; one that shows nothing has been told of already."""
    return {Verdict.UNSAFE.value: 1, Verdict.CORRUPT.value: 2}.get(verdict, 1)


def _ratios(found: Comparison, pairs: list[tuple[Name, Row, Row]]) -> None:
    groups: dict[tuple[Name, str], list[tuple[float, float]]] = defaultdict(list)
    for name, old, new in pairs:
        if old.get("ratios") and new.get("ratios") and old["peer"] == new["peer"]:
            # Of two runs with different numbers of rounds, those that one has more say nothing of a change.
            groups[_without_seed(name), old["peer"]] += zip(old["ratios"], new["ratios"], strict=False)
    for (name, peer), rounds in groups.items():
        then, now = [one for one, _ in rounds], [one for _, one in rounds]
        middle = [estimate(side, [1.0] * len(side)).ratio for side in (then, now)]
        found.ratios.append(Changed(_told(name), peer, middle[0], middle[1], estimate(now, then)))


def _unsure(found: Comparison, both: Mapping[Name, tuple[Row, Row]]) -> list[str]:
    told = []
    for name, (old, new) in both.items():
        if not name[2]:
            told.append(f"{_told(name)}: failed in both: {new['reason'] or ''}")
        elif not new.get("control") and new["verdict"] == Verdict.INCONCLUSIVE.value:
            told.append(f"{_told(name)}: inconclusive: {new['reason'] or ''}")
        elif new.get("peer") and not (old.get("ratios") and new.get("ratios") and old["peer"] == new["peer"]):
            told.append(f"{_told(name)}: no ratios to the same peer in both")
    told += [
        f"{one.name}: {one.change.rounds} rounds to {one.peer}, of the {ROUNDS} that it takes"
        for one in found.ratios
        if one.change.rounds < ROUNDS
    ]
    return told


def _missing(these: Mapping[Name, Row], those: Mapping[Name, Row]) -> list[str]:
    """Cells with a result, or rows of one, that the other side has no result of."""
    cells = {(name[0], name[1]) for name in those if name[2]}
    lacking = dict.fromkeys(
        _told((name[0], name[1], "")) if (name[0], name[1]) not in cells else _told(name)
        for name in these
        if name[2] and name not in those
    )
    failed = {(name[0], name[1]): row["reason"] for name, row in those.items() if not name[2]}
    whys = {_told((*cell, "")): reason for cell, reason in failed.items()}
    return [f"{name} (error: {whys[name]})" if name in whys else name for name in lacking]


def _without_seed(name: Name) -> Name:
    options = json.loads(name[1])
    options.pop("seed", None)
    return name[0], json.dumps(options, sort_keys=True), name[2]


def _told(name: Name) -> str:
    """In messages."""
    options = " ".join(f"{key}={value}" for key, value in json.loads(name[1]).items())
    return f"{name[0]} {options}" + (f": {name[2]}" if name[2] else "")
