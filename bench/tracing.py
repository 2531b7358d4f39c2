"""`python -m bench tracing`: what `eofrace trace` and `watch` cost a load, against the same load alone."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from tracer.bench.statistics import ROUNDS, estimate
from tracer.commands.trace import RECORDING
from tracer.commands.watch import WATCHING
from tracer.errors import EofraceError
from tracer.lab import children
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.output import JsonFile
from tracer.report.console import wide

SCHEMA = "eofrace.bench-tracing/1"
MIB = 1 << 20
_STRACE_ROUNDS = ROUNDS
_CONFIDENCE = 0.95
RING_MIB = 16
"""The default of `eofrace trace --ring-size`."""

_EOFRACE = [sys.executable, "-c", "from tracer.commands import main; main()"]
_LOAD = ["--rw=randwrite", "--bs=4k", "--size=256m", "--ioengine=libaio", "--iodepth=32", "--direct=1"]
_FAST = ["--rw=write", "--bs=4k", "--size=64m", "--ioengine=psync", "--numjobs=2", "--rate_iops=75000"]

_EPILOG = """\b
Examples:
  python -m bench tracing                        all rows, on a scratch XFS; needs root, fio and strace
  python -m bench tracing --rounds 138 --json -  a narrow interval, in half an hour

\b
Exit status: 0 every row is reached, 1 one is not, 4 this host cannot do it."""


@dataclass(slots=True)
class Traced:
    """Figures of one traced run."""

    iops: float
    operations: int
    dropped: int
    cpu: float  # of one core, while the load ran
    bytes_per_operation: float
    mib: float  # most anonymous memory, and the ring
    growth_mib: float  # anonymous memory at the end less that in the middle
    attached: float  # seconds from the start of the process


@dataclass(slots=True)
class Watched:
    """Figures of one watched run."""

    iops: float
    operations: int
    lost: int
    cpu: float  # of one core, while the load ran


@dataclass(slots=True)
class Rounds:
    """IOPS of each round, untraced and under strace, and the figures of the traced and watched runs."""

    plain: list[float] = field(default_factory=list)
    traced: list[Traced] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    strace: list[float] = field(default_factory=list)


@click.command(epilog=_EPILOG)
@click.option("--rounds", type=click.IntRange(1, 1000), default=27, show_default=True, help="Of each, interleaved.")
@click.option("--seconds", type=click.IntRange(1, 3600), default=3, show_default=True, help="Of one run.")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
def tracing(rounds: int, seconds: int, json_file: str | None) -> None:
    """4 KiB random writes of fio (libaio, depth 32, XFS on loop): alone, under `eofrace trace`, `watch`, strace."""
    into = JsonFile(json_file)
    found = Rounds()
    with loop_scratch("xfs", 1024 * MIB, default_directory()) as scratch:
        file = scratch.path / "load"
        _fio(file, ["--rw=write", "--bs=1m", "--size=256m", "--direct=1"], None)
        timed = [*_LOAD, "--time_based", f"--runtime={seconds}"]
        sides: list[Callable[[], None]] = [
            lambda: found.plain.append(_fio(file, timed, None)),
            lambda: found.traced.append(_traced(file, timed)),
            lambda: found.watched.append(_watched(file, timed)),
        ]
        for number in range(rounds):
            for step in range(len(sides)):
                sides[(number + step) % len(sides)]()
            if number < _STRACE_ROUNDS:
                found.strace.append(_fio(file, timed, "strace"))
        fast = _traced(scratch.path / "fast", [*_FAST, "--time_based", f"--runtime={seconds}"])
    rows = _rows(found, fast)
    into.write({"schema": SCHEMA, "rounds": rounds, "rows": rows})
    if not into.is_stdout:
        table = Table("figure", "measured", f"{_CONFIDENCE:.0%} interval", "at most", "")
        for row in rows:
            most = "" if row["at_most"] is None else f"{row['at_most']:g} {row['unit']}"
            verdict = "" if row["reached"] is None else "reached" if row["reached"] else "not reached"
            between = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
            table.add_row(row["figure"], f"{row['measured']:.2f} {row['unit']}", between, most, verdict)
        wide(110, stderr=False).print(table)
    sys.exit(0 if all(row["reached"] is not False for row in rows) else 1)


def _rows(found: Rounds, fast: Traced) -> list[dict[str, Any]]:
    lost = {
        "trace": _lost([one.iops for one in found.traced], found.plain),
        "watch": _lost([one.iops for one in found.watched], found.plain),
        "strace -f -e trace=io_submit,io_getevents": _lost(found.strace, found.plain),
    }
    median = statistics.median
    rows: list[tuple[str, float, str, float | None]] = [
        ("IOPS of the load, untraced", median(found.plain), "/s", None),
        *(
            (f"IOPS lost with {name}", between[1], "%", most)
            for (name, between), most in zip(lost.items(), (5.0, 2.0, None), strict=True)
        ),
        ("operations recorded in a second, at the fast load", fast.iops, "/s", None),
        ("operations dropped at the fast load", fast.dropped, "", 0.0),
        ("operations dropped", sum(one.dropped for one in found.traced), "", 0.0),
        ("operations that watch lost", sum(one.lost for one in found.watched), "", 0.0),
        ("CPU of watch, of one core", 100 * median(one.cpu for one in found.watched), "%", None),
        ("CPU of the recorder, of one core", 100 * median(one.cpu for one in found.traced), "%", 10.0),
        ("trace on disk, per operation", median(one.bytes_per_operation for one in found.traced), "bytes", 16.0),
        (
            "memory of the recorder (anonymous, and the ring)",
            max(one.mib for one in [*found.traced, fast]),
            "MiB",
            200.0,
        ),
        ("growth of it over the second half", max(one.growth_mib for one in found.traced), "MiB", None),
        ("from start to attached", median(one.attached for one in found.traced), "s", 1.5),
    ]
    # The interval of fewer is narrower than it should be.
    intervals = {f"IOPS lost with {name}": between for name, between in lost.items() if len(found.plain) >= ROUNDS}
    return [
        {
            "figure": figure,
            "measured": measured,
            "low": intervals[figure][0] if figure in intervals else None,
            "high": intervals[figure][2] if figure in intervals else None,
            "unit": unit,
            "at_most": most,
            "reached": None if most is None else measured <= most,
        }
        for figure, measured, unit, most in rows
    ]


def _lost(iops: Sequence[float], plain: Sequence[float]) -> tuple[float, float, float]:
    """How many per cent are lost, between what it is, the median of the rounds, and what at most."""
    kept = estimate(iops, plain[: len(iops)], _CONFIDENCE)
    return 100 * (1 - kept.high), 100 * (1 - kept.ratio), 100 * (1 - kept.low)


def _fio(file: Path, words: list[str], under: str | None) -> float:
    """IOPS of one run, as fio says. Raises ChildError."""
    command = ["fio", "--name=load", f"--filename={file}", "--output-format=json", *words]
    if under == "strace":
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_submit,io_getevents", *command]
    done = children.run(command, seconds=3600)
    jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    return float(sum(job["write"]["iops"] for job in jobs))


def _traced(file: Path, words: list[str]) -> Traced:
    """One run with a recorder beside it."""
    kept = Path(f"{file}.trace")
    summary = Path(f"{file}.json")
    command = [*_EOFRACE, "trace", "--comm", "fio", "-o", str(kept), "--json", str(summary)]
    with _running(command, RECORDING) as process:
        before, begin = _cpu(process.pid), time.monotonic()
        with _sampled(process.pid) as resident:
            iops = _fio(file, words, None)
        cpu = (_cpu(process.pid) - before) / (time.monotonic() - begin)
    report = json.loads(summary.read_text())
    operations = sum(report["operations"].values())
    on_disk = sum(part.stat().st_size for part in kept.iterdir())
    for part in [*kept.iterdir(), summary]:
        part.unlink()
    kept.rmdir()
    return Traced(
        iops=iops,
        operations=operations,
        dropped=report["dropped"],
        cpu=cpu,
        bytes_per_operation=on_disk / max(operations, 1),
        mib=max(resident) / MIB + RING_MIB,
        growth_mib=(resident[-1] - resident[len(resident) // 2]) / MIB,
        attached=report["attached_after"],
    )


def _watched(file: Path, words: list[str]) -> Watched:
    """One run that is watched."""
    summary = Path(f"{file}.json")
    command = [*_EOFRACE, "watch", "--comm", "fio", "--json", str(summary)]
    with _running(command, WATCHING) as process:
        before, begin = _cpu(process.pid), time.monotonic()
        iops = _fio(file, words, None)
        cpu = (_cpu(process.pid) - before) / (time.monotonic() - begin)
    report = json.loads(summary.read_text())
    summary.unlink()
    return Watched(iops, sum(report["operations"].values()), report["lost"], cpu)


@contextlib.contextmanager
def _running(command: list[str], announced: str) -> Iterator["subprocess.Popen[str]"]:
    """A recorder that sees everything, which it says, until the block ends. Raises EofraceError."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            if said.rstrip("\n") != announced:
                raise EofraceError(
                    f"eofrace did not say {announced!r}: {said.strip() or 'run it by itself to see why'}"
                )
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _sampled(pid: int) -> Iterator[list[int]]:
    """Anonymous memory of a process in bytes, ten times a second: without the pages of the compiler's libraries, which
    are the page cache's, and without the ring.
    """
    found: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.1):
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            found.extend(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
