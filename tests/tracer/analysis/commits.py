"""Commits every hazard of the family for real, and does the same with care: a script that is traced.

    python tests/tracer/analysis/commits.py DIRECTORY           every hazard, and its twin
    python tests/tracer/analysis/commits.py DIRECTORY punched   many rounds of zeroing-over-write, one range each

Makes two files a hazard, named after the rule: in `RULE` the two operations are submitted together by one
io_uring_enter(2), so that both are in the kernel before either is done, whatever the file system then makes of them. In
`RULE.apart` the same two are waited for, one after the other. For size-going-backwards somebody who is not traced has
to truncate the file, once it is 128 KiB long, to 64 KiB; its twin does that itself.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.tracer.capture.ring import FALLOCATE, FTRUNCATE, WRITE, Request, Ring

K = 1024
LONG, SHORT = 128 * K, 64 * K
"""Sizes of the file of size-going-backwards, before and after."""

_libc = ctypes.CDLL(None, use_errno=True)

_SETFLAGS, _NOCOW = 0x40086602, 0x00800000  # linux/fs.h


class Committer:
    """One file, open twice, and one ring."""

    def __init__(self, path: Path) -> None:
        self.buffered = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):
            # btrfs: data with checksums goes through the page cache.
            fcntl.ioctl(self.buffered, _SETFLAGS, ctypes.c_int(_NOCOW))
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._ring = Ring()
        self._memory = mmap.mmap(-1, 1 << 17)
        self._memory.write(b"x" * (1 << 17))
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._number = 0

    def write(self, fd: int, offset: int, length: int) -> Request:
        """A write."""
        self._number += 1
        return Request(WRITE, fd, offset, self._address, length, self._number)

    def fallocate(self, mode: int, offset: int, length: int) -> Request:
        """A fallocate."""
        self._number += 1
        return Request(FALLOCATE, self.buffered, offset, length, mode, self._number)

    def truncate(self, size: int) -> Request:
        """An ftruncate."""
        self._number += 1
        return Request(FTRUNCATE, self.buffered, size, 0, 0, self._number)

    def submit(self, *requests: Request) -> None:
        """Submit all at once, and do not wait."""
        for request in requests:
            self._ring.queue(request)
        self._ring.submit(0)

    def wait(self, completions: int) -> None:
        """Wait for what was submitted."""
        done = self._ring.submit(completions)
        assert all(result >= 0 for _, result in done), done

    def together(self, *requests: Request) -> None:
        """Submit all at once, then wait."""
        for request in requests:
            self._ring.queue(request)
        self.wait(len(requests))

    def apart(self, *requests: Request) -> None:
        """Submit one after the other, each when the one before has ended."""
        for request in requests:
            self.together(request)


Submit = Callable[..., None]


def post_eof_fallocate(c: Committer, submit: Submit) -> None:
    submit(c.write(c.direct, 64 * K, 64 * K), c.fallocate(0, 0, 64 * K))


def eof_block_zeroing(c: Committer, submit: Submit) -> None:
    os.pwrite(c.buffered, b"x" * 5 * K, 0)
    os.fsync(c.buffered)
    submit(c.write(c.direct, 4 * K, 512), c.write(c.direct, 64 * K, 4 * K))


def zeroing_over_write(c: Committer, submit: Submit) -> None:
    c.apart(c.write(c.direct, 0, 128 * K))
    submit(c.write(c.direct, 32 * K, 4 * K), c.fallocate(0x03, 0, 64 * K))


def truncate_below_write(c: Committer, submit: Submit) -> None:
    c.apart(c.write(c.direct, 0, 128 * K))
    submit(c.write(c.direct, 64 * K, 64 * K), c.truncate(64 * K))


def overlapping_writes(c: Committer, submit: Submit) -> None:
    c.apart(c.write(c.direct, 0, 128 * K))
    submit(c.write(c.direct, 0, 64 * K), c.write(c.direct, 60 * K, 64 * K))


def buffered_and_direct(c: Committer, submit: Submit) -> None:
    c.apart(c.write(c.direct, 0, 128 * K))
    submit(c.write(c.direct, 0, 4 * K), c.write(c.buffered, 4 * K - 10, 10))


def size_going_backwards(c: Committer, submit: Submit) -> None:
    c.apart(c.write(c.direct, 0, LONG))
    if submit == c.apart:
        os.ftruncate(c.buffered, SHORT)
    for _ in range(6000):
        if os.fstat(c.buffered).st_size == SHORT:
            break
        time.sleep(0.01)
    c.apart(c.write(c.direct, 0, 4 * K))


HAZARDS: dict[str, Callable[[Committer, Submit], None]] = {
    "post-eof-fallocate": post_eof_fallocate,
    "eof-block-zeroing": eof_block_zeroing,
    "zeroing-over-write": zeroing_over_write,
    "truncate-below-write": truncate_below_write,
    "overlapping-writes": overlapping_writes,
    "buffered-and-direct": buffered_and_direct,
    "size-going-backwards": size_going_backwards,
}

ROUNDS = 200


def punched(c: Committer) -> None:
    """Punch what is being written, by system call, of which XFS says more than of io_uring's."""
    for number in range(ROUNDS):
        at = ctypes.c_int64(64 * K * number)
        c.apart(c.write(c.direct, at.value, 64 * K))
        c.submit(c.write(c.direct, at.value, 4 * K))
        assert _libc.fallocate(c.buffered, 0x03, at, ctypes.c_int64(64 * K)) == 0
        c.wait(1)


APART = ".apart"
"""Ends the name of the file of a twin."""


def main(directory: Path) -> None:
    for name, commit in HAZARDS.items():
        hazard, twin = Committer(directory / name), Committer(directory / (name + APART))
        commit(hazard, hazard.together)
        commit(twin, twin.apart)


if __name__ == "__main__":
    if sys.argv[2:] == ["punched"]:
        punched(Committer(Path(sys.argv[1]) / "punched"))
    else:
        main(Path(sys.argv[1]))
