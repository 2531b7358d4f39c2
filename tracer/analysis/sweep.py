"""The engine: what some rules find in a share of a trace on disk, in one pass.

The operations come in the order of their begins, a stretch at a time. Held are those that some rule wants and that had
not ended where the stretch before ended: each stretch is paired with them and with itself. So the cost is O(n log n +
pairs), and the memory what is in flight and one stretch, also if an operation lasts as long as the trace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.emulation import DERIVED, Emulated
from tracer.analysis.overlaps import U64, Meetings, ended, sequence_ends
from tracer.analysis.rules import PairRule, Rule, Scan, ScanRule, moments
from tracer.analysis.stream import BATCH, HELD, Arrays, Stretch, Window, carried, stretches
from tracer.errors import TraceError
from tracer.report.escape import printable
from tracer.stored import Stored
from tracer.trace_columns import NAMES

_PAIRS = 1 << 17
"""Pairs that are judged in one go: what a rule reads of them stays in the processor's cache, almost."""


_SPARSE = 16
"""Numbers to each one that is used, from which on they are sorted rather than marked."""

_MOST = 0.8
"""Part of the operations that rules want, from which on all are kept."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the work on a trace: of some files, those pairs whose later operation begins in a window of time.

    The shares of a trace are independent of each other; what they find adds up to what one share would find that has
    all files and all the time. A ScanRule needs a file from the beginning to the end.
    """

    window: Window
    bucket: int = 0
    """Of files, by device and inode."""
    buckets: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """Pairs of one rule: first (k,), second (k,), and the `Outcome` of each."""

    rule: Rule
    first: Columns
    second: Columns
    outcome: npt.NDArray[np.uint8]


