"""Runs the matrix, strategies x fallocate behaviours, each column behind its control; and what it all means."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blockstack.guest import make_plan
from blockstack.strategies import CONTROL, STRATEGIES
from tracer.analysis.hazards import Verdict
from tracer.analysis.verdict import Judgement, worst
from tracer.errors import Status, UsageError
from tracer.verify.cell import Cell, run_cell
from tracer.verify.ground import prepare
from tracer.verify.informed import informed
from tracer.verify.options import Options
from tracer.verify.qemu import cell as qemu


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run."""

    options: Options
    kernel: str
    cells: list[Cell]
    notes: list[str]
    mechanisms: dict[str, str]
    gaps: dict[str, str]
    overall: Judgement

    @property
    def status(self) -> Status:
        """Exit status of the command."""
        return self.overall.verdict.status


@dataclass(frozen=True, slots=True)
class Progress:
    """Told while a run goes on."""

    started: Callable[[str, str, int, int], None]
    """(strategy, fallocate and case, number of the cell from 1, cells in all)."""
    acknowledged: Callable[[int], None]
    """Guest writes acknowledged so far in this cell."""
    finished: Callable[[Cell], None]


def run(options: Options, progress: Progress) -> Report:
    """Run every cell. Raises UsageError, UnsupportedError."""
    try:
        plan = make_plan(options.seed, options.writes, options.cluster_size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    told: list[str] = []
    protecting = [strategy for strategy in informed(options, told) if strategy.name != CONTROL]
    total = len(options.fallocates) * (1 + len(protecting)) + 2 * len(options.qemus)
    cells: list[Cell] = []
    with prepare(options, plan) as ground:
        for fallocate in options.fallocates:
            control: Cell | None = None
            for strategy in (STRATEGIES[CONTROL], *protecting):
                progress.started(strategy.name, fallocate, len(cells) + 1, total)
                cell = run_cell(ground, plan, strategy, fallocate, control, progress.acknowledged)
                control = control or cell
                cells.append(cell)
                progress.finished(cell)
                cell.ops = cell.ops[:0].copy()  # a long run would keep millions of them otherwise
            assert control is not None
            for build in options.qemus:
                shown = [control]
                for misled in (True, False):
                    progress.started(qemu.name(build, misled=misled), fallocate, len(cells) + 1, total)
                    controls = () if misled else tuple(shown)
                    cell = qemu.run_cell(ground, plan, build, controls, progress.acknowledged)
                    if misled and qemu.nothing_to_mislead(cell):
                        continue
                    shown.append(cell)
                    cells.append(cell)
                    progress.finished(cell)
                    cell.ops = cell.ops[:0].copy()
        return Report(
            options,
            os.uname().release,
            cells,
            [*told, *ground.notes],
            cells[0].mechanisms,
            cells[0].gaps,
            overall(cells),
        )


def overall(cells: list[Cell]) -> Judgement:
    """The worst of the protecting cells; inconclusive if a control shows nothing.

    A cell that leaves the order to the kernel protects nothing by itself: it counts only if something was lost.
    """
    silent = [cell for cell in cells if cell.is_control and cell.judgement.verdict is Verdict.INCONCLUSIVE]
    others = [cell for cell in cells if not cell.is_control]
    relying = [cell for cell in others if cell.relies_on_kernel and cell.judgement.verdict is not Verdict.CORRUPT]
    protecting = [cell for cell in others if cell not in relying]
    verdict = worst([cell.judgement.verdict for cell in protecting])
    if silent and verdict is Verdict.CONFIRMED:
        verdict = Verdict.INCONCLUSIVE
    if verdict is not Verdict.CONFIRMED:
        guilty = [cell for cell in (*protecting, *silent) if cell.judgement.verdict is verdict]
        return Judgement(verdict, f"{verdict}: {'; '.join(cell.name for cell in guilty)}")
    left = f"; {len(relying)} left the order to the kernel, which the probe says is safe" if relying else ""
    if not protecting:
        return Judgement(
            verdict, f"the control shows the hazard; no protecting strategy was run, and nothing is claimed{left}"
        )
    shown = "1 protecting cell" if len(protecting) == 1 else f"{len(protecting)} protecting cells"
    return Judgement(verdict, f"{shown} confirmed, and every control shows the hazard{left}")


def to_json(report: Report, host: dict[str, Any]) -> dict[str, Any]:
    """The run in the schema `eofrace.verify/1` (design.md), with fields of its own beside the documented ones."""
    return {
        "schema": "eofrace.verify/1",
        "host": host,
        "seed": report.options.seed,
        "writes": report.options.writes,
        "cluster_size": report.options.cluster_size,
        "notes": report.notes,
        "mechanisms": report.mechanisms,
        "gaps": report.gaps,
        "cells": [cell_json(cell, report.kernel) for cell in report.cells],
        "verdict": report.overall.verdict.value,
        "reason": report.overall.reason,
    }


def cell_json(cell: Cell, kernel: str) -> dict[str, Any]:
    """One cell of it."""
    counts = cell.counts
    delay = cell.block_io_delay_ns
    return {
        "name": cell.name,
        "strategy": cell.strategy,
        "format": cell.format,
        "variant": cell.variant,
        "fs": cell.fs,
        "aio": cell.aio,
        "fallocate": cell.fallocate,
        "case": cell.case,
        "kernel": kernel,
        "evidence": cell.evidence,
        "guest_writes": cell.guest_writes,
        "zero_writes": cell.zero_writes,
        "post_eof_fallocates": cell.post_eof_fallocates,
        "conflicts": counts.conflicts,
        "exposed": counts.exposed,
        "kernel_serialised": counts.kernel_serialised,
        "lost": counts.lost,
        "lost_events": counts.dropped,
        "unfinished": counts.unfinished,
        "unaccounted": counts.unaccounted,
        "lost_bytes": counts.lost_bytes,
        "lost_bytes_traced": counts.lost_bytes_traced,
        "corrupt_clusters": counts.corrupt_clusters,
        "waits": cell.waits,
        "min_gap_ns": cell.min_gap_ns,
        "held_ms": cell.held_ms,
        "verdict": cell.judgement.verdict.value,
        "reason": cell.judgement.reason,
        "trace": cell.trace,
        "qemu_img_check": cell.qemu_img_check,
        "block_io_delay_ns": None if delay is None else {str(tid): spent for tid, spent in delay.items()},
        "notes": cell.notes,
        "relies_on_kernel": cell.relies_on_kernel,
        "driver": cell.driver,
        "qemu": cell.qemu,
        "control": cell.is_control,
        "beside": cell.beside,
        "rounds": [one.to_json() for one in cell.rounds],
    }
