"""What became of a schedule: by the guest's bytes, and by the hazard rules on the simulation's own trace.

The rules are those that judge recorded traces. Many schedules go through them at once, each as a file of its own (its
number is the inode), since they are made for millions of operations and not for ten.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from blockstack.guest.oracle import SECTOR
from blockstack.sim.calls import Call, CallKind
from blockstack.sim.world import World
from tracer.analysis.losses import lost_ranges
from tracer.analysis.rules import Outcome as PairOutcome
from tracer.analysis.rules import all_rules
from tracer.explore.image import Reader
from tracer.explore.space import Runs
from tracer.operations import OPERATION, Op, Operations

BATCH = 512
"""Schedules that go through the rules together."""

DEV = 1

_OPS = {CallKind.WRITE: Op.AIO_WRITE, CallKind.FALLOCATE: Op.FALLOCATE, CallKind.TRUNCATE: Op.TRUNCATE}
_STEP = 4  # sequence numbers and ns of one step of a run


class Outcome(enum.StrEnum):
    """What a schedule ended with, from harmless to worst."""

    SAFE = "safe"
    EXPOSED = "exposed"
    LOST = "lost"
    DEADLOCK = "deadlock"

    @property
    def rank(self) -> int:
        """From harmless to worst, 0 to 3."""
        return list(Outcome).index(self)


Row = tuple[int, ...]
"""A system call as the rules need it: columns of `_COLUMNS`."""

_COLUMNS = (
    "seq_begin",
    "seq_end",
    "t_applied",
    "offset",
    "length",
    "size_begin",
    "size_end",
    "size_applied",
    "result",
    "flags",
    "op",
    "request",
)


@dataclass(slots=True)
class Schedule:
    """One schedule and what it ended with. `wrong`: sectors of the guest's that do not read back, by the file alone."""

    choices: list[int]
    rows: list[Row]
    steps: int
    wrong: list[int]
    deadlock: bool
    places: list[tuple[int, int]] = field(default_factory=list)
    """Where in the file the guest's acknowledged bytes are, and the tables that lead there: [start, end), if any size
    was cut.
    """
    outcome: Outcome = Outcome.SAFE
    rules: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Pairs that each rule found, exposed and lost; a rule that found none is left out."""
    disagreement: str | None = None


def finished(runs: Runs, choices: Sequence[int], world: World) -> Schedule:
    """What has to be kept of a run that is over."""
    required = runs.expected(world)
    file = runs.file(world)
    wrong = [number for number, data in required if data is not None and file.sector(number) != data]
    rows, cut = [], False
    for process in world.processes:
        call = process.call
        if call is not None and call.begin and call.kind in _OPS:
            rows.append(_row(call))
            cut |= call.applied > 0 and call.size_applied > call.size_end
    schedule = Schedule(list(choices), rows, world.clock.now, sorted(wrong), runs.is_deadlock(world))
    if cut:
        schedule.places = _places(file, runs, required)
    return schedule


def _places(file: Reader, runs: Runs, required: list[tuple[int, bytes | None]]) -> list[tuple[int, int]]:
    size = runs.space.guest.cluster_size
    places = [(table, table + size) for table in file.tables()]
    for number, data in required:
        cluster, within = divmod(number * SECTOR, size)
        host = file.host(cluster)
        if data is not None and host is not None:
            places.append((host + within, host + within + SECTOR))
    return places


def _row(call: Call) -> Row:
    return (
        _STEP * call.begin + 1,
        _STEP * call.end + 2 if call.end else 0,
        _STEP * call.applied + 1 if call.applied else 0,
        call.offset,
        call.length,
        call.size_begin,
        call.size_end,
        call.size_applied,
        call.result,
        call.flags,
        _OPS[call.kind],
        call.request,
    )


def operations(schedules: Sequence[Schedule]) -> Operations:
    """The traces of some schedules as one, ops (n,): each is a file of its own, whose inode is its number from 1."""
    rows = [row for schedule in schedules for row in schedule.rows]
    ops = np.zeros(len(rows), OPERATION)
    ops["dev"], ops["comm"] = DEV, b"explore"
    if not rows:
        return ops
    for name, column in zip(_COLUMNS, np.array(rows, np.int64).T, strict=True):
        ops[name] = column
    counts = [len(schedule.rows) for schedule in schedules]
    ops["ino"] = np.repeat(np.arange(1, len(schedules) + 1), counts)
    starts = np.cumsum([0, *(_STEP * (schedule.steps + 2) for schedule in schedules[:-1])])
    base = np.repeat(starts, counts).astype(np.int64)
    for name in ("seq_begin", "seq_end", "t_applied"):
        ops[name] = np.where(ops[name] != 0, ops[name].astype(np.int64) + base, 0)
    ops["t_begin"], ops["t_end"] = ops["seq_begin"], ops["seq_end"]
    return ops


def judge(schedules: Sequence[Schedule]) -> None:
    """Put schedules through the rules, and say of each what it ended with."""
    ops = operations(schedules)
    for rule in all_rules():
        pairs = rule.pairs(ops)
        inodes = ops["ino"][pairs.first]
        lost = np.bincount(inodes[pairs.outcome == PairOutcome.LOST].astype(np.int64), minlength=len(schedules) + 1)
        exposed = np.bincount(inodes.astype(np.int64), minlength=len(schedules) + 1)
        for ino in np.flatnonzero(exposed).tolist():
            schedules[ino - 1].rules[rule.id] = int(exposed[ino]), int(lost[ino])
    for ino, schedule in enumerate(schedules, 1):
        _conclude(schedule, ops[ops["ino"] == ino] if schedule.places else ops[:0])


def _conclude(schedule: Schedule, ops: Operations) -> None:
    if schedule.deadlock:
        schedule.outcome = Outcome.DEADLOCK
    elif schedule.wrong:
        schedule.outcome = Outcome.LOST
    elif schedule.rules:
        schedule.outcome = Outcome.EXPOSED
    if schedule.deadlock:
        return
    predicted = False
    if len(ops):
        lost = lost_ranges(ops, DEV, int(ops["ino"][0])).tolist()
        predicted = any(low < end and start < high for low, high in lost for start, end in schedule.places)
    if schedule.wrong and not predicted and not schedule.rules:
        schedule.disagreement = "the guest's data is gone, and no rule finds anything in the trace"
    if predicted and not schedule.wrong:
        schedule.disagreement = "by the trace the guest's data was cut off, and it is all there"
