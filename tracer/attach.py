"""Load the programs of `bpf/` and attach each to the best mechanism that this host has, found by trying.

| hook | preferred | otherwise |
|---|---|---|
| system calls | raw tracepoints sys_enter, sys_exit | - |
| a direct write begins, ends | raw tracepoints iomap_dio_* (3fd41721cd5c, v6.6) | kprobes on the functions |
| xfs_file_fallocate by others than the system call | kprobe and kretprobe | a gap |
| a change took effect | raw tracepoints of XFS | a gap: t_applied 0, or the completion's time |
| a write goes to an io_uring worker | raw tracepoint io_uring_queue_async_work (of v6.0) | a gap |

A raw tracepoint exists, with the arguments that the program expects, if BTF says so. What no hook covers is in
`LIMITS`. Nothing but bcc and the kernel's own BTF is needed: no kernel headers (see `bpf`), no tracefs.
"""

import contextlib
import ctypes
import importlib
import mmap
import os
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bpf
from tracer import btf, interrupts
from tracer.errors import UnsupportedError
from tracer.operations import OPERATION, Operations

RECORD_BYTES = (OPERATION.itemsize + 7) // 8 * 8
"""A record in the ring: an OPERATION, padded as the C compiler pads it."""

LIMITS = (
    "truncate(2) and open(2) with O_TRUNC on a path are not seen, only ftruncate(2)",
    "asynchronous writes are seen where they pass through iomap (direct I/O of XFS, ext4, f2fs, btrfs without "
    "checksums); others count as dropped if submitted by io_submit(2), and are not noticed if by io_uring",
    "system calls of 32-bit processes are not seen",
    "a file on overlayfs must be watched on the file system below it",
)
"""What no hook covers on any host."""

_SYSCALLS = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("ftruncate", "fallocate", "io_submit", "io_uring_enter"),
)
_CALLBACKS = ("aio_complete_rw", "io_complete_rw", "io_complete_rw_iopoll")
_MACHINES: dict[str, tuple[tuple[int, ...], dict[str, str]]] = {
    # Numbers of _SYSCALLS; where pt_regs has a system call's and a function's arguments, and its result.
    "x86_64": (
        (1, 20, 18, 296, 328, 77, 285, 209, 426),
        {"arg": "di si dx r10", "carg": "di si dx cx", "ret": "ax", "nr": "orig_ax"},
    ),
}

_MEMBERS = (
    *("file.f_flags", "file.f_inode", "file.f_pos"),
    *("inode.i_ino", "inode.i_sb", "inode.i_size", "super_block.s_dev"),
    *("task_struct.files", "files_struct.fdt", "fdtable.fd", "fdtable.max_fds"),
    *("kiocb.ki_filp", "kiocb.ki_pos", "kiocb.ki_flags", "kiocb.ki_complete"),
    *("iov_iter.count", "iov_iter.data_source"),
)
_OPTIONAL = (
    *("aio_kiocb.ki_res.data", "io_kiocb.cqe.user_data", "io_kiocb.cmd", "io_kiocb.file"),
    *("xfs_inode.i_vnode", "iomap_dio.iocb"),
)

# Raw tracepoint: what its leading arguments must point to, and what is lost without it. An end comes before its
# begin, so that what begins is always seen to end.
_DIRECT = {
    "iomap_dio_complete": ("kiocb", ""),
    "iomap_dio_rw_queued": ("inode",),
    "iomap_dio_rw_begin": ("kiocb", "iov_iter"),
}
_EXTRA = {
    "xfs_end_io_direct_write": (("xfs_inode", ""), "t_applied of a write is the time of its completion"),
    "xfs_alloc_file_space": (("xfs_inode",), "no t_applied of a fallocate"),
    "xfs_zero_file_space": (("xfs_inode",), "no t_applied of a zero-range fallocate"),
    "xfs_free_file_space": (("xfs_inode",), "no t_applied of a hole punched"),
    "xfs_setattr": (("xfs_inode",), "no t_applied and no size_applied of a size set"),
    "xfs_zero_eof": (("xfs_inode",), "size_applied does not show a write that a size set waited for"),
    "xfs_itruncate_extents_start": (("xfs_inode",), "t_applied of a truncation is earlier than its last wait"),
    "io_uring_queue_async_work": (("io_kiocb",), "an io_uring write done by a worker begins late"),
}
# Function, program, whether it is a return probe.
_DIRECT_KPROBES = (
    ("iomap_dio_complete", "on_iomap_dio_complete_return", True),
    ("iomap_dio_complete", "on_iomap_dio_complete_enter", False),
    ("aio_complete_rw", "on_complete_rw", False),
    ("io_complete_rw", "on_complete_rw", False),
    ("__iomap_dio_rw", "on___iomap_dio_rw", False),
)
_FALLOCATE_KPROBES = (
    ("xfs_file_fallocate", "on_xfs_file_fallocate_return", True),
    ("xfs_file_fallocate", "on_xfs_file_fallocate", False),
)
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")

