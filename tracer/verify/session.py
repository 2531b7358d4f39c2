"""One run of the command: progress while it works, then the table, the traces and the JSON."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracer import host, trace
from tracer.errors import Status
from tracer.output import JsonFile, atomic_output, check_writable, json_text, write_text
from tracer.report.console import plain
from tracer.report.source import VERIFY
from tracer.report.verify_live import Told, shown
from tracer.report.verify_text import print_report
from tracer.trace_meta import TraceMeta
from tracer.verify import matrix
from tracer.verify.cell import Cell
from tracer.verify.formats import matrix as formats_matrix
from tracer.verify.held import matrix as held_matrix
from tracer.verify.kept import earlier_traces
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
        self._traces = contextlib.ExitStack()
        """Traces that are written, and get their names when the run has ended: one that fails replaces nothing."""

    def run(self) -> Status:
        """Returns the exit status. Raises EofraceError."""
        self._host = host.facts_json()
        if self._output is not None:
            check_writable(self._output / VERIFY)
        with self._traces:
            with shown(self._options.steps, quiet=self._quiet, verbose=self._verbose) as told:
                if self._options.format != "qcow2":
                    run = formats_matrix.run
                else:
                    run = held_matrix.run if self._options.held else matrix.run
                report = run(self._options, self._progress(told))
            document = matrix.to_json(report, self._host)
            if self._output is not None:
                self._replace(self._output, document)
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

    def _replace(self, output: Path, document: Mapping[str, Any]) -> None:
        """Put the run's evidence where an earlier one's may be, of which nothing is left."""
        earlier = earlier_traces(output)
        # It says nothing of the traces that take the place of those that it lists.
        (output / VERIFY).unlink(missing_ok=True)
        mine = {cell["trace"] for cell in document["cells"]}
        for path in earlier:
            if str(path) not in mine:
                path.unlink(missing_ok=True)
        self._traces.close()
        write_text(output / VERIFY, json_text(document))
        if earlier and not self._quiet:
            count = "1 trace" if len(earlier) == 1 else f"{len(earlier)} traces"
            print(f"eofrace: replaces the evidence of an earlier run: {count}", file=sys.stderr, flush=True)

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
        trace.write(self._traces.enter_context(atomic_output(path)), cell.ops, meta)
        cell.trace = str(path)
