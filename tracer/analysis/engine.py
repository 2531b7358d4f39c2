"""Judges traces on disk, of any size: cuts the work into tasks, has somebody do them, and puts the results together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tracer.analysis import shares
from tracer.analysis.emulation import UNKNOWN, emulated
from tracer.analysis.findings import Findings
from tracer.analysis.hazards import Analysis, Hazard, conclude, hazards_of
from tracer.analysis.rules import PairRule, Rule
from tracer.analysis.shares import Done, News, Task
from tracer.analysis.stream import Window
from tracer.analysis.sweep import Share
from tracer.errors import TraceError, UsageError
from tracer.report.escape import printable
from tracer.stored import Stored, parts, stored

Execute = Callable[[Sequence[Task]], Iterator[tuple[int, News | Done]]]
"""Does tasks, in any order and anywhere: yields what each one says, with its index. Whatever one raises ends it."""

Told = Callable[[Stored, News], None]


def one_after_the_other(tasks: Sequence[Task]) -> Iterator[tuple[int, News | Done]]:
    """Do them here and now."""
    for number, task in enumerate(tasks):
        for said in shares.run(task):
            yield number, said


def analyse_stored(
    traces: Sequence[Stored],
    rules: Sequence[Rule],
    workers: int,
    execute: Execute,
    told: Told = lambda trace, news: None,
) -> list[Analysis]:
    """Judge traces by rules, the work on each cut for so many workers; the results do not depend on how.

    Raises TraceError for what is wrong with a trace.
    """
    tasks: list[Task] = []
    of_trace: list[int] = []
    for number, trace in enumerate(traces):
        more = list(shares.tasks(trace, emulated(trace), rules, workers))
        tasks += more
        of_trace += [number] * len(more)
    found = [{rule.id: Findings() for rule in rules} for _ in traces]
    operations, unfinished = [0] * len(traces), [0] * len(traces)
    for task, said in execute(tasks):
        number = of_trace[task]
        if isinstance(said, News):
            told(traces[number], said)
            continue
        operations[number] += said.operations
        unfinished[number] += said.unfinished
        for rule, findings in said.found.items():
            found[number][rule].merge(findings)
    for trace, count in zip(traces, operations, strict=True):
        if count != trace.operations:
            name = printable(str(trace.path))
            raise TraceError(f"{name}: {count} of its {trace.operations} operations were found: has it changed?")
    return [
        conclude(trace.meta, operations[n], unfinished[n], [(rule, found[n][rule.id]) for rule in rules])
        for n, trace in enumerate(traces)
    ]


def first_look(path: Path, rules: Sequence[Rule]) -> tuple[Stored, News] | None:
    """What is dangerous in the first row group of a trace, which takes a moment however long it is.

    Pairs are what they are, whatever else is in the trace; what may explain a loss is taken to be there. What is wrong
    with the trace is left to those who read it.
    """
    try:
        trace = stored((parts(path) if path.is_dir() else (path,))[0])
        trace = replace(trace, groups=trace.groups[:1])
        steps = replace(emulated(trace), shortening=UNKNOWN)
        if not len(trace.groups) or len(steps.rows):
            return None
        pair_rules = tuple(rule for rule in rules if isinstance(rule, PairRule))
        for said in shares.run(Task(trace, steps, pair_rules, Share(Window()), counts=False)):
            if isinstance(said, News) and said.kinds:
                return trace, said
    except UsageError:
        pass
    return None


def examples(rules: Sequence[Rule], news: News) -> list[Hazard]:
    """The hazards that news are about, as far as they are known by now."""
    by_name = {rule.id: rule for rule in rules}
    hazards = []
    for rule, kind, finding in news.kinds:
        found = Findings()
        found.kinds[kind] = finding
        hazards += hazards_of(by_name[rule], found)
    return hazards
