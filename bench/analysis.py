"""`python -m bench analysis`: what judging a trace takes, against DuckDB's range join on the same files."""

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bench import CONFIDENCE, traces
from tracer.bench.statistics import estimate
from tracer.errors import EofraceError, UnsupportedError
from tracer.lab.scratch import default_directory
from tracer.output import JsonFile
from tracer.report.console import wide
from tracer.report.escape import printable

SCHEMA = "eofrace.bench-analysis/1"
MIB = 1 << 20
_SMALL, _LARGE = 10_200_000, 100_000_000
_RULE = "post-eof-fallocate"
_EOFRACE = [sys.executable, "-c", "from tracer.commands import main; main()"]

# The rule's pairs, with none of what the engine knows of them.
_PEER = """
import json, sys, duckdb
duckdb.sql("set enable_progress_bar = false")
print(duckdb.sql(f'''
    with ops as (
        select *, coalesce(seq_end, 18446744073709551615) as until from read_parquet('{sys.argv[1]}/*.parquet')
    )
    select count(*) from ops f join ops w on f.dev = w.dev and f.ino = w.ino
        and f.seq_begin <= w.until and w.seq_begin <= f.until and w."offset" + w.length > f."offset" + f.length
    where f.op = 'fallocate' and (f.result = 0 or f.seq_end is null) and f.flags & 1 = 0
        and f."offset" + f.length > f.size_begin
        and w.op in ('aio_write', 'uring_write', 'direct_write', 'buffered_write')
        and (w.result > 0 or w.seq_end is null)
''').fetchall()[0][0])
"""

_EPILOG = """\b
Examples:
  python -m bench analysis                       all rows: 3 GB in the temporary directory, an hour on two cores
  python -m bench analysis --dir /scratch --rounds 1
  python -m bench analysis --part 0.02 --json -  a fiftieth of the operations

\b
Exit status: 0 every row is reached, 1 one is not, 4 this host cannot do it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of either side."""

    seconds: float
    pairs: int
    mib: float
    """Anonymous memory of all its processes together, at the most."""
    first: float | None = None
    """Seconds until the first hazard was told."""


