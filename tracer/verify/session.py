"""One run of the command: progress while it works, then the table, the traces and the JSON."""

import os
import sys
from pathlib import Path
from typing import Any

from tracer import host, trace
from tracer.errors import Status
from tracer.output import JsonFile, atomic_output, json_text, write_text
from tracer.report.console import plain
from tracer.report.verify_live import Told, shown
from tracer.report.verify_text import print_report
from tracer.trace_meta import TraceMeta
from tracer.verify import matrix
from tracer.verify.cell import Cell
from tracer.verify.formats import matrix as formats_matrix
from tracer.verify.held import matrix as held_matrix
from tracer.verify.options import Options


class Session:
    """Runs `options` and puts the results where they are wanted."""

    def __init__(self, options: Options, output: Path | None, into: JsonFile, *, verbose: bool, quiet: bool) -> None:
        self._options = options
        self._output = output
        self._into = into
        self._verbose = verbose
        self._quiet = quiet
        self._host: dict[str, Any] = {}

    def run(self) -> Status:
        """Returns the exit status. Raises EofraceError."""
        self._host = host.facts_json()
        if self._output is not None:
            # What is there from another run says nothing of the traces that this one is about to replace.
            (self._output / "verify.json").unlink(missing_ok=True)
        with shown(self._options.steps, quiet=self._quiet, verbose=self._verbose) as told:
            if self._options.format != "qcow2":
                run = formats_matrix.run
            else:
                run = held_matrix.run if self._options.held else matrix.run
            report = run(self._options, self._progress(told))
        document = matrix.to_json(report, self._host)
        if self._output is not None:
            write_text(self._output / "verify.json", json_text(document))
        if not self._quiet:
            # JSON on stdout has it for itself.
            print_report(report, plain(stderr=self._into.is_stdout), verbose=self._verbose)
        self._into.write(document)
        return report.status

    def _progress(self, told: Told) -> matrix.Progress:
        def finished(cell: Cell) -> None:
            self._save(cell)
            told.finished(cell.name, matrix.cell_json(cell, os.uname().release))

        return matrix.Progress(told.started, lambda _: told.acknowledged(), finished)

    def _save(self, cell: Cell) -> None:
        """Write the cell's trace, if traces are kept."""
        if self._output is None:
            return
        words = [cell.strategy, cell.fallocate, *([cell.case] if cell.case else [])]
        if cell.format != "qcow2":
            words = [cell.format, *words, *([cell.variant.replace(" ", "-")] if cell.variant else [])]
        path = self._output / f"{'-'.join(words)}.parquet"
        meta = TraceMeta(
            host=self._host,
            mechanisms=cell.mechanisms,
            gaps=cell.gaps,
            dropped=cell.counts.dropped,
            unfinished=cell.counts.unfinished,
            command=tuple(sys.argv),
            seed=None if self._options.held else self._options.seed,
            strategy=cell.strategy,
            fs=cell.fs,
            aio=cell.aio,
            fallocate=cell.fallocate,
            evidence=cell.evidence,
        )
        with atomic_output(path) as file:
            trace.write(file, cell.ops, meta)
        cell.trace = str(path)
