"""The verdict: what confirms, and everything that must not."""

from dataclasses import replace

import pytest

from tracer.analysis.hazards import Verdict
from tracer.analysis.verdict import ENOUGH_CONFLICTS, Counts, Judgement, judge, worst

CLEAN = Counts(
    conflicts=ENOUGH_CONFLICTS,
    exposed=0,
    kernel_serialised=0,
    lost=0,
    lost_bytes=0,
    lost_bytes_traced=0,
    corrupt_clusters=0,
    check_errors=0,
    dropped=0,
    unfinished=0,
    unaccounted=0,
)
UNSAFE_CONTROL = Judgement(Verdict.UNSAFE, "exposed")


def protecting(
    counts: Counts, control: Judgement | None = UNSAFE_CONTROL, control_exposed: int = ENOUGH_CONFLICTS
) -> Verdict:
    return judge(counts, is_control=False, may_lose=False, control=control, control_exposed=control_exposed).verdict


def test_confirms_what_was_exercised_and_kept_apart() -> None:
    assert protecting(CLEAN) is Verdict.CONFIRMED


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"conflicts": ENOUGH_CONFLICTS - 1}, Verdict.INCONCLUSIVE),
        ({"dropped": 1}, Verdict.INCONCLUSIVE),
        ({"unfinished": 1}, Verdict.INCONCLUSIVE),
        ({"unaccounted": 1}, Verdict.INCONCLUSIVE),
        ({"failure": "EIO"}, Verdict.INCONCLUSIVE),
        ({"unaccounted": 1, "exposed": 1, "lost": 1}, Verdict.INCONCLUSIVE),
        ({"unaccounted": 1, "lost_bytes": 1}, Verdict.CORRUPT),
        ({"exposed": 1}, Verdict.UNSAFE),
        ({"exposed": 1, "kernel_serialised": 1}, Verdict.UNSAFE),
        ({"exposed": 1, "dropped": 1}, Verdict.UNSAFE),
        ({"exposed": 1, "lost": 1}, Verdict.CORRUPT),
        ({"lost_bytes": 1}, Verdict.CORRUPT),
        ({"lost_bytes_traced": 1}, Verdict.CORRUPT),
        ({"check_errors": 1}, Verdict.CORRUPT),
        ({"lost_bytes": 1, "failure": "EIO", "dropped": 1}, Verdict.CORRUPT),
    ],
)
def test_each_flaw_alone_is_enough(change: dict[str, object], verdict: Verdict) -> None:
    assert protecting(replace(CLEAN, **change)) is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize("control", [None, Judgement(Verdict.INCONCLUSIVE, ""), Judgement(Verdict.CONFIRMED, "")])
def test_nothing_is_confirmed_behind_a_control_that_shows_nothing(control: Judgement | None) -> None:
    assert protecting(CLEAN, control) is Verdict.INCONCLUSIVE


def test_nothing_is_confirmed_behind_a_control_that_shows_little() -> None:
    """Mutants were confirmed on tmpfs, behind controls of 2 to 17 pairs."""
    assert protecting(CLEAN, control_exposed=ENOUGH_CONFLICTS - 1) is Verdict.INCONCLUSIVE


def test_a_silent_control_is_inconclusive() -> None:
    assert judge(CLEAN, is_control=True, may_lose=False, control=None).verdict is Verdict.INCONCLUSIVE


def test_a_control_that_must_lose_data_and_is_only_exposed_is_inconclusive() -> None:
    exposed = replace(CLEAN, exposed=9)
    assert judge(exposed, is_control=True, may_lose=True, control=None).verdict is Verdict.INCONCLUSIVE
    assert judge(exposed, is_control=True, may_lose=False, control=None).verdict is Verdict.UNSAFE


def test_the_reason_says_whether_trace_and_oracle_agree() -> None:
    agree = judge(replace(CLEAN, lost_bytes=8, lost_bytes_traced=8), is_control=True, may_lose=True, control=None)
    differ = judge(replace(CLEAN, lost_bytes=8, lost_bytes_traced=4), is_control=True, may_lose=True, control=None)
    assert "accounts for every byte" in agree.reason
    assert "accounts for 4 bytes" in differ.reason


def test_the_worst_counts() -> None:
    assert worst([Verdict.CONFIRMED, Verdict.UNSAFE, Verdict.INCONCLUSIVE]) is Verdict.UNSAFE
    assert worst([Verdict.CONFIRMED, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert worst([Verdict.UNSAFE, Verdict.CORRUPT]) is Verdict.CORRUPT
