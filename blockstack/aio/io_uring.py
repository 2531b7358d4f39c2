"""aio=io_uring: a ring of submissions and one of completions, shared with the kernel, as block/io_uring.c uses them.

Since Linux 5.6 (IORING_OP_READ and IORING_OP_WRITE). Written on ctypes and mmap: the one binding on PyPI (liburing
2026.3.30) calls itself alpha, asks for Linux 6.14, takes `bytes` where a read needs memory of ours at an aligned
address, makes a Python object of every completion, and has been rewritten with breaking changes this year.
"""

import ctypes
import errno
import itertools
import mmap
import os
import platform
import struct

from blockstack.aio.batch import BatchedEngine, Pending
from blockstack.journal import Journal

DEPTH = 128
"""Entries of the ring, and requests in flight (QEMU: MAX_ENTRIES)."""

_SETUP, _ENTER = 425, 426  # the same numbers on every architecture
_FEAT_SINGLE_MMAP = 1
_FEAT_RW_CUR_POS = 8  # came with the two opcodes used here (5.6)
_OFF_RINGS, _OFF_SQES = 0, 0x10000000
_OP_READ, _OP_WRITE = 22, 23

_SQE = struct.Struct("=BBHiQQIIQ24x")
"""struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, rw_flags, user_data, and what is 0 here."""

_CQE = struct.Struct("=QiI")
"""struct io_uring_cqe: user_data, res, flags."""

_UNNAMED = 1 << 63
"""Bit of a user_data that is not a tracked request's id."""

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(name: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _enter(fd: int, count: int) -> int:
    """io_uring_enter(2): submit `count` entries, wait for none. Returns how many were taken. Raises OSError."""
    while True:
        try:
            return _syscall(
                "io_uring_enter",
                _ENTER,
                ctypes.c_uint(fd),
                ctypes.c_uint(count),
                ctypes.c_uint(0),
                ctypes.c_uint(0),
                None,
                ctypes.c_size_t(0),
            )
        except InterruptedError:
            continue  # QEMU: ioq_submit


class IoUring(BatchedEngine):
    """One ring for one file. Raises OSError: ENOSYS where the kernel has none, EPERM where the administrator forbids
    it (kernel.io_uring_disabled), ENOMEM.
    """

    def __init__(self, fd: int, journal: Journal | None = None) -> None:
        super().__init__(fd, journal)
        if platform.machine() != "x86_64":
            # The rings are read and written without barriers: Python has none, and x86 needs none.
            raise OSError(errno.ENOSYS, f"io_uring is not wired up for {platform.machine()}")
        parameters = (ctypes.c_uint32 * 30)()
        self._ring = _syscall("io_uring_setup", _SETUP, ctypes.c_uint(DEPTH), ctypes.byref(parameters))
        try:
            self._map(parameters)
        except BaseException:
            os.close(self._ring)
            raise
        self._in_flight: dict[int, Pending] = {}
        self._serial = itertools.count(_UNNAMED)
        self._loop.add_reader(self._ring, self._reap)

    def _map(self, parameters: "ctypes.Array[ctypes.c_uint32]") -> None:
        """Map the rings (struct io_uring_params: entries, features, then two tables of offsets)."""
        sq_entries, cq_entries, features = parameters[0], parameters[1], parameters[5]
        if not features & _FEAT_SINGLE_MMAP or not features & _FEAT_RW_CUR_POS:
            raise OSError(errno.ENOSYS, "io_uring of a kernel before 5.6")
        _, sq_tail, sq_mask, _, _, _, sq_array = parameters[10:17]
        cq_head, cq_tail, cq_mask, _, _, cqes = parameters[20:26]
        size = max(sq_array + 4 * sq_entries, cqes + _CQE.size * cq_entries)
        self._rings = mmap.mmap(self._ring, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_RINGS)
        self._sqes = mmap.mmap(
            self._ring, _SQE.size * sq_entries, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFF_SQES
        )
        # As 32-bit words, which are loaded and stored whole.
        self._words = memoryview(self._rings).cast("I")
        self._sq_tail, self._cq_head, self._cq_tail = sq_tail // 4, cq_head // 4, cq_tail // 4
        self._sq_mask, self._cq_mask = self._words[sq_mask // 4], self._words[cq_mask // 4]
        self._cqes = cqes
        for index in range(sq_entries):
            self._words[sq_array // 4 + index] = index

    def close(self) -> None:
        """Close the ring; called with nothing in flight."""
        self._loop.remove_reader(self._ring)
        self._words.release()
        self._rings.close()
        self._sqes.close()
        os.close(self._ring)

    def _room(self) -> int:
        return DEPTH - len(self._in_flight)

    def _busy(self) -> bool:
        return bool(self._in_flight)

    def _send(self, batch: list[Pending]) -> int:
        words, tail = self._words, self._words[self._sq_tail]
        names = []
        for index, pending in enumerate(batch):
            # The id is the request's in the trace. One that is taken, or none, is no reason to mistake completions.
            name = pending.request
            if not 0 < name < _UNNAMED or name in self._in_flight:
                name = next(self._serial)
            names.append(name)
            self._in_flight[name] = pending
            _SQE.pack_into(
                self._sqes,
                (tail + index & self._sq_mask) * _SQE.size,
                _OP_WRITE if pending.write else _OP_READ,
                0,
                0,
                self._fd,
                pending.offset + pending.done,
                pending.buffer.address + pending.done,
                pending.length - pending.done,
                0,
                name,
            )
        words[self._sq_tail] = tail + len(batch) & 0xFFFFFFFF
        sent = 0
        try:
            sent = _enter(self._ring, len(batch))
        except OSError as error:
            if error.errno == errno.EBUSY:  # completions wait to be reaped (before 5.19)
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise
        finally:
            # The kernel looks at the tail only in io_uring_enter: what it did not take can be taken back.
            words[self._sq_tail] = tail + sent & 0xFFFFFFFF
            for name in names[sent:]:
                del self._in_flight[name]
        return sent

    def _reap(self) -> None:
        """Complete what the kernel has completed (called when the ring is readable)."""
        words = self._words
        ended: list[tuple[Pending, int]] = []
        head, tail = words[self._cq_head], words[self._cq_tail]
        while head != tail:
            name, result, _ = _CQE.unpack_from(self._rings, self._cqes + (head & self._cq_mask) * _CQE.size)
            head = head + 1 & 0xFFFFFFFF
            pending = self._in_flight.pop(name)
            if not self._again(pending, result):
                ended.append((pending, result if result < 0 else pending.done + result))
        words[self._cq_head] = head
        self._schedule()
        # Last: who waits goes on at once, and may close the ring.
        for pending, result in ended:
            pending.future.set_result(result)

    def _again(self, pending: Pending, result: int) -> bool:
        """What luring_process_completions does with a result (QEMU 7.2): whether the request is sent once more."""
        self._end(pending, result)
        if result in (-errno.EINTR, -errno.EAGAIN):
            self._queue.append(pending)
            return True
        if not pending.write and 0 < result < pending.length - pending.done:
            # luring_resubmit_short_read: the rest is asked for, and only 0 bytes are the end of the file.
            pending.done += result
            self._queue.append(pending)
            return True
        return False
