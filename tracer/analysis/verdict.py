"""The verdict on one cell of a run, from what was counted in it; never without a reason.

domain.md: `confirmed` needs enough conflicts, none exposed, nothing lost, nothing dropped, and a control that shows the
hazard. What could not be seen never counts in favour.
"""

from dataclasses import dataclass

from tracer.analysis.hazards import Verdict

ENOUGH_CONFLICTS = 50
"""Conflicts that a cell has to exercise before "none was exposed" means anything."""


def worst(verdicts: list[Verdict]) -> Verdict:
    """The worst of several verdicts; `confirmed` of none."""
    return max(verdicts, key=lambda verdict: verdict.rank, default=Verdict.CONFIRMED)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted in one cell. Byte counts are of the guest's disk."""

    conflicts: int
    exposed: int
    kernel_serialised: int
    lost: int
    lost_bytes: int  # wrong on reading back, by the oracle; the larger of both readings
    lost_bytes_traced: int  # of acknowledged data that the trace shows to be cut off
    corrupt_clusters: int
    check_errors: int  # of qemu-img check: errors and leaks
    dropped: int
    unfinished: int
    unaccounted: int  # operations on which the trace and the driver's own account disagree
    failure: str | None = None  # why the workload or the reading back did not end


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the sentence that says why."""

    verdict: Verdict
    reason: str


def judge(
    counts: Counts,
    *,
    is_control: bool,
    may_lose: bool,
    control: Judgement | None = None,
    control_exposed: int = 0,
    enough: int = ENOUGH_CONFLICTS,
) -> Judgement:
    """The verdict on a cell.

    `is_control`: the cell is of the strategy `none`. `may_lose`: its control must lose data (legacy-xfs), not only be
    exposed. `control`: the verdict on the control of the same column, None for the control itself. `control_exposed`:
    how many pairs that one exposed; where it exposed only a few, a strategy that lets some through would look safe.
    `enough`: how many conflicts it takes, fewer where the schedule is chosen.
    """
    read_back_wrong = counts.lost_bytes or counts.check_errors
    if counts.unaccounted and not read_back_wrong:
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"the trace and the driver's own account disagree on {counts.unaccounted} operations",
        )
    if read_back_wrong or counts.lost or counts.lost_bytes_traced:
        return Judgement(Verdict.CORRUPT, _harm(counts))
    if counts.failure is not None:
        return Judgement(Verdict.INCONCLUSIVE, f"the run did not end: {counts.failure}")
    if counts.exposed:
        reason = (
            f"{counts.exposed} pairs of a post-EOF fallocate and a write behind it were in the kernel together"
            f" ({counts.kernel_serialised} of them seen to be ordered by it); nothing was lost here"
        )
        if is_control and may_lose:
            return Judgement(Verdict.INCONCLUSIVE, reason + ", although this control must lose data")
        return Judgement(Verdict.UNSAFE, reason)
    for number, what in (
        (counts.dropped, "events were dropped"),
        (counts.unfinished, "operations were still in flight at the end"),
    ):
        if number:
            return Judgement(Verdict.INCONCLUSIVE, f"{number} {what}: what they would show is unknown")
    if is_control:
        return Judgement(Verdict.INCONCLUSIVE, "the control shows no hazard, so the run proves nothing")
    if control is None or control.verdict not in (Verdict.UNSAFE, Verdict.CORRUPT):
        return Judgement(Verdict.INCONCLUSIVE, "the control of this column shows no hazard, so the run proves nothing")
    if control_exposed < enough:
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"the control of this column exposed only {control_exposed} pairs of the {enough} that it takes:"
            " raise --writes, or use another --dir",
        )
    if counts.conflicts < enough:
        return Judgement(
            Verdict.INCONCLUSIVE,
            f"only {counts.conflicts} conflicts were exercised of the {enough} that it takes: raise --writes",
        )
    return Judgement(
        Verdict.CONFIRMED, f"{counts.conflicts} conflicts were exercised, none was exposed, nothing was lost"
    )


def _harm(counts: Counts) -> str:
    """All that shows that something was lost."""
    parts = []
    if counts.lost_bytes:
        parts.append(
            f"{counts.lost_bytes} bytes of acknowledged guest data in {counts.corrupt_clusters} clusters read back"
            f" wrong"
        )
    if counts.lost:
        parts.append(f"{counts.lost} acknowledged writes were cut off by a fallocate's size update")
    if counts.lost_bytes == counts.lost_bytes_traced:
        if counts.lost_bytes:
            parts.append("the trace accounts for every byte of it")
    else:
        parts.append(f"the trace accounts for {counts.lost_bytes_traced} bytes")
    if counts.check_errors:
        parts.append(f"qemu-img check finds {counts.check_errors} errors or leaks")
    if counts.failure is not None:
        parts.append(f"the run did not end: {counts.failure}")
    return "; ".join(parts)
