"""The hazard rules: one file a hazard, each a small class behind one narrow protocol, found by its name.

A rule takes a trace and names pairs of operations that were in the kernel together and must not have been. A
new rule is a new module here with a module-level `RULE`; there is no list to add it to.
"""

import enum
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tracer.analysis.overlaps import I64
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


class Rule(Protocol):
    """One hazard. Implementations derive from this class and write `chunks`."""

    id: str
    """Name on the command line and in every output."""
    severity: Severity
    title: str
    """One line."""
    explanation: str
    """One paragraph for whoever meets the hazard the first time: what happens, since when, what protects."""
    needs: frozenset[Op]
    """Kinds of operations without which the rule can see nothing: a trace that misses them proves nothing."""

    def chunks(self, ops: Operations) -> Iterator[RulePairs]:
        """Yield the pairs of a trace, ops (n,) in any order, in chunks of bounded size; each pair once."""
        ...

    def pairs(self, ops: Operations) -> RulePairs:
        """All pairs of a trace at once."""
        return RulePairs.join(self.chunks(ops))


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule there is, by name."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Rule] = [module.RULE for module in modules if hasattr(module, "RULE")]
    return tuple(sorted(found, key=lambda rule: rule.id))


def named(name: str) -> Rule:
    """The rule of that name. Raises UsageError, with the names there are."""
    for rule in all_rules():
        if rule.id == name:
            return rule
    raise UsageError(f"no rule is called {name!r}; there are: {', '.join(rule.id for rule in all_rules())}")
