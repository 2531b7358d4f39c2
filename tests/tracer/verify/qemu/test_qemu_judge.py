"""What a build's own control has to show before the build is confirmed."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from tests.tracer.analysis.test_verdict import CLEAN
from tracer.analysis.hazards import Verdict
from tracer.analysis.verdict import Counts, Judgement
from tracer.verify.cell import Cell
from tracer.verify.qemu.cell import ENOUGH_MISLED, _judge, nothing_to_mislead

COUNTS = replace(CLEAN, conflicts=60)


def cell(verdict: Verdict, counts: Counts, *, exposing: int = 0, zero_writes: int = 100) -> Cell:
    """As much of one as is looked at."""
    found = SimpleNamespace(
        strategy="misled",
        judgement=Judgement(verdict, "why"),
        counts=counts,
        exposing=exposing,
        zero_writes=zero_writes,
    )
    return cast(Cell, found)


CONTROL = cell(Verdict.UNSAFE, replace(COUNTS, exposed=60))
MISLED = cell(Verdict.UNSAFE, replace(COUNTS, exposed=60), exposing=ENOUGH_MISLED)


def test_confirmed_behind_both_controls() -> None:
    assert _judge(COUNTS, [CONTROL, MISLED], zero_writes=True).verdict is Verdict.CONFIRMED


def test_confirmed_without_zero_writes_behind_blockstacks_alone() -> None:
    assert _judge(COUNTS, [CONTROL], zero_writes=False).verdict is Verdict.CONFIRMED


@pytest.mark.parametrize(
    "controls",
    [
        [CONTROL],
        [CONTROL, cell(Verdict.UNSAFE, replace(COUNTS, exposed=60), exposing=ENOUGH_MISLED - 1)],
        [CONTROL, cell(Verdict.INCONCLUSIVE, replace(COUNTS, exposed=60), exposing=60)],
        [cell(Verdict.UNSAFE, replace(COUNTS, exposed=20)), MISLED],
    ],
    ids=["none that is misled", "one slow fallocate", "inconclusive", "a weak control"],
)
def test_inconclusive(controls: list[Cell]) -> None:
    assert _judge(COUNTS, controls, zero_writes=True).verdict is Verdict.INCONCLUSIVE


def test_what_was_not_seen_is_not_confirmed() -> None:
    assert _judge(replace(COUNTS, dropped=1), [CONTROL, MISLED], zero_writes=True).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    "counts",
    [replace(COUNTS, failure="it died"), replace(COUNTS, dropped=1), replace(COUNTS, unfinished=1)],
)
def test_a_misled_run_that_is_not_whole_does_not_vanish(counts: Counts) -> None:
    assert nothing_to_mislead(cell(Verdict.INCONCLUSIVE, COUNTS, zero_writes=0))
    assert not nothing_to_mislead(cell(Verdict.INCONCLUSIVE, counts, zero_writes=0))
    assert not nothing_to_mislead(MISLED)
