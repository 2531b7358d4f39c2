"""A cell of a QEMU build: misled, as a control, or as it is.

Two controls stand before a build's verdict. blockstack's `none` shows what the plan exposes on this ground; the build
itself, misled about the length of the file, shows that *its* zero-writes and data writes meet in the kernel and that
the trace sees it, with nothing changed but that it does not know them for post-EOF.
"""

from collections.abc import Callable, Sequence

import numpy as np

from blockstack.guest import Plan
from tracer.analysis.conflicts import guest_pairs, min_gap_ns, together
from tracer.analysis.hazards import Verdict
from tracer.analysis.rules.post_eof_fallocate import RULE, post_eof_fallocates
from tracer.analysis.verdict import Counts, Judgement, judge
from tracer.operations import Op
from tracer.verify.cell import Cell, count
from tracer.verify.ground import Ground
from tracer.verify.others import by_other_rules
from tracer.verify.qemu.daemon import Build
from tracer.verify.qemu.evidence import beside, kept_apart
from tracer.verify.qemu.play import play

FALLOCATE = "kernel"
"""The only column there is: nothing stands between QEMU and its system calls."""

ENOUGH_MISLED = 5
"""Fallocates that a misled build has to expose: one that orders nothing would then expose none by chance in e^-5 of
all runs (0.7 %). Fallocates, not pairs: a slow one meets many writes at once.

How much a strategy may let through unseen is blockstack's control to say, as everywhere.
"""


def name(build: Build, *, misled: bool) -> str:
    """What the row is called."""
    return f"misled-{build.label}" if misled else build.label


def run_cell(
    ground: Ground, plan: Plan, build: Build, controls: Sequence[Cell], progress: Callable[[int], None]
) -> Cell:
    """Play and judge one cell. `controls`: blockstack's, and the misled build's if it has zero-writes; without any, the
    build is misled.
    """
    misled = not controls
    played = play(ground, plan, build, progress, misled=misled)
    ops = played.evidence.ops
    found = RULE.pairs(ops)
    zero_writes = int(((ops["op"] == Op.FALLOCATE) & (ops["result"] == 0)).sum())
    wanted = frozenset[tuple[int, int]]().union(*(cell.pairs for cell in controls))
    apart = kept_apart(ops, wanted)
    exercised = len(found.first) if misled else len(apart.conflicts) if zero_writes else together(ops, wanted)
    counts = count(played, found.outcome.tolist(), exercised)
    gap = min_gap_ns(ops, np.empty((0, 2), np.uint64), found)
    readback = played.readback
    return Cell(
        strategy=name(build, misled=misled),
        fallocate=FALLOCATE,
        fs=ground.scratch.fs,
        aio=ground.aio,
        evidence=ground.evidence,
        guest_writes=played.acknowledged,
        zero_writes=zero_writes,
        post_eof_fallocates=int(post_eof_fallocates(ops).sum()),
        waits=apart.waited,
        min_gap_ns=min((one for one in (gap, apart.min_gap_ns) if one is not None), default=None),
        counts=counts,
        judgement=_judge(counts, controls, zero_writes=zero_writes > 0),
        ops=ops,
        mechanisms=ground.mechanisms,
        gaps=ground.gaps,
        pairs=guest_pairs(ops, found),
        block_io_delay_ns=None,
        qemu_img_check=None if readback is None else readback.check,
        notes=[
            *played.notes,
            *([] if readback is None else readback.notes),
            *by_other_rules(ops, name(build, misled=misled), ground.evidence),
        ],
        driver="qemu",
        qemu=build.version,
        control=misled,
        beside=beside(ops),
        exposing=len(np.unique(found.first)),
    )


def nothing_to_mislead(cell: Cell) -> bool:
    """Whether a misled build's cell shows that it zero-writes nothing: blockstack's control has to do then."""
    counts = cell.counts
    whole = counts.failure is None and not (counts.dropped or counts.unfinished or counts.unaccounted)
    return whole and not cell.zero_writes


def _judge(counts: Counts, controls: Sequence[Cell], *, zero_writes: bool) -> Judgement:
    if not controls:
        return judge(counts, is_control=True, may_lose=False)
    blockstack, *misled = controls
    judgement = judge(
        counts,
        is_control=False,
        may_lose=False,
        control=blockstack.judgement,
        control_exposed=blockstack.counts.exposed,
    )
    if judgement.verdict is not Verdict.CONFIRMED:
        return judgement
    if zero_writes and not misled:
        return Judgement(Verdict.INCONCLUSIVE, "the build zero-writes, and had no zero-writes when it was misled")
    for control in misled:
        name = f"{control.strategy}, its own control,"
        if control.judgement.verdict not in (Verdict.UNSAFE, Verdict.CORRUPT):
            return Judgement(Verdict.INCONCLUSIVE, f"{name} shows nothing: {control.judgement.reason}")
        if control.exposing < ENOUGH_MISLED:
            return Judgement(
                Verdict.INCONCLUSIVE,
                f"{name} exposed only {control.exposing} of the {ENOUGH_MISLED} fallocates it takes: raise --writes",
            )
    return judgement
