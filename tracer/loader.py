"""Load what `tracer.compiler` has made: maps, programs, and what attaches these to the kernel.

bcc.BPF does that only for what it has compiled itself. Its functions of one system call, and its tables, need no more
than a descriptor.
"""

import contextlib
import ctypes
import os
import struct
from types import SimpleNamespace
from typing import Any

from tracer.compiler import INSTRUCTION_BYTES, Compiled, Map, with_maps

_LIBC = ctypes.CDLL(None, use_errno=True)

_MAP_CREATE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN = 0, 5, 17  # enum bpf_cmd of linux/bpf.h
_KPROBE, _RAW_TRACEPOINT, _TRACING = 2, 17, 26  # enum bpf_prog_type
_TRACE_RAW_TP = 23  # enum bpf_attach_type
_SYS_BPF = 321  # x86-64, the only machine that tracer.attach takes


class Program:
    """Maps and programs in the kernel; gone after `close()`, or with the process. Methods raise `OSError`.

    What the verifier said is on standard error then.
    """

    def __init__(self, bcc: Any, compiled: Compiled) -> None:
        self._bcc = bcc
        self._compiled = compiled
        self._tables: dict[str, Any] = {}
        self._open: set[int] = set()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._close_all)
        try:
            self._maps = {number: self._create(described) for number, described in enumerate(compiled.maps)}
        except OSError:
            self.close()
            raise
        self._numbers = {described.name: number for number, described in enumerate(compiled.maps)}

    def close(self) -> None:
        """Detach and forget everything. May be called twice."""
        self._stack.close()

    def __getitem__(self, name: str) -> Any:
        """A map that is no ring, as bcc's table of its kind."""
        if name not in self._tables:
            number = self._numbers[name]
            self._tables[name] = _table(self._bcc, self._compiled.maps[number], self.fd(name))
        return self._tables[name]

    def fd(self, name: str) -> int:
        """A map's descriptor."""
        return self._maps[self._numbers[name]]

    def size(self, name: str) -> int:
        """Instructions of a program."""
        return len(self._compiled.programs[name]) // INSTRUCTION_BYTES

    def load_for_tracepoint(self, name: str) -> int:
        """Load a program for raw tracepoints; returns its descriptor, as all of these."""
        return self._load(name, _RAW_TRACEPOINT, name)

    def load_for_kprobe(self, name: str) -> int:
        """The same for kprobes and kretprobes."""
        return self._load(name, _KPROBE, name)

    def load_for_kfunc(self, name: str, function: str, *, returns: bool) -> int:
        """The same for fentry, or fexit, of a function of the kernel, which libbcc finds by the program's name."""
        return self._load(name, _TRACING, f"{'kretfunc' if returns else 'kfunc'}__{function}")

    def load_typed(self, name: str, type_id: int) -> int:
        """The same for the raw tracepoint whose typedef in the kernel's BTF has that number (v5.5).

        libbcc loads programs of this type for functions alone, so that the system call is made here.
        """
        code = ctypes.create_string_buffer(with_maps(self._compiled.programs[name], self._maps))
        licence = ctypes.create_string_buffer(self._compiled.licence.encode())
        # union bpf_attr: type, instructions and licence first, then the verifier's log, at last what it is attached to.
        head = struct.pack("<IIQQ", _TRACING, self.size(name), ctypes.addressof(code), ctypes.addressof(licence))
        tail = struct.pack("<II16sII", 0, 0, name.encode()[:15], 0, _TRACE_RAW_TP) + bytes(36)
        tail += struct.pack("<I", type_id)
        try:
            return self._owned(_bpf(_PROG_LOAD, head + struct.pack("<IIQ", 0, 0, 0) + tail))
        except OSError:
            log = ctypes.create_string_buffer(1 << 20)
            with contextlib.suppress(OSError):
                os.close(_bpf(_PROG_LOAD, head + struct.pack("<IIQ", 1, len(log), ctypes.addressof(log)) + tail))
            os.write(2, log.value)  # where libbcc's goes
            raise

    def attach_typed(self, loaded: int) -> int:
        """Attach what `load_typed` gave to the raw tracepoint that it was loaded for; returns what `detach` takes."""
        return self._owned(_bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", 0, loaded, 0)))

    def attach_to_tracepoint(self, loaded: int, tracepoint: str) -> int:
        """Attach what `load_for_tracepoint` gave to a raw tracepoint; returns what `detach` takes."""
        name = ctypes.create_string_buffer(tracepoint.encode())
        return self._owned(_bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", ctypes.addressof(name), loaded, 0)))

    def detach(self, link: int) -> None:
        """Take a program from its raw tracepoint."""
        self._open.remove(link)
        os.close(link)

    def attach_to_function(self, loaded: int, function: str, *, returns: bool) -> None:
        """Attach what `load_for_kprobe` gave to a function's begin, or its return."""
        lib = self._bcc.lib
        event = f"{'r' if returns else 'p'}_{function}".encode()
        link = _checked(lib.bpf_attach_kprobe(loaded, int(returns), event, function.encode(), 0, 0))
        # The name is that of a kprobe in tracefs, where the kernel has no other kind.
        self._stack.callback(lib.bpf_detach_kprobe, event)
        self._stack.callback(lib.bpf_close_perf_event_fd, link)

    def attach_kfunc(self, loaded: int) -> None:
        """Attach what `load_for_kfunc` gave."""
        self._owned(_checked(self._bcc.lib.bpf_attach_kfunc(loaded)))

    def _load(self, name: str, kind: int, known_as: str) -> int:
        code = with_maps(self._compiled.programs[name], self._maps)
        load = self._bcc.lib.bcc_prog_load
        load.restype = ctypes.c_int
        load.argtypes = [*(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)]
        load.argtypes += [*(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)]
        licence, version = self._compiled.licence.encode(), self._compiled.kernel_version
        return self._owned(_checked(load(kind, known_as.encode(), code, len(code), licence, version, 0, None, 0)))

    def _create(self, described: Map) -> int:
        sizes = (described.type, described.key_size, described.value_size, described.max_entries, described.flags)
        return self._owned(_bpf(_MAP_CREATE, struct.pack("<5III16s", *sizes, 0, 0, described.name.encode()[:15])))

    def _owned(self, descriptor: int) -> int:
        self._open.add(descriptor)
        return descriptor

    def _close_all(self) -> None:
        while self._open:
            os.close(self._open.pop())


def _table(bcc: Any, described: Map, descriptor: int) -> Any:
    """bcc's table on a map that bcc has not made: it asks its module for nothing but the number of entries."""
    decode = bcc.BPF._decode_table_type
    table = bcc.table
    classes = {
        table.BPF_MAP_TYPE_HASH: table.HashTable,
        table.BPF_MAP_TYPE_LRU_HASH: table.LruHash,
        table.BPF_MAP_TYPE_ARRAY: table.Array,
        table.BPF_MAP_TYPE_PERCPU_ARRAY: table.PerCpuArray,
        table.BPF_MAP_TYPE_PROG_ARRAY: table.ProgArray,
    }
    owner = SimpleNamespace(module=None, Function=bcc.BPF.Function)
    found = classes[described.type](owner, 0, descriptor, decode(described.key), decode(described.value))
    found.max_entries = described.max_entries
    return found


def _checked(returned: int) -> int:
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return returned


def _bpf(command: int, attr: bytes) -> int:
    """bpf(2), which gives a descriptor. Raises OSError."""
    return _checked(int(_LIBC.syscall(_SYS_BPF, command, ctypes.create_string_buffer(attr, len(attr)), len(attr))))
