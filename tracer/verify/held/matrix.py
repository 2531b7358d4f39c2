"""Strategies x behaviours of fallocate x cases, on one held disk."""

import os

from blockstack.strategies import CONTROL, STRATEGIES
from tracer.lab.held import HeldDisk
from tracer.verify.cell import Cell
from tracer.verify.held.cases import CASES
from tracer.verify.held.cell import run_cell
from tracer.verify.held.ground import prepare
from tracer.verify.informed import informed
from tracer.verify.matrix import Progress, Report, overall
from tracer.verify.options import Options


def run(options: Options, progress: Progress) -> Report:
    """Run every cell, each case behind its control. Raises UsageError, UnsupportedError, HeldDiskError."""
    told: list[str] = []
    protecting = [strategy for strategy in informed(options, told) if strategy.name != CONTROL]
    columns = [(fallocate, case) for fallocate in options.fallocates for case in CASES]
    cells: list[Cell] = []
    with prepare(options) as held:
        for fallocate, case in columns:
            control: Cell | None = None
            for strategy in (STRATEGIES[CONTROL], *protecting):
                total = len(columns) * (1 + len(protecting))
                progress.started(strategy.name, f"{fallocate}, {case.name}", len(cells) + 1, total)
                try:
                    cell = run_cell(held, case, strategy, fallocate, control)
                except OSError:
                    _check(held.disk)
                    raise
                if cell.counts.failure is not None:
                    _check(held.disk)
                control = control or cell
                cells.append(cell)
                progress.acknowledged(1)
                progress.finished(cell)
                cell.ops = cell.ops[:0].copy()
        notes = [*told, *held.ground.notes]
    return Report(options, os.uname().release, cells, notes, cells[0].mechanisms, cells[0].gaps, overall(cells))


def _check(disk: HeldDisk) -> None:
    """Raise HeldDiskError if the disk has died: then that is the cause of whatever else went wrong."""
    with disk.hold(disk.marker()):
        pass
