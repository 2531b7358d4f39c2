"""Which hooks there are, which mechanism each gets on this kernel, and what the programs have to know of it.

| hook | preferred | otherwise |
|---|---|---|
| system calls | raw tracepoints sys_enter, sys_exit, by BTF (v5.5) | the same without their types |
| a direct write begins, ends | raw tracepoints iomap_dio_* (3fd41721cd5c, v6.6), by BTF | kprobes on the functions |
| xfs_file_fallocate by others than the system call | kprobe and kretprobe | kfunc (fentry, fexit); a gap |
| xfs_file_fallocate where programs on system calls are skipped (7.3) | kprobe and kretprobe | as a gap, counted |
| the file of a truncate(2) | kprobe do_truncate | raw tracepoints of XFS and ext4; else counted |
| a change took effect | raw tracepoints of XFS | a gap: t_applied 0, or the completion's time |
| an io_uring request is submitted, completed | raw tracepoints io_uring_submit_req, _complete (of v6.0) | a gap |
| a write goes to an io_uring worker | raw tracepoint io_uring_queue_async_work (of v6.0) | a gap |

A kprobe comes before a kfunc because it also attaches to functions of modules, which bcc 0.26 cannot name to the
kernel for a kfunc, and XFS is a module on most hosts. A raw tracepoint exists, with the arguments that the program
expects, if BTF says so.
"""

import enum
import mmap
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tracer import btf
from tracer.errors import UnsupportedError


class Mechanism(enum.StrEnum):
    """How to attach where there is a choice."""

    AUTO = "auto"
    """The best that the kernel has, as the table says."""
    KPROBE = "kprobe"
    """Functions, by kprobe and kretprobe: direct writes, and XFS' fallocate, that of the system call too."""
    KFUNC = "kfunc"
    """The same functions, by fentry and fexit, as far as the kernel allows."""
    TRACEPOINT = "tracepoint"
    """Tracepoints and system calls only, whose programs know nothing but offsets."""


_SYSCALLS = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("copy_file_range", "sendfile", "splice", "ioctl", "truncate", "open_by_handle_at", "mmap"),
    *("ftruncate", "fallocate", "io_submit", "io_uring_enter", "open", "openat", "openat2", "creat"),
    *("io_getevents", "io_pgetevents"),
)
CHANGING_CALLS = frozenset(_SYSCALLS) - {"io_submit", "io_uring_enter", "io_getevents", "io_pgetevents", "mmap"}
"""System calls that are operations, or may be."""
_CALLBACKS = ("aio_complete_rw", "io_complete_rw", "io_complete_rw_iopoll")
_MACHINES: dict[str, tuple[tuple[int, ...], dict[str, str]]] = {
    # Numbers of _SYSCALLS; where pt_regs has a system call's and a function's arguments, and its result.
    "x86_64": (
        (1, 20, 18, 296, 328, 326, 40, 275, 16, 76, 304, 9, 77, 285, 209, 426, 2, 257, 437, 85, 208, 333),
        {"arg": "di si dx r10 r8 r9", "carg": "di si dx cx", "ret": "ax", "nr": "orig_ax", "compat_arg": "bx cx dx"},
    ),
}

_MEMBERS = (
    *("file.f_flags", "file.f_inode", "file.f_mode", "file.f_pos"),
    *("inode.i_ino", "inode.i_sb", "inode.i_size", "inode.i_mode", "super_block.s_dev", "super_block.s_magic"),
    *("inode.i_count", "inode.i_dentry.first", "inode.i_generation"),
    *("task_struct.files", "files_struct.fdt", "fdtable.fd", "fdtable.max_fds"),
    *(
        "task_struct.tgid",
        "task_struct.signal",
        "task_struct.flags",
        "task_struct.thread_info.status",
        "signal_struct.live",
        "task_struct.comm",
    ),
    "files_struct.count",
    *("file.f_path.dentry", "dentry.d_parent", "dentry.d_name.name", "dentry.d_inode"),
    *("kiocb.ki_filp", "kiocb.ki_pos", "kiocb.ki_flags", "kiocb.ki_complete"),
    *("iov_iter.count", "iov_iter.data_source"),
)
_OPTIONAL = (
    *("aio_kiocb.ki_res.data", "aio_kiocb.ki_res.obj", "aio_kiocb.ki_ctx", "kioctx.user_id"),
    *("io_kiocb.tctx", "io_kiocb.task", "io_uring_task.task"),
    *("io_kiocb.cqe.user_data", "io_kiocb.cmd", "io_kiocb.file"),
    *("io_kiocb.opcode", "io_kiocb.flags", "io_kiocb.cqe.fd", "io_rw.len", "io_uring_cqe.res"),
    *("io_sync.off", "io_sync.len", "io_sync.mode", "io_ftrunc.len"),
    *("io_open.how.flags", "io_open.file_slot", "io_splice.off_out", "io_splice.len"),
    *("xfs_inode.i_vnode", "iomap_dio.iocb", "dentry.d_u.d_alias"),
)

