"""One cell of a held run: all rounds of a case on one image, judged. The schedule is chosen: one conflict is enough."""

from collections.abc import Set
from dataclasses import replace

import numpy as np

from blockstack.fallocate import RACY
from blockstack.journal import GUEST_SHIFT, Journal
from blockstack.strategies import Strategy
from tracer.analysis.conflicts import guest_pairs, together, waited
from tracer.analysis.hazards import Verdict
from tracer.analysis.rules import Outcome, RulePairs
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.analysis.verdict import Counts, Judgement, judge
from tracer.lab.scratch import AnonymousFile
from tracer.operations import Operations
from tracer.verify.cell import Cell, count, made, zero_writes_of
from tracer.verify.held.cases import Case
from tracer.verify.held.gate import ChosenGate
from tracer.verify.held.ground import HeldGround
from tracer.verify.held.guest import Guest
from tracer.verify.held.rounds import Round, Stage, play_round
from tracer.verify.play import Run, delays, leave, opened, play_image

Pairs = Set[tuple[int, int]]
"""Pairs of guest requests."""


def run_cell(held: HeldGround, case: Case, strategy: Strategy, fallocate: str, control: Cell | None) -> Cell:
    """Play and judge one cell. `control` is the control's cell of the same case, None for the control itself."""
    ground = held.ground
    rounds: list[Round] = []
    acknowledged = 0

    async def drive(image: AnonymousFile, journal: Journal) -> Run:
        nonlocal acknowledged
        before = delays()
        gate = ChosenGate()
        async with opened(ground, image, strategy, fallocate, journal, gate) as disk:
            guest = Guest(disk, case.cluster_size, journal)
            stage = Stage(disk, held.disk, gate, guest, journal, strategy)
            await guest.write(guest.fresh(case.cluster_size))  # makes the first L2 table
            await disk.flush()
            for order in case.orders:
                await case.prepare(disk, guest)
                rounds.append(Round(order))
                await play_round(stage, case, order, rounds[-1])
                await disk.flush()
            acknowledged = guest.acknowledged
            return await leave(disk, guest.oracle, before)

    played = play_image(ground, case.size, case.cluster_size, drive)
    ops = played.evidence.ops
    found = RULE.pairs(ops)
    conflicts = waited(ops)
    wanted = frozenset(one.pair for one in rounds)
    exposed = guest_pairs(ops, found)
    if control is None:
        exercised = len(wanted & exposed)
    elif zero_writes_of(ops):
        kept_apart = {(int(zero), int(write)) for zero, write in conflicts >> np.uint64(GUEST_SHIFT)}
        exercised = len(wanted & kept_apart)
    else:
        exercised = together(ops, wanted)
    counts = count(played, found.outcome.tolist(), exercised)
    played.acknowledged = acknowledged
    judgement = _judge(counts, case, rounds, fallocate, exposed, _lost(ops, found), control)
    cell = made(ground, strategy, fallocate, played, found, conflicts, counts, judgement)
    held_ns = sum(one.held_ns for one in rounds)
    held_ms = round(held_ns / 1e6, 3) if held_ns else None
    return replace(cell, case=case.name, held_ms=held_ms, rounds=rounds)


def _lost(ops: Operations, found: RulePairs) -> Pairs:
    lost = found.outcome == Outcome.LOST
    return guest_pairs(ops, RulePairs(found.first[lost], found.second[lost], found.outcome[lost]))


def _judge(
    counts: Counts, case: Case, rounds: list[Round], fallocate: str, exposed: Pairs, lost: Pairs, control: Cell | None
) -> Judgement:
    """As any cell, but that each round counts, and that each has to be had."""
    may_lose = fallocate in RACY
    judgement = judge(
        counts,
        is_control=control is None,
        may_lose=may_lose,
        control=None if control is None else control.judgement,
        control_exposed=0 if control is None else control.counts.conflicts,
        enough=len(case.orders),
    )
    problems = [f"{one.order}: {one.problem}" for one in rounds if one.problem]
    courses = [f"{one.order}: {one.course}" for one in rounds if one.course]
    told = "; ".join([judgement.reason, *problems, *courses])
    if judgement.verdict is Verdict.INCONCLUSIVE:
        return Judgement(judgement.verdict, told)
    if control is None:
        shown, word = (lost, "lost nothing") if may_lose else (exposed, "exposed nothing")
        silent = [one.order.value for one in rounds if one.pair not in shown]
        if problems or silent:
            return Judgement(Verdict.INCONCLUSIVE, "; ".join([f"the control {word} in: {', '.join(silent)}", told]))
        if may_lose and case.guest_data and not counts.lost_bytes:
            return Judgement(Verdict.INCONCLUSIVE, f"the trace shows a loss that the oracle does not see; {told}")
    return Judgement(judgement.verdict, told)
