"""aio=native: Linux AIO (io_submit(2), io_getevents(2), an eventfd in the asyncio loop), as block/linux-aio.c does it.

Requests of one turn of the event loop go out in one io_submit. The buffers must be aligned for O_DIRECT: without
O_DIRECT, io_submit would write synchronously and nothing would ever be in flight. Written on ctypes, because the
bindings to be had (caio 0.9 on PyPI) submit buffers of their own that are not aligned.
"""

import asyncio
import ctypes
import errno
import os
import platform
from collections import deque
from dataclasses import dataclass

from blockstack.buffers import AlignedBuffer
from blockstack.journal import Entry, Journal, Kind
from blockstack.settled import settled

DEPTH = 128  # iocbs in flight at once (QEMU: MAX_EVENTS 1024)

_IOCB_CMD_PREAD = 0
_IOCB_CMD_PWRITE = 1
_IOCB_FLAG_RESFD = 1

# The C library has no wrappers for these; the numbers are per architecture (syscalls(2)), all of them little-endian.
_SYSCALLS = {
    "x86_64": {"io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209},
    "aarch64": {"io_setup": 0, "io_destroy": 1, "io_getevents": 4, "io_submit": 2},
    "riscv64": {"io_setup": 0, "io_destroy": 1, "io_getevents": 4, "io_submit": 2},
    "ppc64le": {"io_setup": 227, "io_destroy": 228, "io_getevents": 229, "io_submit": 230},
}


class _Iocb(ctypes.Structure):
    """struct iocb of <linux/aio_abi.h>, little-endian layout."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("lio_opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fildes", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved2", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _IoEvent(ctypes.Structure):
    """struct io_event of <linux/aio_abi.h>."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("res", ctypes.c_int64),
        ("res2", ctypes.c_int64),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(name: str, *arguments: object) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, f"Linux AIO is not wired up for {platform.machine()}")
    result = int(_libc.syscall(ctypes.c_long(numbers[name]), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


@dataclass(slots=True, eq=False)
class _Pending:
    """One request from queueing to completion."""

    opcode: int
    buffer: AlignedBuffer  # kept: the kernel knows only its address
    length: int
    offset: int
    request: int
    future: "asyncio.Future[int]"
    entry: Entry | None = None


class LinuxAio:
    """One AIO context for one file. Raises OSError where the kernel has no AIO (ENOSYS) or no room (EAGAIN)."""

    def __init__(self, fd: int, journal: Journal | None = None) -> None:
        self._fd = fd
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._context = ctypes.c_ulong(0)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            _syscall("io_setup", ctypes.c_uint(DEPTH), ctypes.byref(self._context))
        except OSError:
            os.close(self._eventfd)
            raise
        self._loop.add_reader(self._eventfd, self._reap)
        self._iocbs = (_Iocb * DEPTH)()
        self._by_address = {ctypes.addressof(iocb): slot for slot, iocb in enumerate(self._iocbs)}
        self._addresses = list(self._by_address)
        self._free = list(range(DEPTH))
        self._in_flight: dict[int, _Pending] = {}
        self._queue: deque[_Pending] = deque()
        self._batch = (ctypes.c_uint64 * DEPTH)()
        self._events = (_IoEvent * DEPTH)()
        self._no_wait = _Timespec(0, 0)
        self._scheduled = False

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        """Read into `buffer`. Returns the bytes read, fewer only at the end of the file. Raises OSError."""
        return await self._enqueue(_IOCB_CMD_PREAD, buffer, length, offset, 0)

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        """Write `length` bytes; a short write is ENOSPC (QEMU: qemu_laio_process_completion). Raises OSError."""
        if await self._enqueue(_IOCB_CMD_PWRITE, buffer, length, offset, request) != length:
            raise OSError(errno.ENOSPC, "short write")

    def close(self) -> None:
        """Destroy the context; io_destroy(2) would wait for what is in flight."""
        self._loop.remove_reader(self._eventfd)
        try:
            _syscall("io_destroy", self._context)
        finally:
            os.close(self._eventfd)

    async def _enqueue(self, opcode: int, buffer: AlignedBuffer, length: int, offset: int, request: int) -> int:
        pending = _Pending(opcode, buffer, length, offset, request, self._loop.create_future())
        self._queue.append(pending)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._submit)
        result = await settled(pending.future)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _submit(self) -> None:
        """Send as much of the queue as the context takes, in one system call."""
        self._scheduled = False
        count = min(len(self._queue), len(self._free))
        if count == 0:
            return
        size = self._size() if self._journal is not None else -1
        slots = []
        for index in range(count):
            pending, slot = self._queue[index], self._free[-1 - index]
            slots.append(slot)
            self._prepare(slot, pending, size)
            self._batch[index] = self._addresses[slot]
            self._in_flight[slot] = pending
        try:
            sent = _syscall("io_submit", self._context, ctypes.c_long(count), ctypes.byref(self._batch))
        except OSError as error:
            sent = 0
            failed = error.errno or errno.EIO
        else:
            failed = 0
        for slot in slots[sent:]:
            self._unsend(self._in_flight.pop(slot))
        for _ in range(sent):
            self._queue.popleft()
        if sent:
            del self._free[-sent:]
        if failed == errno.EAGAIN and self._in_flight:
            return  # tried again when something has completed
        if failed:
            # The error is the first request's (io_submit(2)); with nothing in flight EAGAIN would never clear.
            self._queue.popleft().future.set_result(-failed)
        if self._queue:
            self._schedule()

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def _schedule(self) -> None:
        if not self._scheduled and self._free:
            self._scheduled = True
            self._loop.call_soon(self._submit)

    def _prepare(self, slot: int, pending: _Pending, size: int) -> None:
        iocb = self._iocbs[slot]
        iocb.data = pending.request
        iocb.lio_opcode = pending.opcode
        iocb.fildes = self._fd
        iocb.buf = pending.buffer.address
        iocb.nbytes = pending.length
        iocb.offset = pending.offset
        iocb.flags = _IOCB_FLAG_RESFD
        iocb.resfd = self._eventfd
        if self._journal is not None and pending.opcode == _IOCB_CMD_PWRITE:
            pending.entry = self._journal.begin(
                Kind.WRITE, pending.offset, pending.length, request=pending.request, size=size
            )

    def _unsend(self, pending: _Pending) -> None:
        if self._journal is not None and pending.entry is not None:
            self._journal.entries.remove(pending.entry)
            pending.entry = None

    def _reap(self) -> None:
        """Complete what the kernel has completed (called when the eventfd is readable)."""
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return
        while True:
            count = _syscall(
                "io_getevents",
                self._context,
                ctypes.c_long(0),
                ctypes.c_long(DEPTH),
                ctypes.byref(self._events),
                ctypes.byref(self._no_wait),
            )
            for event in self._events[:count]:
                slot = self._by_address[event.obj]
                self._complete(self._in_flight.pop(slot), int(event.res))
                self._free.append(slot)
            if count < DEPTH:
                break
        if self._queue:
            self._schedule()

    def _complete(self, pending: _Pending, result: int) -> None:
        if self._journal is not None and pending.entry is not None:
            self._journal.end(pending.entry, result, self._size)
        if not pending.future.done():
            pending.future.set_result(result)
