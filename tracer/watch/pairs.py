"""From the operations that the kernel's side lets out to hazards, each pair once."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tracer.analysis.hazards import Counts, Hazard, fold
from tracer.analysis.rules import Rule, RulePairs
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.operations import OPERATION, Op, Operations

MAX_WAITING = 65_536
"""Writes that are kept for a fallocate in flight: 9.5 MB."""


class Pairs:
    """Pairs of a stream of operations.

    The one of a pair that ends later finds the other one here: a write brings a fallocate along that has ended; one in
    flight comes when it ends, and until then the write waits.
    """

    def __init__(self, rule: Rule = RULE, limit: int = MAX_WAITING) -> None:
        self.forgotten = 0
        """Writes that did not wait long enough, because more than `limit` did."""
        self._rule = rule
        self._limit = limit
        self._waiting: Operations = np.empty(0, OPERATION)
        self._known = np.empty(0, np.uint64)
        """seq_begin of the fallocates that came while something waited."""

    @property
    def waiting(self) -> int:
        """Writes that wait for a fallocate."""
        return len(self._waiting)

    def add(self, fresh: Operations, flying: Operations) -> tuple[list[Hazard], Counts]:
        """Judge what has ended, fresh (n,).

        flying (k,) is what was in flight before it was fetched, and may be empty if nothing waits.
        """
        if not len(fresh) and not len(self._waiting):
            return [], Counts()
        fresh = fresh[np.unique(fresh["seq_begin"], return_index=True)[1]]
        ops = np.concatenate([self._waiting, fresh])
        is_new = np.ones(len(ops), np.bool_)
        is_new[: len(self._waiting)] = False
        is_new &= ~np.isin(ops["seq_begin"], self._known)
        found = fold(ops, self._rule, _of_new(self._rule, ops, is_new))
        self._keep(ops, is_new, flying)
        return found

    def close(self, fresh: Operations, flying: Operations, remembered: Operations) -> tuple[list[Hazard], Counts]:
        """The same at the end, with what is still in flight; remembered (m,) are fallocates that it may have met."""
        found, counts = self.add(fresh, flying)
        known = np.concatenate([self._waiting, remembered])
        known = known[np.unique(known["seq_begin"], return_index=True)[1]]
        # One that has ended since it was looked for in flight is no longer.
        flying = flying[~np.isin(flying["seq_begin"], known["seq_begin"])]
        ops = np.concatenate([known, flying])
        is_new = np.zeros(len(ops), np.bool_)
        is_new[len(known) :] = True
        more, more_counts = fold(ops, self._rule, _of_new(self._rule, ops, is_new))
        return found + more, counts + more_counts

    def _keep(self, ops: Operations, is_new: npt.NDArray[np.bool_], flying: Operations) -> None:
        """Keep the writes that a fallocate in flight may have met. A new one waits for another look at what is."""
        fallocates = flying[flying["op"] == Op.FALLOCATE]
        oldest = fallocates["seq_begin"].min() if len(fallocates) else np.uint64(2**64 - 1)
        is_write = ops["op"] != Op.FALLOCATE
        waiting = ops[is_write & (is_new | (oldest < ops["seq_end"]))]
        self.forgotten += max(len(waiting) - self._limit, 0)
        self._waiting = waiting[-self._limit :]
        came = ops["seq_begin"][~is_write]
        self._known = np.union1d(self._known, came) if len(waiting) else came[:0]


def _of_new(rule: Rule, ops: Operations, is_new: npt.NDArray[np.bool_]) -> Iterator[RulePairs]:
    """Pairs of which at least one is new. Truncations do not come here: only what XFS was seen to cut is lost."""
    for chunk in rule.chunks(ops, shortenings_are_known=False):
        wanted = is_new[chunk.first] | is_new[chunk.second]
        if wanted.any():
            yield RulePairs(chunk.first[wanted], chunk.second[wanted], chunk.outcome[wanted])