_BTRFS = ("btrfs_inode.vfs_inode", "btrfs_inode.root", "btrfs_root.anon_dev")
_KIOCB_HEAD = ("kiocb.ki_filp", "kiocb.ki_pos", "kiocb.ki_flags", "kiocb.ki_complete")  # of which is read at once

# Raw tracepoint: what its leading arguments must point to, and what is lost without it. An end comes before its
# begin, so that what begins is always seen to end.
DIRECT = {
    "iomap_dio_complete": ("kiocb", ""),
    "iomap_dio_rw_queued": ("inode",),
    "iomap_dio_rw_begin": ("kiocb", "iov_iter"),
}
EXTRA = {
    "xfs_end_io_direct_write": (("xfs_inode", ""), "t_applied of a write is the time of its completion"),
    "xfs_alloc_file_space": (("xfs_inode",), "no t_applied of a fallocate"),
    "xfs_zero_file_space": (("xfs_inode",), "no t_applied of a zero-range fallocate"),
    "xfs_free_file_space": (("xfs_inode",), "no t_applied of a hole punched"),
    "xfs_setattr": (("xfs_inode",), "no t_applied and no size_applied of a size set"),
    "xfs_zero_eof": (("xfs_inode",), "size_applied does not show a write that a size set waited for"),
    "xfs_itruncate_extents_start": (("xfs_inode",), "t_applied of a truncation is earlier than its last wait"),
    "io_uring_queue_async_work": (("io_kiocb",), "an io_uring write done by a worker begins late"),
}
SYSTEM_CALLS = ("sys_exit", "sys_enter")
"""Raw tracepoints of all system calls."""
TYPED = (*DIRECT, *SYSTEM_CALLS)
"""Raw tracepoints whose programs run for every write, and so are attached by their BTF where the kernel can do that.

Their arguments are pointers of known types then, and what they point to is read by an instruction, not by a helper.
"""
URING_SUBMIT = ("io_uring_submit_req", "io_uring_submit_sqe")
"""Raw tracepoint of an io_uring request that is submitted, by the name that it has since v6.4, and before."""
URING_MEMBERS = (
    *("io_kiocb.cqe.user_data", "io_kiocb.cqe.fd", "io_kiocb.cmd", "io_kiocb.file", "io_kiocb.opcode"),
    *("io_kiocb.flags", "io_rw.len", "io_sync.off", "io_sync.len", "io_sync.mode"),
    *("io_open.how.flags", "io_open.file_slot", "io_splice.off_out", "io_splice.len"),
)
"""Without them an io_uring request cannot be read."""
EXT4_SIZE = {"ext4_truncate_enter": ("inode",), "ext4_mark_inode_dirty": ("inode", "")}
"""Raw tracepoints of ext4_setattr(): one of them tells of which file a truncate(2) sets the size.

Without them, and without kprobes, that is not known, and counted when it happens.
"""
PLACES = {
    "xfs_file_buffered_write": (("kiocb", "iov_iter"), "on_xfs_file_buffered_write"),
    "ext4_da_write_begin": (("inode", "", ""), "on_ext4_write_begin"),
    "ext4_write_begin": (("inode", "", ""), "on_ext4_write_begin"),
}
"""Raw tracepoint: its arguments, and the program that learns from it where a buffered write goes.

Without them that is not known of writes that append to a file, or share a position, at once, and counted.
"""
EXT4_FALLOCATES = ("ext4_fallocate_enter", "ext4_punch_hole", "ext4_zero_range")
"""Raw tracepoints of ext4_fallocate(), for those that no system call tells of."""
XFS_FAULTS = {"xfs_write_fault": ("xfs_inode", ""), "xfs_filemap_fault": ("xfs_inode", "", "")}
"""Raw tracepoint of a store to a page of a file that is mapped, by the name that it has since v6.13, and before."""
XFS_MAGIC, EXT4_MAGIC, TELLS_ALL = 0x58465342, 0xEF53, 1
"""Of linux/magic.h; in place of one, for all of them (bpf/eofrace.h)."""
PROCESSES = {
    "sched_process_exit": ("task_struct",),
    "sched_process_exec": ("task_struct",),
    "sched_process_fork": ("task_struct", "task_struct"),
}
"""What follows processes (`Selection.by_process`): no trace of a process without them."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which operations are recorded: those on watched files, those of followed processes, or those that are both."""

    by_file: bool = True
    by_process: bool = False


