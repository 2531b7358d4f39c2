"""One run of the command: progress while it works, then the table, the traces and the JSON."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from tracer import host, trace
from tracer.errors import Status
from tracer.output import atomic_output, write_text
from tracer.report.console import Console
from tracer.report.verify_text import WIDTH, print_report
from tracer.trace_meta import TraceMeta
from tracer.verify import matrix
from tracer.verify.cell import Cell
from tracer.verify.formats import matrix as formats_matrix
from tracer.verify.held import matrix as held_matrix
from tracer.verify.options import Options


class Session:
    """Runs `options` and puts the results where they are wanted."""

    def __init__(
        self, options: Options, output: Path | None, json_file: str | None, *, verbose: bool, quiet: bool
    ) -> None:
        self._options = options
        self._output = output
        self._json_file = json_file
        self._verbose = verbose
        self._quiet = quiet
        self._host: dict[str, Any] = {}

    def run(self) -> Status:
        """Returns the exit status. Raises EofraceError."""
        self._host = host.facts_json()
        with self._progress() as progress:
            if self._options.format != "qcow2":
                run = formats_matrix.run
            else:
                run = held_matrix.run if self._options.held else matrix.run
            report = run(self._options, progress)
        text = json.dumps(matrix.to_json(report, self._host), indent=1, allow_nan=False) + "\n"
        if self._output is not None:
            write_text(self._output / "verify.json", text)
        if not self._quiet:
            # JSON on stdout has it for itself.
            print_report(report, _console(stderr=self._json_file == "-"), verbose=self._verbose)
        if self._json_file is not None:
            write_text(self._json_file, text)
        return report.status

    @contextlib.contextmanager
    def _progress(self) -> Iterator[matrix.Progress]:
        console = Console(stderr=True)
        if self._quiet:
            yield matrix.Progress(lambda *_: None, lambda _: None, self._save)
        elif console.is_terminal:
            with self._bar(console) as progress:
                yield progress
        else:
            yield matrix.Progress(lambda *_: None, lambda _: None, self._tell)

    @contextlib.contextmanager
    def _bar(self, console: Console) -> Iterator[matrix.Progress]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task("preparing", total=None)

            def started(strategy: str, fallocate: str, number: int, total: int) -> None:
                steps = self._options.steps
                bar.update(
                    task,
                    description=f"[{number}/{total}] {strategy} x {fallocate}".replace("[", r"\["),
                    total=total * steps,
                    completed=(number - 1) * steps,
                )

            def acknowledged(_: int) -> None:
                bar.advance(task)

            yield matrix.Progress(started, acknowledged, self._save)

    def _tell(self, cell: Cell) -> None:
        self._save(cell)
        print(f"{cell.name}: {cell.judgement.verdict}", file=sys.stderr, flush=True)

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


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    # Never narrower than the table: rich would cut its words off.
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=max(WIDTH, console.width))
