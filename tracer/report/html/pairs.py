"""The dangerous pairs of a recording that a page outlines and that a reader can walk along.

Those that its hazards are told by always; of a recording that is held whole, all that the rules find, up to a limit.
"""

from collections.abc import Iterator

import numpy as np

from tracer.analysis.completeness import all_shortenings_are_seen
from tracer.analysis.hazards import Counts, Pair
from tracer.analysis.rules import Outcome, all_rules
from tracer.report.html.choose import Shown
from tracer.report.html.pack import block
from tracer.report.html.view import Section
from tracer.report.source import Recording

MAX_PAIRS = 2_000
"""Of a rule and a recording."""

_Row = tuple[int, int, int, int, int]
"""Index of the file, `seq_begin` of either operation, outcome, index of the rule."""


def pack_pairs(told: Section, shown: Shown, recording: Recording) -> str:
    """Pairs as a block, in the order of the trace; its header says of each example which one it is."""
    counts = {} if recording.analysis is None else recording.analysis.counts
    rules = list(counts)
    known = recording.trace is not None and all_shortenings_are_seen(recording.trace.meta)
    files = {file.id: at for at, file in enumerate(shown.files)}
    examples = {
        f"{hazard.id}-{example.name}": _row(example.pair, files, rules.index(hazard.rule))
        for hazard in told.hazards
        for example in hazard.examples
    }
    rows = {row[:3] + row[4:]: row for row in (*_all_pairs(shown, counts, known), *examples.values())}
    order = sorted(rows.values(), key=lambda row: (max(row[1:3]), row))
    places = {row[:3] + row[4:]: at for at, row in enumerate(order)}
    columns = np.array(order, np.int64).reshape(-1, 5).T
    names = ("file", "first", "second", "outcome", "rule")
    header = {
        "rules": rules,
        "outcomes": {int(outcome): outcome.label for outcome in Outcome},
        "examples": {name: places[row[:3] + row[4:]] for name, row in examples.items()},
        "all": sum(count.exposed for count in counts.values()),
    }
    return block(header, {name: column.copy() for name, column in zip(names, columns, strict=True)})


def _row(pair: Pair, files: dict[tuple[int, int], int], rule: int) -> _Row:
    at = files[pair.first["dev"], pair.first["ino"]]
    return at, _signed(pair.first["seq_begin"]), _signed(pair.second["seq_begin"]), int(pair.outcome), rule


def _signed(number: int) -> int:
    """As 64 bits have it: no recorder counts that far, but a file may say anything."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _all_pairs(shown: Shown, counts: dict[str, Counts], known: bool) -> Iterator[_Row]:
    """Of the rules that find as many pairs in the files shown as in the trace, and not too many."""
    if not all(file.whole for file in shown.files) or shown.other_files:
        return
    by_name = {rule.id: rule for rule in all_rules()}
    for at, name in enumerate(counts):
        if not 0 < counts[name].exposed <= MAX_PAIRS or name not in by_name:
            continue
        found = [
            (number, file.ops, by_name[name].pairs(file.ops, shortenings_are_known=known))
            for number, file in enumerate(shown.files)
        ]
        if sum(len(pairs.first) for _, _, pairs in found) != counts[name].exposed:
            continue
        for number, ops, pairs in found:
            sides = (ops["seq_begin"][side].astype(np.int64).tolist() for side in (pairs.first, pairs.second))
            for first, second, outcome in zip(*sides, pairs.outcome.tolist(), strict=True):
                # A loss that rests on what an incomplete trace lacks was not counted as one.
                yield number, first, second, min(outcome, Outcome.EXPOSED if not counts[name].lost else outcome), at