WATCHED_FILES = Selection()

NAMING_MODE = 0x656F66
"""Mode of the fallocate(2) by which `Probes.watch_file` names a file to the kernel's side. No kernel has these bits."""

BEFORE_NUMBERS = 1 << 15
"""Sequence numbers for operations that had begun before recording did, as the kernel's side finds them; as many are for
those that user space finds. All others begin behind."""


@dataclass(frozen=True, slots=True)
class Table:
    """Room in the kernel for the post-EOF fallocates that a write may have met (bpf/watch.c); powers of two."""

    sets: int = 256
    """Files whose inode numbers are the same modulo this share a set."""
    slots: int = 64
    """Fallocates of a set that are remembered, up to 128. Each takes 200 bytes."""


TABLE = Table()
"""3.3 MB."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A program on a function of the kernel."""

    function: str
    program: str
    returns: bool = False


DIRECT_FUNCTIONS = (
    Probe("iomap_dio_complete", "on_iomap_dio_complete_return", returns=True),
    Probe("iomap_dio_complete", "on_iomap_dio_complete_enter"),
    Probe("aio_complete_rw", "on_complete_rw"),
    Probe("io_complete_rw", "on_complete_rw"),
    Probe("__iomap_dio_rw", "on___iomap_dio_rw"),
)
FALLOCATE_FUNCTIONS = (
    Probe("xfs_file_fallocate", "on_xfs_file_fallocate_return", returns=True),
    Probe("xfs_file_fallocate", "on_xfs_file_fallocate"),
)
TRUNCATE_FUNCTION = Probe("do_truncate", "on_do_truncate")
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compiled and tried."""

    direct: Mechanism
    """Never AUTO."""
    why: str
    """Why direct writes are not seen by a better mechanism; empty if they are."""
    fallocate: Mechanism
    """KPROBE, KFUNC, or TRACEPOINT: only the system call."""
    forced: bool
    """Fallocates of XFS are seen by `fallocate` alone, and it must attach."""
    fallocate_why: str = ""
    """Why `fallocate` is `forced`, or not what was asked for; else empty."""
    kprobes: bool = False
    """Whether there are kprobes, for what else they are good for."""
    types: Mapping[str, int] = field(default_factory=dict)
    """`TYPED` with the numbers of their typedefs in the kernel's BTF, or nothing: then offsets have to do."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of `bpf/` that it needs beside the common ones."""
        parts = (("direct_write", self.direct), ("fallocate", self.fallocate))
        found = tuple(
            f"{name}_{kind}.c"
            for name, mechanism in parts
            if mechanism is not Mechanism.TRACEPOINT
            for kind in ("function", mechanism.value)
        )
        return (*found, "truncate_kprobe.c") if self.kprobes else found


