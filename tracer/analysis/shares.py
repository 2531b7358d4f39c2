"""Cuts the work on a trace into tasks that processes or machines do by themselves."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.analysis.columns import Columns
from tracer.analysis.emulation import Emulated
from tracer.analysis.findings import Finding, Findings, Kind
from tracer.analysis.rules import Rule, ScanRule
from tracer.analysis.stream import Window
from tracer.analysis.sweep import Found, Share, Sweep
from tracer.stored import Stored
from tracer.trace_columns import LAST_NUMBER

_WINDOWS = 4
"""For each worker: the last ones to end are not much behind the others."""


_FOLDED = 1 << 14
"""Pairs of a rule that are folded together: some 5 MB."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some rules on a share of a trace: all that another process has to know."""

    trace: Stored
    emulated: Emulated
    rules: tuple[Rule, ...]
    share: Share
    counts: bool
    """The operations of the share are counted here, and in no other task."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a task has found, by the names of its rules, and the operations that it has counted."""

    found: dict[str, Findings]
    operations: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class News:
    """Told while a task runs: operations that it has come past, and what is new to it, as far as it is known by now."""

    operations: int
    kinds: tuple[tuple[str, Kind, Finding], ...] = ()
    """Each with the name of its rule."""


def run(task: Task) -> Iterator[News | Done]:
    """Do a task: yields news, and what it has found when it is done. Raises TraceError."""
    sweep = Sweep(task.trace, task.rules, task.share, task.emulated)
    found = {rule.id: _Folded(rule.id) for rule in task.rules}
    told = 0
    for batch in sweep.run():
        kinds = [one for pairs in batch for one in found[pairs.rule.id].take(pairs)]
        if kinds or sweep.operations > told:
            yield News(sweep.operations - told if task.counts else 0, tuple(kinds))
            told = sweep.operations
    kinds = [one for findings in found.values() for one in findings.fold()]
    if kinds:
        yield News(0, tuple(kinds))
    findings = {rule: one.findings for rule, one in found.items()}
    yield Done(findings, sweep.operations if task.counts else 0, sweep.unfinished if task.counts else 0)


class _Folded:
    """What one rule has found, folded many pairs at a time, but for the first: those are told at once."""

    def __init__(self, rule: str) -> None:
        self.findings = Findings()
        self._rule = rule
        self._waiting: list[Found] = []
        self._count = 0

    def take(self, pairs: Found) -> list[tuple[str, Kind, Finding]]:
        """One more portion; what is new, as `News` has it, is told when it has been folded."""
        # Copies, so that the rest of the stretch is not kept.
        self._waiting.append(dataclasses.replace(pairs, first=pairs.first.kept(), second=pairs.second.kept()))
        self._count += len(pairs.outcome)
        return self.fold() if self._count >= _FOLDED or not self.findings.kinds else []

    def fold(self) -> list[tuple[str, Kind, Finding]]:
        """Fold what waits, and tell what is new."""
        if not self._waiting:
            return []
        first, second = (Columns.join([getattr(one, side) for one in self._waiting]) for side in ("first", "second"))
        new = self.findings.add(first, second, np.concatenate([one.outcome for one in self._waiting]))
        self._waiting, self._count = [], 0
        return [(self._rule, kind, self.findings.kinds[kind]) for kind in new]


def tasks(trace: Stored, emulated: Emulated, rules: Sequence[Rule], workers: int) -> Iterator[Task]:
    """Cut the work on a trace into tasks for so many workers, the earliest first.

    Rules on pairs are cut by time, since one busy file may be nearly all of a trace. Scans are cut by file; as each of
    them has to look at all operations, there are no more of them than workers.
    """
    scans = tuple(rule for rule in rules if isinstance(rule, ScanRule))
    others = tuple(rule for rule in rules if rule not in scans)
    if others or not scans:
        for window in windows(trace, _WINDOWS * workers if workers > 1 else 1):
            yield Task(trace, emulated, others, Share(window), counts=True)
    for bucket in range(workers if scans else 0):
        yield Task(trace, emulated, scans, Share(Window(), bucket, workers), counts=not (others or bucket))


def windows(trace: Stored, count: int) -> list[Window]:
    """Cut a trace into at most `count` windows of about as many operations each; together they have all numbers."""
    # By their ends: a row group may begin early because of a few operations that took long.
    groups = sorted(trace.groups, key=lambda group: group.last_begin)
    cuts = [0]
    passed = 0
    for group in groups:
        passed += group.rows
        if passed * count >= len(cuts) * trace.operations and group.last_begin + 1 < LAST_NUMBER:
            cuts.append(group.last_begin + 1)
    cuts[len(cuts) - (len(cuts) > count) :] = [LAST_NUMBER]
    return [Window(low, high) for low, high in itertools.pairwise(cuts)]