DROP_KINDS = ("ring full", "map full", "end not seen", "not through iomap")
"""Why an operation was lost, in the order of enum drop in bpf/eofrace.h."""


class Probes:
    """Attached programs. Made by `attach()`.

    `mechanisms` maps each hook to how it is attached, with the reason where a better way was not possible.
    `gaps` has a sentence for each hook that could not be attached, and what that costs.
    """

    def __init__(self, bcc: Any, program: Any, info: btf.Btf, ring_bytes: int) -> None:
        self.mechanisms: dict[str, str] = {}
        self.gaps: list[str] = []
        self.ring_bytes = ring_bytes
        self._bcc = bcc
        self._program = program
        self._misses_offset = info.offset("bpf_prog_info.recursion_misses")
        self._programs: dict[str, Any] = {}
        self._watched: dict[tuple[int, int], set[tuple[int, int]]] = {}

    @property
    def ring_fd(self) -> int:
        """Descriptor of the ring map; valid while attached."""
        return int(self._program[b"ring"].map_fd)

    def watch(self, dev: int, ino: int) -> None:
        """Record operations on this inode that begin from now on; `dev` is st_dev of stat(2).

        On btrfs st_dev is the subvolume's, which the kernel's inode does not have: use `watch_file` there.
        """
        # s_dev is MKDEV(major, minor) with 20 bits of minor; st_dev went through new_encode_dev().
        self._note(dev, ino, (ino, os.major(dev) << 20 | os.minor(dev)))

    def watch_file(self, fd: int) -> tuple[int, int]:
        """Watch the file that is open as `fd`, on any file system; returns its (st_dev, st_ino)."""
        status = os.fstat(fd)
        table, watched = self._program[b"learning"], self._program[b"watched"]
        before = {(key.ino, key.dev) for key in watched}
        thread = table.Key(os.getpid() << 32 | threading.get_native_id())
        table[thread] = table.Leaf(status.st_dev)
        with contextlib.suppress(OSError):
            # vfs_fallocate() refuses length 0, whatever the file; our program has seen the call by then.
            os.posix_fallocate(fd, 0, 0)
        del table[thread]
        found = {(key.ino, key.dev) for key in watched} - before
        if found:
            self._note(status.st_dev, status.st_ino, found.pop())
        elif (status.st_dev, status.st_ino) not in self._watched:
            self.watch(status.st_dev, status.st_ino)
        return status.st_dev, status.st_ino

    def unwatch(self, dev: int, ino: int) -> None:
        """Stop recording this inode, and forget its operations in flight. Nothing happens if it is not watched."""
        table = self._program[b"watched"]
        for inode, device in self._watched.pop((dev, ino), set()):
            with contextlib.suppress(KeyError):
                del table[table.Key(inode, device)]
        for name in (b"calls", b"writes"):
            entries = self._program[name]
            for key, leaf in entries.items():
                if leaf.op.dev == dev and leaf.op.ino == ino:
                    with contextlib.suppress(KeyError):
                        del entries[key]

    def inflight(self) -> Operations:
        """OPERATION rows of what has begun on a watched inode and not ended, as of now."""
        rows = b"".join(
            bytes(leaf)[: OPERATION.itemsize] for name in (b"calls", b"writes") for leaf in self._program[name].values()
        )
        begun: Operations = np.frombuffer(rows, OPERATION)
        keep = (begun["op"] != 0) & (begun["seq_end"] == 0) & (begun["ino"] != 0)
        return np.compress(keep, begun)

    def dropped(self) -> dict[str, int]:
        """Operations lost since the programs were attached, by reason.

        "program skipped": the kernel did not run a program because it was interrupted by itself on the same
        CPU (bpf_prog_info.recursion_misses, 9ed9e9ba2337, v5.12): at most one begin or end each.
        """
        table = self._program[b"drops"]
        lost = {name: int(table.sum(ctypes.c_int(i)).value) for i, name in enumerate(DROP_KINDS)}
        lost["program skipped"] = sum(self._misses(program.fd) for program in self._programs.values())
        return lost

    def _note(self, dev: int, ino: int, key: tuple[int, int]) -> None:
        table = self._program[b"watched"]
        table[table.Key(*key)] = table.Leaf(dev)
        self._watched.setdefault((dev, ino), set()).add(key)

    def _misses(self, fd: int) -> int:
        if self._misses_offset is None:
            return 0
        buffer = ctypes.create_string_buffer(self._misses_offset + 8)
        length = ctypes.c_uint32(len(buffer))
        if self._bcc.lib.bpf_obj_get_info(fd, buffer, ctypes.byref(length)) != 0:
            return 0
        return int.from_bytes(buffer.raw[self._misses_offset :], "little")

    def _raw(self, tracepoint: str) -> str | None:
        """Attach on_<tracepoint>; the reason if that is not possible."""
        name = f"on_{tracepoint}".encode()
        with _quiet() as said:
            try:
                self._programs[name.decode()] = self._program.load_func(name, self._bcc.BPF.RAW_TRACEPOINT)
                self._program.attach_raw_tracepoint(tracepoint.encode(), name)
            except Exception as error:  # bcc raises nothing more specific
                return f"{error} {said()}".strip()
        return None

    def _kprobe(self, function: str, name: str, returns: bool) -> str | None:
        with _quiet() as said:
            try:
                self._programs[name] = self._program.load_func(name.encode(), self._bcc.BPF.KPROBE)
                attach = self._program.attach_kretprobe if returns else self._program.attach_kprobe
                attach(event=function.encode(), fn_name=name.encode())
            except Exception as error:  # bcc raises nothing more specific
                return f"{error} {said()}".strip()
        return None