def plan(info: btf.Btf, mechanism: Mechanism) -> Plan:
    """What to attach on this kernel. Raises `UnsupportedError` where `mechanism` is not possible."""
    has_tracepoints = all(fits(info, name, arguments) for name, arguments in DIRECT.items())
    lacking = "no iomap_dio tracepoints before Linux 6.6"
    no_kprobes = None if _KPROBE_PMU.exists() else "kprobes are not compiled into this kernel (CONFIG_KPROBES)"
    match mechanism:
        case Mechanism.TRACEPOINT:
            if not has_tracepoints:
                raise UnsupportedError(f"direct writes cannot be traced by tracepoint: {lacking}: use kprobe or auto")
            return Plan(Mechanism.TRACEPOINT, "", Mechanism.TRACEPOINT, forced=True)
        case Mechanism.KPROBE:
            if no_kprobes:
                raise UnsupportedError(
                    f"cannot trace by kprobe: {no_kprobes}: use a kernel with it, as in `eofrace vm`"
                )
            return Plan(Mechanism.KPROBE, "as asked for", Mechanism.KPROBE, forced=True, kprobes=True)
        case Mechanism.KFUNC:
            return _kfuncs(has_tracepoints, no_kprobes)
    if not has_tracepoints and no_kprobes:
        raise UnsupportedError(
            f"direct writes cannot be traced: {lacking}, and {no_kprobes}: use a kernel with either of them"
        )
    fallocate = Mechanism.KFUNC if no_kprobes else Mechanism.KPROBE
    direct = Mechanism.TRACEPOINT if has_tracepoints else Mechanism.KPROBE
    by_function = not no_kprobes and _skips_system_calls(info) and info.offset("xfs_inode.i_vnode") is not None
    why = "this kernel preempts programs on system calls, and skips others meanwhile" if by_function else ""
    return Plan(
        direct,
        "" if has_tracepoints else lacking,
        fallocate,
        forced=by_function,
        fallocate_why=why,
        kprobes=not no_kprobes,
        types=_types(info) if has_tracepoints else {},
    )


def _types(info: btf.Btf) -> dict[str, int]:
    found = {name: number for name in TYPED if (number := info.tracepoint_type(name)) is not None}
    return found if len(found) == len(TYPED) else {}


def _skips_system_calls(info: btf.Btf) -> bool:
    """Whether a program on sys_enter or sys_exit can be preempted: the CPU's other tasks then do without it.

    __bpf_trace_run() skips a program that runs already on its CPU, and kernels with trace_call_bpf_faultable() no
    longer hold preemption off around it: with Debian's 7.3.4 up to 4 of some 100 fallocates were not seen. The skips
    are counted (`recursion_misses`); kprobes do not have them.
    """
    return info.mentions("trace_call_bpf_faultable")


def preempts_programs(info: btf.Btf) -> bool:
    """The same of a program on any other tracepoint, where SRCU guards it in place of preempt_disable().

    a46023d5616e, v7.0: nothing in a kernel's BTF tells, but its release does.
    """
    major = platform.release().partition(".")[0]
    return _skips_system_calls(info) or not major.isdecimal() or int(major) >= 7


def _kfuncs(direct: bool, no_kprobes: str | None) -> Plan:
    """kfuncs where they are possible, kprobes for the rest.

    `direct`: whether __iomap_dio_rw() can have one. The kernels with tracepoints of direct writes are those whose
    trampolines take its seven arguments.
    """
    seven = "before Linux 6.6 no kfunc on a function of seven arguments"
    module = "XFS is a module, whose functions bcc 0.26 cannot name for a kfunc" if _xfs_is_module() else ""
    if module and not direct:
        raise UnsupportedError(f"cannot trace by kfunc: {seven}, and {module}: use kprobe or auto")
    if no_kprobes and (module or not direct):
        raise UnsupportedError(
            f"cannot trace all by kfunc: {module or seven}, and {no_kprobes}: use tracepoint or auto"
        )
    return Plan(
        Mechanism.KFUNC if direct else Mechanism.KPROBE,
        "as asked for" if direct else seven,
        Mechanism.KPROBE if module else Mechanism.KFUNC,
        forced=True,
        fallocate_why=module,
        kprobes=not no_kprobes,
    )


def _xfs_is_module() -> bool:
    """A module has BTF of its own (36e68442d1af, v5.11)."""
    return (btf.BTF_DIR / "xfs").exists()


def fits(info: btf.Btf, name: str, arguments: tuple[str, ...]) -> bool:
    """Whether the kernel has that raw tracepoint, with arguments that begin with these."""
    found = info.tracepoint(name)
    return found is not None and found[: len(arguments)] == arguments


def tells_subvolumes(info: btf.Btf) -> bool:
    """Whether files of several btrfs subvolumes can be told apart: not where that module is not loaded yet."""
    return None not in _subvolumes(info).values()


def _subvolumes(info: btf.Btf) -> dict[str, int | None]:
    btrfs = btf.module("btrfs", info)
    return {path: btrfs.offset(path) for path in _BTRFS}


def tells_request(info: btf.Btf) -> bool:
    """Whether io_uring_complete has the request as its second argument: since v5.19 of seven, since v6.14 of three."""
    found = info.tracepoint("io_uring_complete")
    return found is not None and (len(found) == 7 or found[2:] == ("io_uring_cqe",))


