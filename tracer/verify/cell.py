"""One cell of the matrix: played, counted, judged."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blockstack.fallocate import RACY
from blockstack.guest import Plan
from blockstack.journal import RequestFlag
from blockstack.strategies import CONTROL, Auto, Strategy
from tracer.analysis.conflicts import GuestPairs, guest_pairs, min_gap_ns, together, waited
from tracer.analysis.hazards import Verdict
from tracer.analysis.overlaps import U64
from tracer.analysis.rules import Outcome, RulePairs
from tracer.analysis.rules.post_eof_fallocate import RULE, post_eof_fallocates
from tracer.analysis.verdict import Counts, Judgement, judge
from tracer.operations import Op, Operations
from tracer.verify.ground import Ground
from tracer.verify.others import by_other_rules
from tracer.verify.play import Played, play

if TYPE_CHECKING:
    from tracer.verify.held.rounds import Round


@dataclass(slots=True)
class Cell:
    """What one cell has shown. Counts are of this cell alone."""

    strategy: str
    fallocate: str
    fs: str
    aio: str
    evidence: str
    guest_writes: int
    zero_writes: int
    post_eof_fallocates: int
    waits: int  # requests that waited for another one
    min_gap_ns: int | None
    counts: Counts
    judgement: Judgement
    ops: Operations
    mechanisms: dict[str, str]  # hook -> how it was attached; none where the driver is the evidence
    gaps: dict[str, str]  # hook that could not be attached -> why
    pairs: GuestPairs  # guest requests behind its exposed pairs
    block_io_delay_ns: dict[int, int] | None
    qemu_img_check: dict[str, int] | None
    notes: list[str] = field(default_factory=list)
    trace: str | None = None
    case: str | None = None  # of a run on a held disk
    held_ms: float | None = None  # how long its writes were held, all in all; None: none was
    rounds: "list[Round]" = field(default_factory=list)
    relies_on_kernel: bool = False  # `auto` left the order to it
    format: str = "qcow2"
    variant: str | None = None  # of another format's control: what is different
    driver: str = "blockstack"  # or qemu
    qemu: str | None = None  # its version
    control: bool = False  # shows the hazard although its strategy is not `none`: QEMU, misled
    exposing: int = 0  # of a QEMU's cell: fallocates in its exposed pairs
    beside: int | None = None  # zero-writes of QEMU and writes below them that were in the kernel together

    @property
    def name(self) -> str:
        """What it is called in messages."""
        if self.format != "qcow2":
            return f"{self.subject} x {self.fallocate}"
        return f"{self.strategy} x {self.fallocate}" + (f", {self.case}" if self.case else "")

    @property
    def subject(self) -> str:
        """What is judged, where that is another format than qcow2; a strategy is named if there is one."""
        name = self.format + (f": {self.case}" if self.case else "") + (f", {self.variant}" if self.variant else "")
        return name if self.strategy == CONTROL else f"{name}, {self.strategy}"

    @property
    def is_control(self) -> bool:
        """Whether the cell is there to show the hazard."""
        return self.control or (self.strategy == CONTROL if self.format == "qcow2" else self.variant is not None)


def run_cell(
    ground: Ground,
    plan: Plan,
    strategy: Strategy,
    fallocate: str,
    control: Cell | None,
    progress: Callable[[int], None],
) -> Cell:
    """Play and judge one cell. `control` is the control's cell of the same column, None for the control itself."""
    played = play(ground, plan, strategy, fallocate, progress)
    ops = played.evidence.ops
    found = RULE.pairs(ops)
    conflicts = waited(ops)
    if control is None:
        exercised = len(found.first)
    elif zero_writes_of(ops):
        exercised = len(conflicts)
    else:
        exercised = together(ops, control.pairs)
    counts = count(played, found.outcome.tolist(), exercised)
    return made(ground, strategy, fallocate, played, found, conflicts, counts, judged(counts, fallocate, control))