@contextlib.contextmanager
def attach(ring_bytes: int = 16 << 20) -> Iterator[Probes]:
    """Compile and attach everything; all of it is gone when the block ends, or the process does.

    `ring_bytes` is the room for finished operations that nobody has drained yet, a power of two and whole pages.
    Raises `UnsupportedError` naming cause and remedy if an essential hook cannot be had.
    """
    if ring_bytes < mmap.PAGESIZE or ring_bytes & (ring_bytes - 1):
        raise ValueError(f"ring_bytes must be a power of two of at least {mmap.PAGESIZE}, not {ring_bytes}")
    if os.geteuid() != 0:
        raise UnsupportedError("tracing the kernel needs root: run it as root (sudo)")
    bcc = _import_bcc()
    info = btf.kernel("xfs")
    by_kprobe = not all(_fits(info, name, arguments) for name, arguments in _DIRECT.items())
    with contextlib.ExitStack() as stack:
        # bcc has callbacks from C, where an exception that a signal raises is printed and lost.
        with interrupts.deferred():
            program = _compile(bcc, _macros(info, ring_bytes, by_kprobe))
            stack.callback(program.cleanup)
            probes = Probes(bcc, program, info, ring_bytes)
            _attach_extra(probes, info)
            _attach_fallocate(probes)
            _attach_direct(probes, by_kprobe)
            for tracepoint in ("sys_exit", "sys_enter"):
                _require(probes._raw(tracepoint), f"raw tracepoint {tracepoint}")
            probes.mechanisms["system calls"] = "raw tracepoints sys_enter, sys_exit"
        yield probes


def _attach_extra(probes: Probes, info: btf.Btf) -> None:
    for name, (arguments, cost) in _EXTRA.items():
        if info.tracepoint(name) is None:
            reason: str | None = "this kernel has no such tracepoint, or its module is not loaded"
        elif not _fits(info, name, arguments):
            reason = "its arguments are others on this kernel"
        elif arguments[0] == "xfs_inode" and info.offset("xfs_inode.i_vnode") is None:
            reason = "no BTF of xfs"
        else:
            reason = probes._raw(name)
        if reason is None:
            probes.mechanisms[name] = "raw tracepoint"
        else:
            probes.gaps.append(f"{name}: {reason}: {cost}")


