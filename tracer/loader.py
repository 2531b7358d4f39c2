"""bcc, the distribution's package: find it, compile `bpf/` with it, keep what it prints to itself."""

import contextlib
import ctypes
import importlib
import os
import struct
from collections.abc import Iterator
from typing import Any

import bpf
from tracer.errors import UnsupportedError

_LIBC = ctypes.CDLL(None, use_errno=True)


def import_bcc() -> Any:
    """The module. Raises `UnsupportedError` where there is none, or another package of that name."""
    try:
        module = importlib.import_module("bcc")
    except ImportError as error:
        raise UnsupportedError(
            f"bcc is missing ({error}): install the distribution's package (apt install python3-bpfcc); "
            "a virtual environment needs --system-site-packages and the distribution's python3"
        ) from error
    if not hasattr(module, "BPF"):
        raise UnsupportedError(
            "the installed `bcc` is not the BPF Compiler Collection (PyPI's bcc is something else): "
            "pip uninstall bcc, apt install python3-bpfcc"
        )
    return module


def build(bcc: Any, text: str, macros: dict[str, int]) -> Any:
    """Compile a program of eofrace's: a bcc.BPF, nothing of it loaded. Raises `UnsupportedError`."""
    # No debugging information: it costs the compiler a fifth of its time, and nobody reads it.
    flags = ["-w", "-g0", *(f"-D{name}={value}" for name, value in macros.items())]
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf.STANDIN)
    try:
        # bcc puts the working directory in front of the include path, and chdir()s itself anyway.
        with contextlib.chdir(bpf.STANDIN), quiet() as said:
            try:
                return bcc.BPF(text=text.encode(), cflags=flags)
            except Exception as error:  # bcc raises nothing more specific
                tail = said()
                if "Operation not permitted" in tail:
                    raise UnsupportedError(
                        f"the kernel refuses BPF ({tail}): a container, a lockdown or a sandbox forbids it; "
                        "run on the host or in `eofrace vm`"
                    ) from error
                raise UnsupportedError(f"bcc cannot compile eofrace's programs: {error}: {tail}") from error
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


def attach_kfunc(bcc: Any, program: Any, name: str, function: str, *, returns: bool) -> Any:
    """Attach the program `name` to the kernel's `function` by fentry, or fexit; returns its bcc.BPF.Function.

    bcc has methods for that, but they want a program named "kfunc__FUNCTION", and it loads all of that name as soon
    as they are compiled: a kernel that refuses one would refuse everything. Here only the kernel is told that name.
    Raises `Exception` with the reason.
    """
    lib, module = bcc.lib, program.module
    known_as = f"{'kretfunc' if returns else 'kfunc'}__{function}".encode()
    start, size = (lib.bpf_function_start(module, name.encode()), lib.bpf_function_size(module, name.encode()))
    version = lib.bpf_module_kern_version(module)
    licence = lib.bpf_module_license(module)
    fd = lib.bcc_func_load(module, bcc.BPF.TRACING, known_as, start, size, licence, version, 0, None, 0, None, -1)
    if fd < 0:
        raise Exception(os.strerror(ctypes.get_errno()))
    program.funcs[known_as] = loaded = bcc.BPF.Function(program, known_as, fd)
    link = lib.bpf_attach_kfunc(fd)
    if link < 0:
        raise Exception(os.strerror(ctypes.get_errno()))
    # Where bcc.BPF.cleanup() looks for what it has to close.
    (program.kfunc_exit_fds if returns else program.kfunc_entry_fds)[known_as] = link
    return loaded


_PROG_LOAD, _RAW_TRACEPOINT_OPEN = 5, 17  # enum bpf_cmd of linux/bpf.h
_TRACING, _TRACE_RAW_TP = 26, 23  # enum bpf_prog_type, bpf_attach_type
_SYS_BPF = 321  # x86-64, the only machine that tracer.attach takes


def load_typed(bcc: Any, program: Any, name: str, type_id: int) -> Any:
    """Load the program `name` for the raw tracepoint whose typedef in the kernel's BTF has that number (v5.5); returns
    its bcc.BPF.Function, for `attach_typed`.

    libbcc loads programs of this type for functions alone, so that the two system calls are made here.
    Raises OSError; what the verifier said is on standard error.
    """
    lib, module, known_as = bcc.lib, program.module, name.encode()
    licence = ctypes.create_string_buffer(lib.bpf_module_license(module))
    count, start = lib.bpf_function_size(module, known_as) // 8, lib.bpf_function_start(module, known_as)
    # union bpf_attr: type, instructions and licence first, then the verifier's log, at last what it is attached to.
    head = struct.pack("<IIQQ", _TRACING, count, start, ctypes.addressof(licence))
    tail = struct.pack("<II16sII", 0, 0, known_as[:15], 0, _TRACE_RAW_TP) + bytes(36)
    attr = head + struct.pack("<IIQ", 0, 0, 0) + tail + struct.pack("<I", type_id)
    try:
        fd = _bpf(_PROG_LOAD, attr)
    except OSError:
        log = ctypes.create_string_buffer(1 << 20)
        attr = head + struct.pack("<IIQ", 1, len(log), ctypes.addressof(log)) + attr[40:]
        with contextlib.suppress(OSError):
            os.close(_bpf(_PROG_LOAD, attr))
        os.write(2, log.value)  # where libbcc's goes
        raise
    program.funcs[known_as] = loaded = bcc.BPF.Function(program, known_as, fd)
    return loaded


def attach_typed(program: Any, tracepoint: str, loaded: Any) -> None:
    """Attach what `load_typed` gave to the raw tracepoint that it was loaded for. Raises OSError."""
    link = _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", 0, loaded.fd, 0))
    # Where bcc.BPF.cleanup() looks for what it has to close.
    program.raw_tracepoint_fds[tracepoint.encode()] = link


def _bpf(command: int, attr: bytes) -> int:
    """bpf(2), which gives a descriptor. Raises OSError."""
    fd = int(_LIBC.syscall(_SYS_BPF, command, ctypes.create_string_buffer(attr, len(attr)), len(attr)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Keep what clang and libbpf write to standard error; yields a function that gives the last lines of it."""
    with open(os.memfd_create("stderr"), "r+b") as kept:
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield lambda: _tail(kept.fileno())
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _tail(fd: int) -> str:
    """The last lines of a file, short enough for a message."""
    text = os.pread(fd, 1 << 20, max(os.fstat(fd).st_size - (1 << 20), 0)).decode(errors="replace")
    return "; ".join(line.strip() for line in text.strip().splitlines()[-12:])[-600:]