@click.command(epilog=_EPILOG)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Of each, interleaved.")
@click.option("--part", type=click.FloatRange(0.001, 1), default=1.0, help="Judge only this part of the operations.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="For the traces.  [default: /tmp]")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
def analysis(rounds: int, part: float, directory: Path | None, json_file: str | None) -> None:
    """10 million writes and 200,000 fallocates on 64 files: `eofrace analyze --rule post-eof-fallocate`, and DuckDB.

    Then ten times as many operations, without DuckDB, and those with one write in flight all the time. A ratio to
    DuckDB of 10 is ten times as fast; both read the same Parquet files, and must find the same number of pairs.
    """
    into = JsonFile(json_file)
    small, large = (int(part * count) + 1 for count in (_SMALL, _LARGE))  # so that the last part is not empty
    where = default_directory() if directory is None else directory
    room, needed = shutil.disk_usage(where).free, (small + large) * traces.BYTES
    if room < needed:
        raise UnsupportedError(
            f"{printable(str(where))}: {needed >> 20} MiB are needed: free some, or name another --dir"
        )
    with tempfile.TemporaryDirectory(prefix="eofrace-bench-", dir=where) as name:
        paths = [Path(name) / kind for kind in ("small", "large", "lasting")]
        traces.record(paths[0], small, 1)
        traces.record(paths[1], large, 2)
        traces.with_one_that_lasts(paths[2], paths[1])
        peer: list[Run] = []
        ours: dict[Path, list[Run]] = {path: [] for path in paths}
        for number in range(rounds):
            sides = [lambda: peer.append(_peer(paths[0])), *(_side(path, ours[path]) for path in paths)]
            for step in range(len(sides)):
                sides[(number + step) % len(sides)]()
    rows = _rows(peer, *ours.values(), operations=(small, large))
    into.write({"schema": SCHEMA, "rounds": rounds, "part": part, "rows": rows})
    if not into.is_stdout:
        table = Table("figure", "measured", "wanted", "")
        for row in rows:
            wanted = "" if row["wanted"] is None else f"{row['sign']} {row['wanted']:g} {row['unit']}"
            verdict = "" if row["reached"] is None else "reached" if row["reached"] else "not reached"
            table.add_row(row["figure"], f"{row['measured']:.2f} {row['unit']}", wanted, verdict)
        wide(120, stderr=False).print(table)
    sys.exit(0 if all(row["reached"] is not False for row in rows) else 1)


def _side(path: Path, runs: list[Run]) -> Any:
    return lambda: runs.append(_ours(path))


def _rows(
    peer: list[Run], small: list[Run], large: list[Run], lasting: list[Run], *, operations: tuple[int, int]
) -> list[dict[str, Any]]:
    if len({run.pairs for run in peer + small}) != 1:
        raise EofraceError("DuckDB and eofrace do not find the same pairs: one of them is wrong")
    found = estimate([run.seconds for run in peer], [run.seconds for run in small], CONFIDENCE)
    median = statistics.median
    each = [median(run.seconds for run in runs) / n for runs, n in zip((small, large), operations, strict=True)]
    longer = [one.seconds / other.seconds for one, other in zip(lasting, large, strict=True)]
    rows: list[tuple[str, float, str, str, float | None]] = [
        ("pairs exposed, found by both", small[0].pairs, "", "", None),
        ("ratio to DuckDB (read_parquet, range join)", found.ratio, "x", ">=", 10.0),
        ("lower end of its 90 % interval", found.low, "x", "", None),
        ("DuckDB", median(run.seconds for run in peer), "s", "", None),
        ("analyze, small trace", median(run.seconds for run in small), "s", "", None),
        ("memory, small trace", max(run.mib for run in small), "MiB", "<=", 1536.0),
        ("memory of DuckDB", max(run.mib for run in peer), "MiB", "", None),
        ("analyze, large trace", median(run.seconds for run in large), "s", "", None),
        ("time per operation, large trace to small one", each[1] / each[0], "x", "<=", 1.25),
        ("memory, large trace", max(run.mib for run in large), "MiB", "<=", 2048.0),
        ("the same with one write in flight all the time", median(longer), "x", "<=", 1.3),
        ("memory, with that one", max(run.mib for run in lasting), "MiB", "<=", 2048.0),
        ("first hazard, small trace", max(run.first or 0 for run in small), "s", "<=", 1.0),
        ("first hazard, large trace", max(run.first or 0 for run in large + lasting), "s", "<=", 1.0),
    ]
    return [
        {
            "figure": figure,
            "measured": measured,
            "unit": unit,
            "sign": sign,
            "wanted": wanted,
            "reached": None if wanted is None else measured >= wanted if sign == ">=" else measured <= wanted,
        }
        for figure, measured, unit, sign, wanted in rows
    ]


def _peer(path: Path) -> Run:
    begin = time.monotonic()
    command = [sys.executable, "-c", _PEER, str(path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        _sampled(process.pid) as used,
    ):
        printed, _ = process.communicate()
    if process.returncode:
        raise EofraceError("DuckDB failed: see above")
    return Run(time.monotonic() - begin, int(printed), max(used) / MIB)


def _ours(path: Path) -> Run:
    begin = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [*_EOFRACE, "analyze", "--rule", _RULE, "--json", file.name, str(path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            with _sampled(process.pid) as used:
                said = process.stderr.readline()
                first = time.monotonic() - begin
                rest = process.stderr.read()
                process.wait()
        seconds = time.monotonic() - begin
        if process.returncode not in (0, 1) or not said.startswith("found: "):
            raise EofraceError(f"eofrace analyze failed: {said}{rest}")
        report = json.loads(Path(file.name).read_text())
    return Run(seconds, report["counts"][_RULE]["exposed"], max(used) / MIB, first)


@contextlib.contextmanager
def _sampled(pid: int) -> Iterator[list[int]]:
    """Anonymous memory in bytes of a process and its children, twenty times a second."""
    found = [0]
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            found.append(sum(_anonymous(one) for one in (pid, *_children(pid))))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
    return found


def _anonymous(pid: int) -> int:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))
    return 0
