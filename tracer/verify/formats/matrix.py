"""Runs every case of a format, each behind its control, in every column; and what it all means."""

import os

from blockstack.strategies import CONTROL, STRATEGIES
from tracer.verify.cell import Cell
from tracer.verify.formats.cell import run_subject
from tracer.verify.formats.registry import SUBJECTS
from tracer.verify.ground import prepare
from tracer.verify.informed import informed
from tracer.verify.matrix import Progress, Report, overall
from tracer.verify.options import Options


def run(options: Options, progress: Progress) -> Report:
    """Run every cell. Raises UsageError, UnsupportedError."""
    pairs = SUBJECTS[options.format]
    plans = [subject.plan(options) for _, subject in pairs]
    total = len(options.fallocates) * len(pairs) * (1 + len(options.strategies))
    told: list[str] = []
    strategies = informed(options, told)
    cells: list[Cell] = []
    with prepare(options, max(plans, key=lambda plan: plan.size)) as ground:
        for fallocate in options.fallocates:
            for broken, subject in pairs:
                control: Cell | None = None
                rows = [(broken, STRATEGIES[CONTROL]), *((subject, strategy) for strategy in strategies)]
                for what, strategy in rows:
                    progress.started(options.format, fallocate, len(cells) + 1, total)
                    cell = run_subject(ground, options, what, strategy, fallocate, control, progress.acknowledged)
                    control = control or cell
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
