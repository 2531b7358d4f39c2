"""What `analyze` shows while it works: the first hazards that it meets, and on a terminal how far it is."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from rich.text import Text

from tracer.analysis.baseline import Baseline
from tracer.analysis.engine import examples
from tracer.analysis.rules import Rule
from tracer.analysis.shares import News
from tracer.report.console import Console
from tracer.report.hazard_text import sentence
from tracer.stored import Stored

_AT_ONCE = 5
"""Hazards that a terminal is told of before the end; elsewhere, the first one is."""


class Progress(Protocol):
    """Is told what happens."""

    def expect(self, operations: int) -> None:
        """So many operations will be come past."""

    def told(self, trace: Stored, news: News) -> None:
        """As `tracer.analysis.engine.Told`."""


class _Silent:
    def expect(self, operations: int) -> None: ...

    def told(self, trace: Stored, news: News) -> None: ...


class _Shown:
    def __init__(self, rules: Sequence[Rule], known: Baseline, console: Console) -> None:
        self._rules = rules
        self._baseline = known
        self._console = console
        self._left = _AT_ONCE if console.is_terminal else 1
        self._known: set[object] = set()

    def expect(self, operations: int) -> None: ...

    def told(self, trace: Stored, news: News) -> None:
        if not self._left:
            return
        new = [one for one in news.kinds if (trace.path, *one[:2]) not in self._known]
        self._known.update((trace.path, rule, kind) for rule, kind, _ in new)
        hazards = [one for one in examples(self._rules, News(0, tuple(new))) if not self._baseline.knows(one)]
        for hazard in hazards[: self._left]:
            self._console.print(Text.assemble("found: ", *sentence(hazard)))
            self._left -= 1


class _WithBar(_Shown):
    def __init__(self, rules: Sequence[Rule], known: Baseline, console: Console, stack: contextlib.ExitStack) -> None:
        super().__init__(rules, known, console)
        self._stack = stack
        self._advance: Callable[[int], None] = lambda operations: None

    def expect(self, operations: int) -> None:
        # A tenth of a second that the first hazard need not wait for.
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        bar = self._stack.enter_context(Progress(*columns, console=self._console, transient=True))
        task = bar.add_task("judging", total=operations)
        self._advance = lambda operations: bar.advance(task, operations)

    def told(self, trace: Stored, news: News) -> None:
        super().told(trace, news)
        self._advance(news.operations)


@contextlib.contextmanager
def progress(rules: Sequence[Rule], known: Baseline, *, quiet: bool) -> Iterator[Progress]:
    """What shows, on standard error, how a judgement by some rules goes; of hazards, those that are not known."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    with contextlib.ExitStack() as stack:
        if quiet:
            yield _Silent()
        elif console.is_terminal:
            yield _WithBar(rules, known, console, stack)
        else:
            yield _Shown(rules, known, console)
