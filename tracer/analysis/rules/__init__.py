"""The hazard rules: one file a hazard, each a small class behind one narrow protocol, found by its name.

A rule names pairs of operations that must not have been in the kernel together (`PairRule`), or of which the later one
undid what the earlier one had acknowledged (`ScanRule`). A new rule is a new module here with a module-level `RULE`;
there is no list to add it to. Other packages add theirs by entry point (`tracer.analysis.third_party`).
"""

import enum
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.emulation import resolved
from tracer.analysis.examples import ExampleTrace
from tracer.analysis.overlaps import I64, Meetings, ended
from tracer.errors import UsageError
from tracer.operations import Op, Operations


class Outcome(enum.IntEnum):
    """What became of a pair that was in the kernel together, from harmless to worst."""

    KERNEL_SERIALISED = 1  # the kernel was seen to apply both in a safe order
    EXPOSED = 2  # nothing seen to be lost, and nothing seen that protected it
    LOST = 3  # acknowledged data was cut off or overwritten

    @property
    def label(self) -> str:
        """The name that outputs use."""
        return self.name.lower().replace("_", "-")


class Severity(enum.StrEnum):
    """How bad it is when a rule's hazard strikes."""

    DATA_LOSS = "data-loss"
    STALE_DATA = "stale-data"
    SUSPICIOUS = "suspicious"