def macros(
    info: btf.Btf,
    chosen: Plan,
    selection: Selection,
    *,
    ring_bytes: int,
    record_bytes: int,
    table: Table | None = None,
    typed: bool = False,
) -> dict[str, int]:
    """What the C files want to know of this host. `typed`: the programs on `TYPED` are attached by BTF."""
    numbers, registers = _machine()
    found = btf.offsets(info, _MEMBERS) | {path: info.offset(path) or 0 for path in _OPTIONAL}
    values = {f"OFF_{path.replace('.', '_')}": offset for path, offset in found.items()}
    of_btrfs = _subvolumes(info)
    values |= {f"OFF_{path.replace('.', '_')}": offset or 0 for path, offset in of_btrfs.items()}
    values["HAS_BTRFS"] = int(None not in of_btrfs.values())
    for macro, names in registers.items():
        places = list(btf.offsets(info, [f"pt_regs.{name}" for name in names.split()]).values())
        for i, place in enumerate(places):
            values[f"OFF_pt_regs_{macro}{i if macro.endswith('arg') else ''}"] = place
    values |= {f"NR_{name}": number for name, number in zip(_SYSCALLS, numbers, strict=True)}
    values |= {f"SYM_{name}": address for name, address in _addresses(_CALLBACKS).items()}
    # file_ref_t counts from 0 for the first reference (90ee6ed776c0, v6.13).
    counted_from_1 = info.offset("file.f_ref.refcnt") is None
    refs = "file.f_count" if counted_from_1 else "file.f_ref.refcnt"
    values |= {"OFF_file_refs": btf.offsets(info, [refs])[refs], "FILE_ONE_REF": int(counted_from_1)}
    values["RING_PAGES"] = ring_bytes // mmap.PAGESIZE
    values["RING_BYTES"] = ring_bytes
    return values | {
        "PAGE_SIZE": mmap.PAGESIZE,
        "RECORD_BYTES": record_bytes,
        "BY_FUNCTION": int(chosen.direct is not Mechanism.TRACEPOINT),
        "FALLOCATE_BY_FUNCTION": int(chosen.forced and chosen.fallocate is not Mechanism.TRACEPOINT),
        "URING_CQE": int((info.tracepoint("io_uring_complete") or ())[2:3] == ("io_uring_cqe",)),
        "PREEMPTED": int(preempts_programs(info)),
        "XFS_WRITE_FAULT": int(info.tracepoint("xfs_write_fault") is not None),
        "BY_FILE": int(selection.by_file),
        "BY_PROCESS": int(selection.by_process),
        "OPEN_O_DIRECT": os.O_DIRECT,
        "NAME_ALL": int(table is None),
        "TYPED": int(typed),
        "WATCH_SETS": table.sets if table else 0,
        "WATCH_SLOTS": table.slots if table else 0,
        "BEFORE_NUMBERS": BEFORE_NUMBERS,
        "NAMING_MODE": NAMING_MODE,
        "KIOCB_HEAD": _head(found, _KIOCB_HEAD),
    }


def system_calls() -> dict[str, int]:
    """Their numbers on this machine. Raises `UnsupportedError`."""
    return dict(zip(_SYSCALLS, _machine()[0], strict=True))


def _machine() -> tuple[tuple[int, ...], dict[str, str]]:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise UnsupportedError(f"tracing on {machine} is not supported: use {' or '.join(_MACHINES)}")
    return _MACHINES[machine]


def _head(offsets: dict[str, int], members: tuple[str, ...]) -> int:
    """Bytes up to the end of the last of some members, of which none has more than 8."""
    return (max(offsets[member] for member in members) // 8 + 1) * 8


def _addresses(names: tuple[str, ...]) -> dict[str, int]:
    """Kernel addresses of functions; 0 where /proc/kallsyms does not tell."""
    try:
        symbols = Path("/proc/kallsyms").read_bytes()
    except OSError:
        symbols = b""
    found = {}
    for name in names:
        # Not a regular expression: megabytes, and one for each line costs a second under emulation.
        places = (symbols.find(f" {kind} {name}\n".encode()) for kind in "tT")
        at = next((place for place in places if place >= 0), None)
        found[name] = 0 if at is None else int(symbols[symbols.rfind(b"\n", 0, at) + 1 : at], 16)
    return found
