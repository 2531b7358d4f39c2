"""What a step touches, as bits, so that one AND says whether the order of two steps can matter.

Two steps are *independent* if in every state in which both can run, either order leads to the same state, and neither
lets the other run or keeps it from running. What is said here is a superset of what a step touches; too much costs
reduction, too little would cost soundness (tests/tracer/explore/test_reduction.py compares with naive enumeration).
"""

from functools import cache
from typing import NamedTuple

LOOP = 1 << 0  # runs the driver: every such step may see what every other one did
SIZE_READ = 1 << 1
SIZE_MAX = 1 << 2  # raises i_size to its end if that is larger: two of these commute
SIZE_SET = 1 << 3
LOCK_SHARED = 1 << 4  # takes and gives back the inode's I/O lock shared, within the step
LOCK_EXCLUSIVE = 1 << 5  # takes or gives back the inode's I/O lock exclusive
DIO_BEGIN = 1 << 6
DIO_END = 1 << 7
DIO_WAIT = 1 << 8
WRITE_EDGE = 1 << 9  # a write begins or ends: a trace shows on which side of a fallocate's edge it lies
FALLOCATE_EDGE = 1 << 10
SYNC = 1 << 11  # makes stable what is there
PRIVATE_MAX = 1 << 12  # raises the file system's own size to its end: two of these commute
PUBLISH = 1 << 13  # makes i_size what the file system's own size is: two of these commute

_CONFLICTS = {
    LOOP: LOOP,
    SIZE_READ: SIZE_MAX | SIZE_SET | PUBLISH,
    SIZE_MAX: SIZE_READ | SIZE_SET | PUBLISH,
    SIZE_SET: SIZE_READ | SIZE_MAX | SIZE_SET | PRIVATE_MAX | PUBLISH,
    PRIVATE_MAX: SIZE_SET | PUBLISH,
    PUBLISH: SIZE_READ | SIZE_MAX | SIZE_SET | PRIVATE_MAX,
    LOCK_SHARED: LOCK_EXCLUSIVE,
    LOCK_EXCLUSIVE: LOCK_SHARED | LOCK_EXCLUSIVE,
    DIO_BEGIN: DIO_WAIT,
    DIO_END: DIO_WAIT,
    DIO_WAIT: DIO_BEGIN | DIO_END,
    WRITE_EDGE: FALLOCATE_EDGE,
    FALLOCATE_EDGE: WRITE_EDGE,
}

_REGION = 4096
_REGIONS = 64
_READ, _WRITE = 16, 16 + _REGIONS  # first bit of the regions that are read, and of those that are written
_ALL = (1 << _REGIONS) - 1

CONTENT = _ALL << _WRITE
"""Any content may change."""


class Footprint(NamedTuple):
    """Bits that a step has, and bits of others that conflict with them."""

    touch: int
    conflict: int

    def depends(self, other: "Footprint") -> bool:
        """Whether the order of the two steps may matter."""
        return bool(self.touch & other.conflict)


@cache
def footprint(touch: int) -> Footprint:
    """The footprint of a step that has the bits `touch`."""
    conflict = 0
    for bit, others in _CONFLICTS.items():
        if touch & bit:
            conflict |= others
    reads, writes = touch >> _READ & _ALL, touch >> _WRITE & _ALL
    conflict |= writes << _READ | (reads | writes) << _WRITE
    if writes:
        conflict |= SYNC
    if touch & SYNC:
        conflict |= CONTENT | SIZE_MAX | SIZE_SET | PUBLISH
    if touch & (SIZE_MAX | SIZE_SET | PUBLISH):
        conflict |= SYNC
    return Footprint(touch, conflict)


def content_read(offset: int, length: int) -> int:
    """Bits of a step that reads [offset, offset + length). Regions far apart may share a bit."""
    return _regions(offset, length) << _READ


def content_written(offset: int, length: int) -> int:
    """Bits of a step that writes [offset, offset + length)."""
    return _regions(offset, length) << _WRITE


@cache
def _regions(offset: int, length: int) -> int:
    first, last = offset // _REGION, (offset + max(length, 1) - 1) // _REGION
    if last - first >= _REGIONS - 1:
        return _ALL
    bits = 0
    for region in range(first, last + 1):
        bits |= 1 << region % _REGIONS
    return bits
