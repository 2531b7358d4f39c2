"""The smallest thing that proves a kernel interface works here: one BPF program, one asynchronous write.

Each function returns what it found in a few words, or raises `OSError` with the errno of the call that failed.
System call numbers come from asm/unistd.h; an architecture that is not listed here is ENOSYS.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from pathlib import Path

from tracer.lab.loop import unnamed_file

# io_setup, io_destroy, io_getevents, io_submit, bpf
_SYSCALLS = {
    "x86_64": (206, 207, 208, 209, 321),
    "aarch64": (0, 1, 4, 2, 280),
    "riscv64": (0, 1, 4, 2, 280),
    "ppc64le": (227, 228, 229, 230, 361),
    "s390x": (243, 244, 245, 246, 351),
}
_IO_URING_SETUP = 425  # on every architecture

# enum bpf_cmd, enum bpf_map_type, enum bpf_prog_type of linux/bpf.h
_BPF_MAP_CREATE, _BPF_PROG_LOAD = 0, 5
_BPF_MAP_TYPE_RINGBUF = 27
_PROGRAM_TYPES = {"tracepoint": 5, "raw tracepoint": 17}
_RETURN_0 = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit

_libc = ctypes.CDLL(None, use_errno=True)


def bpf() -> str:
    """Load an empty program of each type that tracing uses, and make a ring buffer (457f44363a88, v5.8)."""
    text = ctypes.create_string_buffer(_RETURN_0, len(_RETURN_0))
    licence = ctypes.create_string_buffer(b"GPL")
    for kind in _PROGRAM_TYPES.values():
        attr = struct.pack("=IIQQ", kind, 2, ctypes.addressof(text), ctypes.addressof(licence))
        os.close(_bpf(_BPF_PROG_LOAD, attr))
    os.close(_bpf(_BPF_MAP_CREATE, struct.pack("=IIII", _BPF_MAP_TYPE_RINGBUF, 0, 0, mmap.PAGESIZE)))
    return f"{', '.join(_PROGRAM_TYPES)}; ring buffer"


def linux_aio(directory: Path) -> str:
    """One 4 KiB write through io_submit(2) to a nameless file in `directory`; says whether it was direct."""
    io_setup, io_destroy, io_getevents, io_submit, _ = _numbers()
    direct = False
    with contextlib.ExitStack() as stack:
        descriptor = unnamed_file(directory)
        stack.callback(os.close, descriptor)
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            stack.callback(os.close, again)
            descriptor, direct = again, True
        context = ctypes.c_ulong(0)
        _call(io_setup, ctypes.c_uint(1), ctypes.byref(context))
        stack.callback(_call, io_destroy, context)
        page = mmap.mmap(-1, mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        # struct iocb of linux/aio_abi.h; opcode 1 is IOCB_CMD_PWRITE. The one 0 behind aio_data is aio_key and
        # aio_rw_flags together, whose order depends on the byte order.
        iocb = ctypes.create_string_buffer(
            struct.pack("=QQHhIQQqQII", 0, 0, 1, 0, descriptor, address, len(page), 0, 0, 0, 0), 64
        )
        _call(io_submit, context, ctypes.c_long(1), (ctypes.c_void_p * 1)(ctypes.addressof(iocb)))
        event = ctypes.create_string_buffer(32)
        _call(io_getevents, context, ctypes.c_long(1), ctypes.c_long(1), event, None)
        (result,) = struct.unpack_from("=q", event, 16)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
    return "direct" if direct else "buffered"


def direct_io(directory: Path) -> str:
    """A 4 KiB direct write to a nameless file in `directory`."""
    descriptor = unnamed_file(directory)
    try:
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, mmap.PAGESIZE) as page:
                os.pwrite(again, page, 0)
        finally:
            os.close(again)
    finally:
        os.close(descriptor)
    return "O_DIRECT"


def io_uring() -> str:
    """Make a ring of one entry (2b188cc1bb85, v5.1)."""
    parameters = ctypes.create_string_buffer(120)
    os.close(_call(_IO_URING_SETUP, ctypes.c_uint(1), parameters))
    return "io_uring_setup"


def _bpf(command: int, attr: bytes) -> int:
    # The kernel takes a longer attr than it knows if the rest is zero.
    buffer = ctypes.create_string_buffer(attr, 72)
    return _call(_numbers()[4], ctypes.c_int(command), buffer, ctypes.c_uint(72))


def _numbers() -> tuple[int, int, int, int, int]:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise OSError(errno.ENOSYS, f"not wired up for {platform.machine()}")
    return numbers


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
