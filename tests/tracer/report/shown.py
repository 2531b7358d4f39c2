"""What there is to show in a terminal: results of each command, made by hand, with the longest names there are."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.tracer.report.made import exposed
from tests.tracer.verify.runs import options
from tracer.analysis.hazards import Verdict as CellVerdict
from tracer.analysis.hazards import analyse
from tracer.analysis.verdict import Counts, Judgement
from tracer.capture.result import Captured, FileCount, Totals
from tracer.operations import OPERATION, Op
from tracer.probe import judge
from tracer.probe.observation import Layout, Observation
from tracer.probe.result import Report as ProbeReport
from tracer.probe.result import Result
from tracer.trace_meta import TraceMeta
from tracer.verify import matrix
from tracer.verify.cell import Cell
from tracer.watch.result import Event, State, Watched


def cell(strategy: str, verdict: CellVerdict, fallocate: str = "kernel", **more: Any) -> Cell:
    """One cell; `more` are counts, or fields of the cell."""
    counts: dict[str, Any] = dict.fromkeys(Counts.__dataclass_fields__, 0) | {"failure": None}
    counts |= {name: value for name, value in more.items() if name in counts}
    others = {name: value for name, value in more.items() if name not in counts}
    made: dict[str, Any] = {
        "fs": "xfs",
        "aio": "native",
        "evidence": "kernel",
        "guest_writes": 2000,
        "zero_writes": 1323,
        "post_eof_fallocates": 1067,
        "waits": 1572,
        "min_gap_ns": -13935021,
        "mechanisms": {},
        "gaps": {},
        "block_io_delay_ns": None,
        "qemu_img_check": None,
    }
    return Cell(
        strategy=strategy,
        fallocate=fallocate,
        counts=Counts(**counts),
        judgement=Judgement(verdict, f"a reason of many words, so that it has to be folded, why it is {verdict.value}"),
        ops=np.empty(0, OPERATION),
        pairs=frozenset(),
        **(made | others),
    )


def verify_report() -> matrix.Report:
    """A run whose columns are as wide as those of a run of 2,000 writes, and one cell inconclusive."""
    cells = [
        cell("none", CellVerdict.UNSAFE, exposed=947, conflicts=947, kernel_serialised=697),
        cell("serialise-xfs-native", CellVerdict.CONFIRMED, conflicts=647),
        cell("no-alloc-space", CellVerdict.INCONCLUSIVE, dropped=12),
        cell("none", CellVerdict.CORRUPT, "legacy-xfs", lost_bytes=61276160, exposed=552, conflicts=552),
        cell("serialise", CellVerdict.CONFIRMED, "legacy-xfs", conflicts=649, notes=["a note of one cell"]),
    ]
    return matrix.Report(options(), "6.18.44", cells, ["a note of the run"], {}, {"hook": "why"}, matrix.overall(cells))


def probe_report() -> ProbeReport:
    """Two file systems, one of them with the longest name of a function."""
    seen = Observation("plain", Layout(), held=True, t_held=1, t_released=34_000_000, returned=True)
    results = [
        Result("xfs", "plain", "held", judge.Judgement(judge.Verdict.SAFE, "it waited"), 3, {}, seen, 196608, 196608),
        Result("zfs", "zero-range-keep-size", "held", judge.Judgement(judge.Verdict.INCONCLUSIVE, "it did not"), 300),
    ]
    return ProbeReport(results, ["a note"], {})


def watched() -> Watched:
    """Watching that has met one hazard."""
    (hazard,) = analyse(exposed(), TraceMeta()).hazards
    state = State(started=1.0, seconds=3.5, operations={Op.AIO_WRITE: 7}, hazards=1, counts=hazard.counts)
    return Watched(state, 1.0, {"hook": "how"}, {"io_uring": "no tracepoint"}, "its time is over", None)


def event() -> Event:
    """That hazard, as it is told."""
    (hazard,) = analyse(exposed(), TraceMeta()).hazards
    return Event(1_700_000_000.5, 1, None, hazard)


def captured() -> Captured:
    """A recording of two files, one with a long path, and a hazard."""
    file, other = (1, 1), (1, 2)
    totals = Totals(
        {"aio_write": 123456, "fallocate": 78}, 1, {file: FileCount(123456, 8090615808), other: FileCount(78)}
    )
    totals.dropped, totals.unfinished = {"ring full": 7}, 2
    return Captured(
        totals=totals,
        seconds=12.5,
        paths={file: "/var/lib/libvirt/images/a-disk-of-a-guest.qcow2", other: "/tmp/<b>\x1b[2J"},
        earlier={},
        analysis=analyse(exposed(), TraceMeta(dropped=7)),
        gaps={"io_uring": "no tracepoint"},
        notes=("a note",),
        trace=Path("out.parquet"),
        exit_status=None,
        ended_by="its time is over",
        mechanisms={},
        attached_after=1.0,
        kinds={},
    )