def judged(counts: Counts, fallocate: str, control: Cell | None) -> Judgement:
    """The verdict on a cell beside its control, None for a control itself."""
    return judge(
        counts,
        is_control=control is None,
        may_lose=fallocate in RACY,
        control=None if control is None else control.judgement,
        control_exposed=0 if control is None else control.counts.exposed,
    )


def zero_writes_of(ops: Operations) -> int:
    """Zero-writes that the driver under test has marked in ops (n,)."""
    requests = ops[ops["op"] == Op.MARK_REQUEST]
    return int(((requests["flags"] & RequestFlag.ZERO_WRITE) != 0).sum())


def made(
    ground: Ground,
    strategy: Strategy,
    fallocate: str,
    played: Played,
    found: RulePairs,
    conflicts: U64,
    counts: Counts,
    judgement: Judgement,
) -> Cell:
    """The cell of a run of blockstack, of whatever kind: what it has shown beside `counts` and `judgement`.

    `found` and `conflicts`: its exposed pairs, and those that it kept apart.
    """
    ops, readback = played.evidence.ops, played.readback
    relies = relies_on_kernel(strategy, ground, fallocate)
    return Cell(
        strategy=strategy.name,
        fallocate=fallocate,
        fs=ground.scratch.fs,
        aio=ground.aio,
        evidence=ground.evidence,
        guest_writes=played.acknowledged,
        zero_writes=zero_writes_of(ops),
        post_eof_fallocates=int(post_eof_fallocates(ops).sum()),
        waits=len(set(ops[ops["op"] == Op.MARK_WAIT]["request"].tolist())),
        min_gap_ns=min_gap_ns(ops, conflicts, found),
        counts=counts,
        judgement=as_relying(judgement) if relies else judgement,
        ops=ops,
        mechanisms=ground.mechanisms,
        gaps=ground.gaps,
        pairs=guest_pairs(ops, found),
        block_io_delay_ns=played.block_io_delay_ns,
        qemu_img_check=None if readback is None else readback.check,
        notes=[
            *played.notes,
            *([] if readback is None else readback.notes),
            *by_other_rules(ops, f"{strategy.name} x {fallocate}", ground.evidence),
        ],
        relies_on_kernel=relies,
    )


def relies_on_kernel(strategy: Strategy, ground: Ground, fallocate: str) -> bool:
    """Whether `strategy` was told that the kernel keeps the operations apart here, and leaves it to that.

    What is known of the kernel says nothing about a racy emulation: there it serialises.
    """
    return isinstance(strategy, Auto) and fallocate not in RACY and strategy.relies_on_kernel(ground.scratch.fs)


def as_relying(judgement: Judgement) -> Judgement:
    """The verdict on a cell that leaves the order to the kernel: such a one is never confirmed."""
    verdict = Verdict.INCONCLUSIVE if judgement.verdict is Verdict.CONFIRMED else judgement.verdict
    return Judgement(verdict, f"relies on the kernel, which the probe says is safe: {judgement.reason}")


def count(played: Played, outcomes: list[int], conflicts: int) -> Counts:
    """All counts of a cell; `outcomes` are those of its exposed pairs."""
    readback = played.readback
    worst = None if readback is None else readback.worst
    return Counts(
        conflicts=conflicts,
        exposed=len(outcomes),
        kernel_serialised=outcomes.count(Outcome.KERNEL_SERIALISED),
        lost=outcomes.count(Outcome.LOST),
        lost_bytes=0 if worst is None else worst.bytes,
        lost_bytes_traced=played.lost_bytes_traced,
        corrupt_clusters=0 if worst is None else len(worst.clusters),
        check_errors=0 if readback is None else readback.check_errors,
        dropped=played.dropped,
        unfinished=played.unfinished,
        unaccounted=played.evidence.unaccounted,
        failure=played.failure,
    )
