"""What an observation is worth: the verdict on one try, never without the evidence in words."""

import enum
import errno
import os
from dataclasses import dataclass

from tracer.probe.observation import Observation


class Verdict(enum.StrEnum):
    """On one mode of fallocate on one file system."""

    SAFE = "safe"
    RACY = "racy"
    UNSUPPORTED = "unsupported"
    INCONCLUSIVE = "inconclusive"


UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that does not have a mode."""

# Everything that goes to the held disk waits behind the held write: who waits here waits for the disk, which says
# nothing of what it would do about the write.
_DISK = ("bio_wait", "wait_on_buffer", "wait_on_bit", "folio_wait", "log_force", "log_wait", "io_schedule", "blk_")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and the sentence that says what it rests on."""

    verdict: Verdict
    evidence: str


def judge(seen: Observation) -> Judgement:
    """The verdict on one try with the write held."""
    if seen.fallocate_error in UNSUPPORTED:
        return Judgement(Verdict.UNSUPPORTED, f"fallocate: {os.strerror(seen.fallocate_error)}")
    if seen.lost:
        return Judgement(Verdict.RACY, f"{_course(seen)}; {loss(seen)}")
    problem = _problem(seen)
    if problem is not None:
        return Judgement(Verdict.INCONCLUSIVE, problem)
    well = f"size {seen.size_found} as expected, content intact"
    if seen.size_before is not None and seen.size_before >= seen.layout.size:
        return Judgement(Verdict.SAFE, f"{_course(seen)}; {well}")
    if seen.fallocate is not None:
        if any(part in frame for frame in seen.fallocate.stack[:3] for part in _DISK):
            return Judgement(
                Verdict.INCONCLUSIVE,
                f"fallocate waited in {seen.fallocate.place} for the disk, not for the write: {well}, by chance maybe",
            )
        return Judgement(Verdict.SAFE, f"{_course(seen)}; {well}")
    if not seen.sets_size:
        return Judgement(Verdict.SAFE, f"{_course(seen)}, and sets no size; {well}")
    return Judgement(
        Verdict.INCONCLUSIVE,
        f"{_course(seen)}, without a wait for it: {well} in this order, another one is not excluded",
    )


def loss(seen: Observation) -> str:
    """What is missing, in words."""
    layout = seen.layout
    return (
        f"the size is {seen.size_found} instead of {layout.size}, and {seen.wrong_bytes} of {layout.write_length} "
        f"acknowledged bytes at {layout.write_offset} are gone"
    )


def _problem(seen: Observation) -> str | None:
    """Why nothing follows from the try."""
    if seen.failure is not None:
        return seen.failure
    if not seen.held:
        return "the write was never seen in flight at the disk"
    for name, code in (("the write", seen.write_error), ("fallocate", seen.fallocate_error)):
        if code is None:
            return f"{name} did not end"
        if code:
            return f"{name} failed: {os.strerror(code)}"
    if seen.stray_bytes:
        return f"{seen.stray_bytes} bytes that fallocate allocated do not read as zeroes"
    if seen.size_found != seen.layout.size:
        return f"the size is {seen.size_found}, larger than the {seen.layout.size} that both operations make"
    if seen.fallocate is None and not seen.returned:
        return "fallocate was neither seen waiting nor did it return while the write was held"
    return None


def _course(seen: Observation) -> str:
    """Who waited where, in words."""
    write = f"the write was held in flight, i_size {seen.size_before}"
    if seen.in_submit:
        where = seen.writer.place if seen.writer is not None else "an unknown place"
        write = f"the write was held inside of io_submit(2), in {where}, i_size {seen.size_before}: not asynchronous"
    if seen.fallocate is not None:
        return f"{write}; fallocate waited in {seen.fallocate.place} until it was released"
    return f"{write}; fallocate returned at once"
