"""aio=native: Linux AIO (io_submit(2), io_getevents(2), an eventfd in the asyncio loop), as block/linux-aio.c does it.

The buffers must be aligned for O_DIRECT: without O_DIRECT, io_submit would write synchronously and nothing would ever
be in flight. Written on ctypes, because the bindings to be had (caio 0.9 on PyPI) submit buffers of their own that are
not aligned.
"""

import ctypes
import errno
import os
import platform
import struct

from blockstack.aio.batch import BatchedEngine, Pending
from blockstack.journal import Journal

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

_IOCB = struct.Struct("=QIiHhIQqqQII")
"""struct iocb of <linux/aio_abi.h>, little-endian layout: data, key, rw_flags, lio_opcode, reqprio, fildes, buf,
nbytes, offset, reserved2, flags, resfd.
"""

_EVENT = struct.Struct("=QQqq")
"""struct io_event of <linux/aio_abi.h>: data, obj, res, res2."""


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


class LinuxAio(BatchedEngine):
    """One AIO context for one file. Raises OSError where the kernel has no AIO (ENOSYS) or no room (EAGAIN)."""

    def __init__(self, fd: int, journal: Journal | None = None) -> None:
        super().__init__(fd, journal)
        self._context = ctypes.c_ulong(0)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            _syscall("io_setup", ctypes.c_uint(DEPTH), ctypes.byref(self._context))
        except OSError:
            os.close(self._eventfd)
            raise
        self._loop.add_reader(self._eventfd, self._reap)
        self._iocbs = ctypes.create_string_buffer(DEPTH * _IOCB.size)
        first = ctypes.addressof(self._iocbs)
        self._addresses = [first + slot * _IOCB.size for slot in range(DEPTH)]
        self._by_address = {address: slot for slot, address in enumerate(self._addresses)}
        self._free = list(range(DEPTH))
        self._in_flight: dict[int, Pending] = {}
        self._batch = (ctypes.c_uint64 * DEPTH)()
        self._events = ctypes.create_string_buffer(DEPTH * _EVENT.size)
        self._no_wait = _Timespec(0, 0)

    def close(self) -> None:
        """Destroy the context; io_destroy(2) would wait for what is in flight."""
        self._loop.remove_reader(self._eventfd)
        try:
            _syscall("io_destroy", self._context)
        finally:
            os.close(self._eventfd)

    def _room(self) -> int:
        return len(self._free)

    def _busy(self) -> bool:
        return bool(self._in_flight)

    def _send(self, batch: list[Pending]) -> int:
        count = len(batch)
        slots = self._free[-count:]
        fd, eventfd = self._fd, self._eventfd
        for index, (slot, pending) in enumerate(zip(slots, batch, strict=True)):
            _IOCB.pack_into(
                self._iocbs,
                slot * _IOCB.size,
                pending.request,
                0,
                0,
                _IOCB_CMD_PWRITE if pending.write else _IOCB_CMD_PREAD,
                0,
                fd,
                pending.buffer.address,
                pending.length,
                pending.offset,
                0,
                _IOCB_FLAG_RESFD,
                eventfd,
            )
            self._batch[index] = self._addresses[slot]
        sent = _syscall("io_submit", self._context, ctypes.c_long(count), ctypes.byref(self._batch))
        self._in_flight.update(zip(slots[:sent], batch, strict=False))
        del self._free[-count:]
        self._free.extend(slots[sent:])
        return sent

    def _reap(self) -> None:
        """Complete what the kernel has completed (called when the eventfd is readable)."""
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return
        ended: list[tuple[Pending, int]] = []
        count = DEPTH
        while count == DEPTH:
            try:
                count = _syscall(
                    "io_getevents",
                    self._context,
                    ctypes.c_long(0),
                    ctypes.c_long(DEPTH),
                    ctypes.byref(self._events),
                    ctypes.byref(self._no_wait),
                )
            except InterruptedError:
                count = 0  # no event, and a signal pending (fs/aio.c): it never sleeps here
            for _, address, result, _ in _EVENT.iter_unpack(memoryview(self._events)[: count * _EVENT.size]):
                slot = self._by_address[address]
                pending = self._in_flight.pop(slot)
                self._free.append(slot)
                self._end(pending, result)
                ended.append((pending, result))
        self._schedule()
        # Last: who waits goes on at once, and may close the engine.
        for pending, result in ended:
            pending.future.set_result(result)
