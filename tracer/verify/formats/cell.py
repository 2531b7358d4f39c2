"""One subject: played, counted, judged, as a strategy is."""

from collections.abc import Callable
from dataclasses import replace

import blockstack
from blockstack.guest import Damage, Oracle
from blockstack.journal import Journal
from blockstack.strategies import Strategy
from tracer import interrupts
from tracer.analysis.conflicts import asked_together, grown_together
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.errors import UnsupportedError
from tracer.lab.children import ChildError
from tracer.lab.scratch import AnonymousFile
from tracer.verify.cell import Cell, count, judged, made
from tracer.verify.formats.subject import Stage, Subject
from tracer.verify.ground import Ground
from tracer.verify.options import Options
from tracer.verify.play import Played, Run, play_image, predicted_damage
from tracer.verify.readback import Readback, read_back_with_qemu


def run_subject(
    ground: Ground,
    options: Options,
    subject: Subject,
    strategy: Strategy,
    fallocate: str,
    control: Cell | None,
    progress: Callable[[int], None],
) -> Cell:
    """Play and judge one subject. `control` is its control's cell of the same column, None for a control itself."""
    played = _play(ground, options, subject, strategy, fallocate, progress)
    ops = played.evidence.ops
    found = RULE.pairs(ops)
    conflicts = asked_together(ops)
    exercised = len(conflicts) if len(conflicts) else len(grown_together(ops, of_reads=subject.of_reads))
    counts = count(played, found.outcome.tolist(), len(found.first) if control is None else exercised)
    cell = made(ground, strategy, fallocate, played, found, conflicts, counts, judged(counts, fallocate, control))
    return replace(cell, case=subject.case, format=subject.format, variant=subject.variant)


def _play(
    ground: Ground,
    options: Options,
    subject: Subject,
    strategy: Strategy,
    fallocate: str,
    progress: Callable[[int], None],
) -> Played:
    """Play the guest of `subject`, watched; then read the image back. Raises as `play_image`."""
    plan = subject.plan(options)
    acknowledged = 0

    def told(number: int) -> None:
        nonlocal acknowledged
        acknowledged = number
        progress(number)

    with ground.scratch.new_file() as other:

        def stage(image: AnonymousFile, journal: Journal) -> Stage:
            return Stage(ground, plan, strategy, fallocate, image, other, journal, told)

        async def make(image: AnonymousFile) -> None:
            await subject.make(stage(image, Journal()))

        async def drive(image: AnonymousFile, journal: Journal) -> Run:
            return await subject.play(stage(image, journal))

        def compare(image: AnonymousFile, finished: Run, played: Played) -> None:
            _read_back(ground, subject, plan.size, image, finished, played)

        played = play_image(ground, plan.size, plan.cluster_size, drive, make=make, compare=compare)
    played.acknowledged = acknowledged
    return played


def _read_back(
    ground: Ground, subject: Subject, size: int, image: AnonymousFile, finished: Run, played: Played
) -> None:
    """Compare with the oracle through a fresh read-only blockstack, and through qemu-img."""
    try:
        damage = interrupts.run(_compare(image, subject.image_format, size, finished.oracle, ground))
    except (OSError, blockstack.ImageError) as error:
        played.failure = f"the image cannot be read back: {error}"
        return
    played.readback = Readback(damage)
    try:
        read_back_with_qemu(image.path, finished.oracle, ground.scratch, played.readback, format=subject.image_format)
    except UnsupportedError as error:
        played.readback.notes.append(f"the image was not compared through qemu-img: {error}")
    except ChildError as error:
        played.failure = f"the image cannot be compared through qemu-img: {error}"
    played.lost_bytes_traced = predicted_damage(played, finished).bytes


async def _compare(image: AnonymousFile, format: str, size: int, oracle: Oracle, ground: Ground) -> Damage:
    damage = Damage()
    cluster_size = oracle.cluster_size
    async with blockstack.open(image.path, format, aio=ground.aio, direct=ground.direct, read_only=True) as disk:
        for at in range(0, size, cluster_size):
            # A file that was cut off may be shorter than the disk.
            readable = max(0, min(cluster_size, disk.length - at))
            data = await disk.preadv(at, readable) if readable else b""
            oracle.compare_cluster(at // cluster_size, data.ljust(cluster_size, b"\0"), damage)
    return damage