class Sweep:
    """One pass over a share of a trace."""

    def __init__(
        self,
        trace: Stored,
        rules: Sequence[Rule],
        share: Share,
        emulated: Emulated,
        *,
        batch: int = BATCH,
        held: int = HELD,
    ) -> None:
        self.operations = 0
        """That began in the window so far, of all files."""
        self.unfinished = 0
        """Those of them that never ended."""
        self._trace = trace
        self._share = share
        self._emulated = emulated
        self._limits = batch, held
        self._pair_rules = [rule for rule in rules if isinstance(rule, PairRule)]
        self._scans: list[tuple[ScanRule, Scan]] = [(rule, rule.scan()) for rule in rules if isinstance(rule, ScanRule)]
        self._derived = sorted(DERIVED.keys() & frozenset().union(*(rule.reads for rule in rules)))
        sides = [f"{rule.id} {side}" for rule in self._pair_rules for side in ("first", "second")]
        self._masks = (*sides, *(f"{rule.id} wants" for rule, _ in self._scans))
        """Columns of our own: which operations a rule wants, and for what."""
        self._open: Arrays = {}
        """Operations that a rule wants and that had not ended when the last stretch did."""
        self._ends = np.empty(0, np.uint64)
        """Sequence numbers of the ends that are still to come, of all operations."""

    def run(self) -> Iterator[list[Found]]:
        """Yield what is found, in portions, one at least for each stretch. Raises TraceError for a damaged trace."""
        window = self._share.window
        before = list(carried(self._trace, NAMES, window.low)) if window.low else []
        self._ends = np.concatenate([self._ends, *(ops["seq_end"][ended(ops)] for ops in before)])
        batch, held = self._limits
        first = True
        for stretch in stretches(self._trace, NAMES, window, batch=batch, held=held):
            if first:
                nothing = {name: column[:0] for name, column in stretch.ops.items()}
                self._open = self._seen(_joined([nothing, *before]))
                before, first = [], False
            self.operations += len(stretch.ops["row"])
            self.unfinished += int(np.count_nonzero(~ended(stretch.ops)))
            self._check_numbers(stretch)
            yield from self._advance(self._seen(stretch.ops), stretch.frontier)
            yield []

    def _seen(self, ops: Arrays) -> Arrays:
        """Of some operations, those of this share that some rule wants, as rules see them."""
        arrays = self._emulated.resolve(ops, self._derived)
        columns = Columns(arrays)
        for pair in self._pair_rules:
            arrays[f"{pair.id} first"], arrays[f"{pair.id} second"] = pair.firsts(columns), pair.seconds(columns)
        for rule, _ in self._scans:
            arrays[f"{rule.id} wants"] = rule.wants(columns)
        wanted = np.any([arrays[name] for name in self._masks], axis=0)
        if self._share.buckets > 1:
            wanted &= buckets(columns, self._share.buckets) == self._share.bucket
        elif np.count_nonzero(wanted) >= _MOST * len(wanted):
            return arrays  # the others cost less than a copy
        return {name: column[wanted] for name, column in arrays.items()}

    def _advance(self, fresh: Arrays, frontier: int) -> Iterator[list[Found]]:
        """Yield the pairs of which the later one is in `fresh`, and what the scans make of the time until frontier."""
        known = len(self._open["row"])
        ops = Columns(fresh, before=self._open)
        meetings = Meetings(ops, known)
        for pair in self._pair_rules:
            masks = ops[f"{pair.id} first"], ops[f"{pair.id} second"]
            for i, j in meetings.pairs(*masks, symmetric=pair.symmetric, chunk=_PAIRS):
                yield list(_judged(pair, ops.take(i), ops.take(j)))
        ends = sequence_ends(ops)
        for rule, scan in self._scans:
            wanted = ops[f"{rule.id} wants"]
            begun = wanted & (np.arange(len(ops)) >= known)
            passing = moments(ops, begun, wanted & (ends < np.uint64(frontier)))
            yield [Found(rule, *found) for found in scan.feed(passing)]
        still_open = ops.take(ends >= np.uint64(frontier))
        self._open = {name: still_open[name] for name in self._open}

    def _check_numbers(self, stretch: Stretch) -> None:
        """Raise TraceError where a sequence number is another one's, too. All below the frontier are known."""
        ends = np.concatenate([self._ends, stretch.ops["seq_end"][ended(stretch.ops)]])
        past = ends < np.uint64(stretch.frontier)
        numbers = np.concatenate([stretch.ops["seq_begin"], ends[past]])
        self._ends = ends[~past]
        if all_differ(numbers):
            return
        numbers.sort()
        number = int(numbers[int(np.argmax(numbers[1:] == numbers[:-1]))])
        raise TraceError(f"{printable(str(self._trace.path))}: sequence number {number} occurs twice")


def all_differ(numbers: U64) -> bool:
    """Whether no two of some numbers (n,) are the same."""
    if not len(numbers):
        return True
    low = numbers.min()
    span = int(numbers.max() - low) + 1
    if span > _SPARSE * len(numbers):
        return len(np.unique(numbers)) == len(numbers)
    # The numbers of a trace have few gaps: to mark them takes a tenth of the time of sorting them.
    met = np.zeros(span, np.bool_)
    met[numbers - low] = True
    return int(np.count_nonzero(met)) == len(numbers)


def buckets(ops: Columns, count: int) -> npt.NDArray[np.uint64]:
    """In which of `count` buckets the file of each operation (n,) is: the same on every machine."""
    # Multiplied by odd numbers without a pattern (of 2^64 / the golden ratio, and of splitmix64), then the high bits.
    mixed = ops["ino"] * np.uint64(0x9E3779B97F4A7C15) ^ ops["dev"] * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray((mixed >> np.uint64(33)) % np.uint64(count))


def _judged(rule: PairRule, first: Columns, second: Columns) -> Iterator[Found]:
    outcome = rule.judge(first, second)
    found = outcome.astype(np.bool_)
    if found.any():
        yield Found(rule, first.take(found), second.take(found), outcome[found])


def _joined(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
