"""Rules of other packages: found by entry point, checked when they are loaded, and watched while they judge.

A package adds one in its metadata, under the group `eofrace.rules`; the object is a `PairRule` or a `ScanRule`, or a
class of one that takes no arguments:

    [project.entry-points."eofrace.rules"]
    my-hazard = "my_package.rules:MyHazard"

What is wrong with it, at whatever time, ends as one RuleError that names it and its package: a rule that is left out in
silence would read as "nothing found".
"""

import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.emulation import DERIVED
from tracer.analysis.examples import ExampleTrace
from tracer.analysis.rules import Commit, Moments, Outcome, PairRule, Rule, Scan, ScanRule, Severity
from tracer.errors import RuleError
from tracer.operations import OPERATION, Op

GROUP = "eofrace.rules"

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_T = TypeVar("_T")

_TEXTS = ("title", "explanation", "argument", "lost", "serialised", "watched")


def load(taken: Sequence[str]) -> list[Rule]:
    """All rules of other packages. `taken` are ids that they must not have. Raises RuleError."""
    found: dict[str, str] = dict.fromkeys(taken, "eofrace itself")
    rules: list[Rule] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        where = _where(entry)
        rule = _guarded(where, _checked(where, _loaded(where, entry)))
        if rule.id in found:
            raise _error(where, f"its id {rule.id!r} is taken by {found[rule.id]}")
        found[rule.id] = where
        rules.append(rule)
    return rules


def _where(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
    return f"rule {entry.name} ({entry.value}) of {package}"


def _error(where: str, what: str) -> RuleError:
    return RuleError(f"{where}: {what}: mend that package, or uninstall it")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _loaded(where: str, entry: EntryPoint) -> Any:
    try:
        found = entry.load()
        return found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:
        raise _error(where, f"cannot be loaded: {_told(error)}") from error


def _checked(where: str, rule: Any) -> PairRule | ScanRule:
    """Raises RuleError where something is not what `Rule` says."""
    if not isinstance(rule, PairRule | ScanRule):
        raise _error(where, f"is neither a PairRule nor a ScanRule of tracer.analysis.rules, but {type(rule).__name__}")
    try:
        wrong = [
            name
            for name, right in (
                ("id", isinstance(rule.id, str) and _ID.fullmatch(rule.id)),
                ("severity", isinstance(rule.severity, Severity)),
                ("needs", isinstance(rule.needs, frozenset) and all(isinstance(op, Op) for op in rule.needs)),
                ("reads", isinstance(rule.reads, frozenset) and rule.reads <= {*(OPERATION.names or ()), *DERIVED}),
                ("commits", isinstance(rule.commits, tuple) and all(isinstance(c, Commit) for c in rule.commits)),
                ("example", isinstance(rule.example, ExampleTrace)),
                ("almost", isinstance(rule.almost, ExampleTrace)),
                *((name, isinstance(getattr(rule, name), str)) for name in _TEXTS),
            )
            if not right
        ]
    except AttributeError as error:
        raise _error(where, f"lacks something: {error}") from error
    if wrong:
        raise _error(where, f"not as tracer.analysis.rules.Rule asks for: {', '.join(wrong)}")
    return rule


def _guarded(where: str, rule: PairRule | ScanRule) -> Rule:
    return _Pair(where, rule) if isinstance(rule, PairRule) else _Scanned(where, rule)


class _Guard:
    """What both kinds of guards have in common: a rule's own words, and calls that end in a RuleError."""

    def __init__(self, where: str, rule: Rule) -> None:
        self._where = where
        self.id, self.severity, self.title, self.explanation = rule.id, rule.severity, rule.title, rule.explanation
        self.argument, self.lost, self.serialised, self.watched = (
            rule.argument,
            rule.lost,
            rule.serialised,
            rule.watched,
        )
        self.needs, self.reads, self.commits = rule.needs, rule.reads, rule.commits
        self.example, self.almost, self.rests_on_absence = rule.example, rule.almost, rule.rests_on_absence

    def _call(self, name: str, method: Callable[..., _T], *arguments: Any) -> _T:
        try:
            return method(*arguments)
        except Exception as error:
            raise _error(self._where, f"{name} failed: {_told(error)}") from error

    def _mask(
        self, name: str, method: Callable[[Columns], npt.NDArray[np.bool_]], ops: Columns
    ) -> npt.NDArray[np.bool_]:
        mask = self._call(name, method, ops)
        if not isinstance(mask, np.ndarray) or mask.dtype.type is not np.bool_ or mask.shape != (len(ops),):
            raise _error(self._where, f"{name} did not return {len(ops)} booleans")
        return mask

    def _outcome(self, name: str, outcome: Any, count: int) -> npt.NDArray[np.uint8]:
        if not isinstance(outcome, np.ndarray) or outcome.dtype.type is not np.uint8 or outcome.shape != (count,):
            raise _error(self._where, f"{name} did not return {count} outcomes (uint8)")
        if len(outcome) and outcome.max() > max(Outcome):
            raise _error(self._where, f"{name} returned {outcome.max()}, which is no outcome")
        return outcome


class _Pair(_Guard, PairRule):
    def __init__(self, where: str, rule: PairRule) -> None:
        super().__init__(where, rule)
        self._rule = rule
        self.symmetric = rule.symmetric

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        return self._mask("firsts", self._rule.firsts, ops)

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        return self._mask("seconds", self._rule.seconds, ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        return self._outcome("judge", self._call("judge", self._rule.judge, first, second), len(first))


class _Scanned(_Guard, ScanRule):
    def __init__(self, where: str, rule: ScanRule) -> None:
        super().__init__(where, rule)
        self._rule = rule

    def wants(self, ops: Columns) -> npt.NDArray[np.bool_]:
        return self._mask("wants", self._rule.wants, ops)

    def scan(self) -> Scan:
        return _GuardedScan(self, self._call("scan", self._rule.scan))


class _GuardedScan(Scan):
    def __init__(self, guard: _Guard, scan: Scan) -> None:
        self._guard = guard
        self._scan = scan

    def feed(self, moments: Moments) -> Iterator[tuple[Columns, Columns, npt.NDArray[np.uint8]]]:
        # All at once: what goes wrong while one is asked for the next pairs is the rule's, too.
        for first, second, outcome in self._guard._call("feed", lambda: list(self._scan.feed(moments))):
            yield first, second, self._guard._outcome("feed", outcome, len(first))
