"""The probe where no held disk can be had: the two operations at once, again and again, as fstests generic/586 does it.

It can find the race. It cannot exclude it: on a kernel with the race most rounds go well.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import UnsupportedError
from tracer.lab.scratch import KINDS, AnonymousFile, directory_scratch
from tracer.probe.judge import UNSUPPORTED, Judgement, Verdict
from tracer.probe.observation import MODES, Layout
from tracer.probe.result import Result
from tracer.probe.workers import AioWrite, Fallocate, opened_direct

ROUNDS = 100
"""Rounds of one try. On a racy XFS 23 to 33 of 100 lost data (platform.md)."""
_SPREAD = 200e-6
"""Seconds by which one of the two may be late: about as long as a small write takes."""
_SECONDS = 20.0


@dataclass(slots=True)
class _Tally:
    rounds: int = 0
    together: int = 0  # rounds in which both calls were under way at once, by our own clock
    lost: int = 0
    size_found: int | None = None  # of the first round that lost; of the last one otherwise
    error: int = 0  # errno that ended it


def repeat(
    directory: Path, modes: Sequence[str], tries: int, progress: Callable[[str, str, int, int], None]
) -> list[Result]:
    """`modes` on the file system of `directory`, `tries` x ROUNDS rounds. Raises UsageError, UnsupportedError."""
    layout = Layout()
    results = []
    with directory_scratch(directory) as scratch:
        for mode in modes:
            tally = _Tally()
            for number in range(1, tries + 1):
                progress(scratch.fs, mode, number, tries)
                for _ in range(ROUNDS):
                    with scratch.new_file() as file, opened_direct(file.path) as direct:
                        _round(file, direct, MODES[mode], layout, tally)
                    if tally.error:
                        break
            results.append(
                Result(
                    scratch.fs,
                    mode,
                    "repetition",
                    _judge(tally, layout, scratch.fs),
                    tally.rounds,
                    {Verdict.RACY.value: tally.lost} if tally.lost else {},
                    None,
                    layout.size if tally.rounds else None,
                    tally.size_found,
                    str(directory),
                )
            )
    return results


def _round(file: AnonymousFile, direct: int, mode: int, layout: Layout, tally: _Tally) -> None:
    both = threading.Barrier(2)
    late = random.uniform(-_SPREAD, _SPREAD)

    def ready(delay: float) -> Callable[[], None]:
        def wait() -> None:
            both.wait(_SECONDS)
            until = time.monotonic() + delay
            while time.monotonic() < until:  # a sleep would take longer
                pass

        return wait

    data = os.urandom(layout.write_length)
    write = AioWrite(direct, data, layout.write_offset, ready(max(late, 0)))
    fallocate = Fallocate(file.fd, mode, layout.fallocate_length, ready(max(-late, 0)))
    for worker in (write, fallocate):
        worker.start()
    for worker in (write, fallocate):
        worker.join(2 * _SECONDS)
    tally.error = write.error or fallocate.error or 0
    if write.error is None or fallocate.error is None:
        raise UnsupportedError("a call did not return: see dmesg, the file system may be stuck")
    if tally.error:
        return
    tally.rounds += 1
    tally.together += write.t_begin < fallocate.t_end and fallocate.t_begin < write.t_end
    size = file.size
    lost = size < layout.size or os.pread(file.fd, layout.write_length, layout.write_offset) != data
    if lost or not tally.lost:
        tally.size_found = size if not (lost and tally.lost) else tally.size_found
    tally.lost += lost


def _judge(tally: _Tally, layout: Layout, fs: str) -> Judgement:
    if tally.error in UNSUPPORTED:
        return Judgement(Verdict.UNSUPPORTED, f"fallocate: {os.strerror(tally.error)}")
    course = (
        f"by repetition, without a held disk: {tally.lost} of {tally.rounds} rounds lost an acknowledged write, in "
        f"{tally.together} both calls were under way at once"
    )
    if tally.lost:
        return Judgement(
            Verdict.RACY, f"{course}; the size was {tally.size_found} instead of {layout.size} in the first of them"
        )
    if tally.error:
        return Judgement(Verdict.INCONCLUSIVE, f"{course}; then a call failed: {os.strerror(tally.error)}")
    remedy = f": `eofrace probe --fs {fs}` can, if it can be made here" if fs in KINDS else ""
    return Judgement(Verdict.INCONCLUSIVE, f"{course}; that can find a race and never excludes it{remedy}")