@dataclass(frozen=True, slots=True)
class RulePairs:
    """Pairs that a rule found: three arrays (k,). Every pair counts as exposed, whatever its outcome."""

    first: I64
    """Index of the operation that does the harm."""
    second: I64
    """Index of the operation that is harmed."""
    outcome: npt.NDArray[np.uint8]
    """The most specific `Outcome`."""

    @classmethod
    def join(cls, chunks: Iterator["RulePairs"]) -> "RulePairs":
        """All pairs of several chunks, in their order."""
        none = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))
        parts = [none, *chunks]
        return cls(
            np.concatenate([part.first for part in parts]),
            np.concatenate([part.second for part in parts]),
            np.concatenate([part.outcome for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit or an issue that shows that a hazard is real."""

    project: str
    id: str
    release: str
    """Where it was fixed or seen, in words: "fixed in v5.5"."""
    title: str
    """One line."""

    def __str__(self) -> str:
        return f"{self.project} {self.id} ({self.release}): {self.title}"


class Rule(Protocol):
    """One hazard: what both kinds of rules say of themselves, and what can be asked of them about a trace in memory.

    A rule never sees a whole trace, nor the steps of an emulated fallocate (`tracer.analysis.emulation`): the engine
    resolves them first.
    """

    id: str
    """Name on the command line and in every output."""
    severity: Severity
    title: str
    """One line."""
    explanation: str
    """One paragraph for whoever meets the hazard the first time: what happens, since when, what protects."""
    argument: str
    """One paragraph: why a pair of this rule is dangerous to an application, and what normal use is no pair of it."""
    lost: str
    """What a trace has to show before a pair is called lost; empty: that is never claimed."""
    serialised: str
    """The same for kernel-serialised."""
    watched: str
    """Why bpf/watch.c can decide it in the kernel; empty: it does not."""
    needs: frozenset[Op]
    """Kinds of operations without which the rule can see nothing: a trace that misses them proves nothing."""
    commits: tuple[Commit, ...]
    """What shows that it is real."""
    example: ExampleTrace
    """The least that the rule finds."""
    almost: ExampleTrace
    """Nearly the same, in which it finds nothing."""
    rests_on_absence: bool = False
    """What it calls lost rests on an operation that is not in the trace: in an incomplete one that shows nothing."""
    reads: frozenset[str]
    """Columns that its methods read: of `tracer.operations.OPERATION`, and of `emulation.DERIVED`. The latter are there
    only if they are named here."""

    def chunks(self, ops: Operations, *, shortenings_are_known: bool = True) -> Iterator[RulePairs]:
        """Yield the pairs of a trace, ops (n,) in any order, in chunks of bounded size; each pair once.

        Without `shortenings_are_known` files may have been made shorter by what is not among ops.
        """
        ...

    def pairs(self, ops: Operations, *, shortenings_are_known: bool = True) -> RulePairs:
        """All pairs of a trace at once."""
        return RulePairs.join(self.chunks(ops, shortenings_are_known=shortenings_are_known))


@runtime_checkable
class PairRule(Rule, Protocol):
    """A hazard between two operations that were in the kernel together.

    It says which operations may be the two sides, and judges pairs of one file that the engine enumerates: those whose
    closed intervals of sequence numbers overlap, each once, never an operation with itself. All three methods are
    vectorised, and must not depend on which operations come in one call: a call has any batch of a trace.
    """

    symmetric: bool = False
    """Both sides are of the same kind: of (a, b) and (b, a) only the one whose first began first is enumerated."""

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Which of ops (n,) may be those that do the harm."""
        ...

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Which of ops (n,) may be those that are harmed."""
        ...

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """The `Outcome` of each pair of first (k,) and second (k,); 0: none of this rule."""
        ...

    def chunks(self, ops: Operations, *, shortenings_are_known: bool = True) -> Iterator[RulePairs]:
        """See `Rule.chunks`."""
        seen = resolved(ops, shortenings_are_known)
        seen = seen.take(np.argsort(seen["seq_begin"], kind="stable"))
        for i, j in Meetings(seen).pairs(self.firsts(seen), self.seconds(seen), symmetric=self.symmetric):
            first, second = seen.take(i), seen.take(j)
            outcome = self.judge(first, second)
            found = outcome.astype(np.bool_)
            if found.any():
                yield RulePairs(first["row"][found], second["row"][found], outcome[found])


@dataclass(frozen=True, slots=True)
class Moments:
    """Begins and ends of operations, in the order in which they happened: (n,), by sequence number."""

    ops: Columns
    """The operation of each moment. It occurs at its begin, and again at its end unless it never ended: all that is
    ever known of it is there both times."""
    ended: npt.NDArray[np.bool_]
    """True: its end; False: its begin."""


class Scan(Protocol):
    """The state of a `ScanRule` while the moments of some files pass by."""

    def feed(self, moments: Moments) -> Iterator[tuple[Columns, Columns, npt.NDArray[np.uint8]]]:
        """Take the next moments, of whole files but any stretch of time: what is found must not depend on where it is
        cut. Yields pairs (k,) of operations, each with its `Outcome`, each once.

        What it keeps of earlier moments must be bounded for each file (`Columns.kept`), not grow with the trace.
        """
        ...


@runtime_checkable
class ScanRule(Rule, Protocol):
    """A hazard that needs what happened to a file before: what a later operation does to data long acknowledged."""

    def wants(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Which of ops (n,) matter to the scan."""
        ...

    def scan(self) -> Scan:
        """A fresh state, for some files whole."""
        ...

    def chunks(self, ops: Operations, *, shortenings_are_known: bool = True) -> Iterator[RulePairs]:
        """See `Rule.chunks`."""
        seen = resolved(ops, shortenings_are_known)
        wanted = self.wants(seen)
        for first, second, outcome in self.scan().feed(moments(seen, wanted, wanted & ended(seen))):
            yield RulePairs(first["row"], second["row"], outcome)


def moments(ops: Columns, begun: npt.NDArray[np.bool_], ended: npt.NDArray[np.bool_]) -> Moments:
    """The begins of operations (n,) for which `begun` is true, and the ends of those for which `ended` is."""
    begins, ends = np.flatnonzero(begun), np.flatnonzero(ended)
    rows = np.concatenate([begins, ends])
    order = np.argsort(np.concatenate([ops["seq_begin"][begins], ops["seq_end"][ends]]), kind="stable")
    return Moments(ops.take(rows[order]), order >= len(begins))


def prose(text: str) -> str:
    """A paragraph that was written over several lines, as one."""
    return " ".join(text.split())


def own_rules() -> tuple[Rule, ...]:
    """Those of this package, by name."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Rule] = [module.RULE for module in modules if hasattr(module, "RULE")]
    return tuple(sorted(found, key=lambda rule: rule.id))


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule there is, by name: those here, and those of other packages. Raises RuleError."""
    from tracer.analysis import third_party

    own = own_rules()
    return tuple(sorted((*own, *third_party.load([rule.id for rule in own])), key=lambda rule: rule.id))


def chosen(wanted: Iterable[str], ignored: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules of these names (none: all) but those that are ignored. Raises UsageError, also where none is left."""
    some = tuple(named(name) for name in dict.fromkeys(wanted)) or all_rules()
    without = {named(name) for name in ignored}
    left = tuple(rule for rule in some if rule not in without)
    if not left:
        raise UsageError("all rules are ignored: nothing would be judged")
    return left


def named(name: str) -> Rule:
    """The rule of that name. Raises UsageError, with the names there are."""
    for rule in all_rules():
        if rule.id == name:
            return rule
    raise UsageError(f"no rule is called {name!r}; there are: {', '.join(rule.id for rule in all_rules())}")