def _attach_fallocate(probes: Probes) -> None:
    reason = _no_kprobes()
    for function, name, returns in _FALLOCATE_KPROBES:
        reason = reason or probes._kprobe(function, name, returns)
    if reason is None:
        probes.mechanisms["xfs_file_fallocate"] = "kprobe and kretprobe"
    else:
        probes.mechanisms["xfs_file_fallocate"] = f"system call only ({reason})"
        probes.gaps.append(f"xfs_file_fallocate: {reason}: a fallocate by io_uring or a kernel thread is not seen")


def _attach_direct(probes: Probes, by_kprobe: bool) -> None:
    if not by_kprobe:
        for name in _DIRECT:
            _require(probes._raw(name), f"raw tracepoint {name}")
            probes.mechanisms[name] = "raw tracepoint"
        return
    lacking = "no iomap_dio tracepoints before Linux 6.6"
    for function, name, returns in _DIRECT_KPROBES:
        _require(_no_kprobes() or probes._kprobe(function, name, returns), f"kprobe {function} ({lacking})")
        kind = "kprobe and kretprobe" if function == "iomap_dio_complete" else "kprobe"
        probes.mechanisms[function] = f"{kind} ({lacking})"


def _require(reason: str | None, what: str) -> None:
    if reason is not None:
        raise UnsupportedError(
            f"cannot attach {what}: {reason}: run as root outside of containers, on a kernel with BPF_EVENTS, "
            "and either Linux 6.6 or kprobes"
        )


def _no_kprobes() -> str | None:
    return None if _KPROBE_PMU.exists() else "kprobes are not compiled into this kernel (CONFIG_KPROBES)"


def _fits(info: btf.Btf, name: str, arguments: tuple[str, ...]) -> bool:
    found = info.tracepoint(name)
    return found is not None and found[: len(arguments)] == arguments


def _macros(info: btf.Btf, ring_bytes: int, by_kprobe: bool) -> dict[str, int]:
    """What the C files want to know of this host."""
    machine = platform.machine()
    if machine not in _MACHINES:
        raise UnsupportedError(f"tracing on {machine} is not supported: use {' or '.join(_MACHINES)}")
    numbers, registers = _MACHINES[machine]
    found = btf.offsets(info, _MEMBERS) | {path: info.offset(path) or 0 for path in _OPTIONAL}
    macros = {f"OFF_{path.replace('.', '_')}": offset for path, offset in found.items()}
    for macro, names in registers.items():
        places = list(btf.offsets(info, [f"pt_regs.{name}" for name in names.split()]).values())
        for i, place in enumerate(places):
            macros[f"OFF_pt_regs_{macro}{i if macro.endswith('arg') else ''}"] = place
    macros |= {f"NR_{name}": number for name, number in zip(_SYSCALLS, numbers, strict=True)}
    macros |= {f"SYM_{name}": address for name, address in _addresses(_CALLBACKS).items()}
    macros["RING_PAGES"] = ring_bytes // mmap.PAGESIZE
    return macros | {
        "PAGE_SIZE": mmap.PAGESIZE,
        "RECORD_BYTES": RECORD_BYTES,
        "BY_KPROBE": int(by_kprobe),
        "OPEN_O_DIRECT": os.O_DIRECT,
    }


def _addresses(names: tuple[str, ...]) -> dict[str, int]:
    """Kernel addresses of functions; 0 where /proc/kallsyms does not tell."""
    try:
        symbols = Path("/proc/kallsyms").read_bytes()
    except OSError:
        symbols = b""
    found = {name: re.search(rb"^([0-9a-f]+) [tT] %s$" % name.encode(), symbols, re.M) for name in names}
    return {name: int(match[1], 16) if match else 0 for name, match in found.items()}


def _import_bcc() -> Any:
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


def _compile(bcc: Any, macros: dict[str, int]) -> Any:
    flags = ["-w", *(f"-D{name}={value}" for name, value in macros.items())]
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf.STANDIN)
    try:
        # bcc puts the working directory in front of the include path, and chdir()s itself anyway.
        with contextlib.chdir(bpf.STANDIN), _quiet() as said:
            try:
                return bcc.BPF(text=bpf.source().encode(), cflags=flags)
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


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
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
