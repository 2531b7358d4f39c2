"""What one try has shown: sizes, content, who waited where, in which order."""

from dataclasses import dataclass, field

from tracer.lab.waiting import Waiting

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

MODES = {
    "plain": 0,
    "zero-range": FALLOC_FL_ZERO_RANGE,
    "keep-size": FALLOC_FL_KEEP_SIZE,
    "punch-hole": FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    "zero-range-keep-size": FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
}
"""Modes of fallocate(2) by the names of the report."""

DEFAULT_MODES = ("plain", "zero-range", "keep-size")
"""The ways to allocate; the other two free something, at or behind EOF, where there is nothing to free."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the two operations lie in an empty file, in bytes: fallocate from 0, below the write."""

    fallocate_length: int = 65536
    write_offset: int = 131072
    write_length: int = 65536

    @property
    def size(self) -> int:
        """i_size when both have been done, in any order."""
        return self.write_offset + self.write_length


@dataclass(frozen=True, slots=True)
class Event:
    """A moment of a try. `t` in ns, CLOCK_MONOTONIC; `size` is i_size then, None where it was not seen."""

    t: int
    what: str
    size: int | None = None


@dataclass(slots=True)
class Observation:
    """One try. `None` means: not seen."""

    mode: str
    layout: Layout
    source: str = "driver"  # `kernel` where eBPF saw the two operations
    held: bool = False  # the write was seen in flight at the disk
    t_held: int = 0  # ns
    t_released: int = 0  # ns
    writer: Waiting | None = None  # the submitting thread while the write was held
    in_submit: bool = False  # it was still inside of io_submit(2) then: nothing asynchronous about it
    fallocate: Waiting | None = None  # fallocate's thread while the write was held
    returned: bool = False  # fallocate returned while the write was held
    size_before: int | None = None  # i_size when fallocate was started, the write in flight
    size_found: int | None = None  # in the end
    write_error: int | None = None  # errno of the write, 0 if it was acknowledged
    fallocate_error: int | None = None  # errno of fallocate, 0 if it succeeded
    wrong_bytes: int = 0  # of what the write wrote, on reading back
    stray_bytes: int = 0  # of what fallocate zeroed, on reading back
    events: list[Event] = field(default_factory=list)
    failure: str | None = None  # why the try did not come to an end

    @property
    def sets_size(self) -> bool:
        """Whether this mode of fallocate may change i_size at all."""
        return not MODES[self.mode] & FALLOC_FL_KEEP_SIZE

    @property
    def lost(self) -> bool:
        """An acknowledged write is not there, or the file is shorter than both operations make it."""
        if self.write_error != 0 or self.fallocate_error != 0 or self.size_found is None:
            return False
        return self.size_found < self.layout.size or self.wrong_bytes > 0
