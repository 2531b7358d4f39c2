"""Load the programs of `bpf/` and attach each to the best mechanism that this host has (`tracer.hooks`), by trying.

What no hook covers is in `LIMITS`. Nothing but bcc and the kernel's own BTF is needed: no kernel headers (see
`bpf`), no tracefs.
"""

import contextlib
import ctypes
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import bpf
from tracer import btf, hooks, interrupts
from tracer.compiler import build, import_bcc, quiet
from tracer.errors import UnsupportedError
from tracer.hooks import BEFORE_NUMBERS, NAMING_MODE, WATCHED_FILES, Mechanism, Plan, Probe, Selection, Table
from tracer.loader import Program
from tracer.operations import NONE_CPU, NONE_RESULT, NONE_SIZE, OPERATION, WRITES, Op, Operations

_LIBC = ctypes.CDLL(None)

RECORD_BYTES = (OPERATION.itemsize + 7) // 8 * 8
"""A record in the ring: an OPERATION, padded as the C compiler pads it."""

LIMITS = (
    "truncate(2) on a path is seen by kprobe, or else on XFS and ext4; on others it counts as dropped",
    "writes by io_submit(2) that do not pass through iomap are read from the process' memory; what it does not hold "
    "counts as dropped",
    "system calls of 32-bit processes count as dropped, but for open(2) with O_TRUNC and what io_submit(2) does",
    "a file on overlayfs must be watched on the file system below it",
)
"""What no hook covers on any host."""

_IN_FLIGHT = ("calls", "placed_writes", "writes", "urings", "aio_writes")
"""Maps of what has begun; each value begins with the operation."""

_NOT_ENDED = {"seq_end": 0, "t_end": 0, "cpu_end": 0, "size_end": NONE_SIZE, "result": NONE_RESULT}
"""What an operation in flight has there."""

_UNTOLD = 1
"""UNTOLD of bpf/eofrace.h."""

_NOT_THERE = 1
"""BPF_NOEXIST of linux/bpf.h."""

_COMPLETE, _AGAIN = "on_iomap_dio_complete", "on_iomap_dio_complete_again"
"""Programs of direct_write.c: the second one sees what the first was not run for."""

_NAME_BYTES = 64
"""Bytes of one component of a path in bpf/eofrace.h, the NUL at its end among them."""

DROP_KINDS = (
    *("ring full", "map full", "end not seen", "not through iomap", "begin not seen"),
    *("file not known", "place not known", "not watched", "by a kernel thread", "by a 32-bit call"),
)
"""Why an operation was lost, in the order of enum drop in bpf/eofrace.h."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a file was called when an operation on it was first met."""

    file: tuple[int, int]
    """(st_dev, inode)"""
    generation: int
    """Tells it from files that had, or will have, its inode number."""
    path: str
    """From the root of its file system."""
    whole: bool
    """False: the path lacks its begin."""
    mounted: int
    """st_dev under which its file system is mounted: on btrfs another one than the file's."""
    when: int
    """ns, CLOCK_MONOTONIC"""


class Probes:
    """Attached programs. Made by `attach()`.

    `mechanisms` maps each hook to how it is attached, with the reason where a better way was not possible.
    `gaps` maps each hook that could not be attached to the reason, and what that costs.
    """

    def __init__(self, bcc: Any, program: Program, info: btf.Btf, ring_bytes: int, table: Table | None) -> None:
        self.mechanisms: dict[str, str] = {}
        self.gaps: dict[str, str] = {}
        self.ring_bytes = ring_bytes
        self.tells_subvolumes = hooks.tells_subvolumes(info)
        self._bcc = bcc
        self._program = program
        self._table = table
        self._misses_offset = info.offset("bpf_prog_info.recursion_misses")
        self._preempts = hooks.preempts_programs(info)
        self._skipped = self._skipped_before = 0
        self._programs: dict[str, int] = {}
        """Name -> descriptor."""
        self._links: dict[str, int] = {}
        """Program -> what holds it to a raw tracepoint, the last one if it is attached to several."""
        self._typed: dict[str, int] = {}
        """Raw tracepoint -> the program that was loaded for it by its BTF."""
        self._types: Mapping[str, int] = {}
        """Raw tracepoint -> its type there, of the same."""
        self._by_file = True
        self._attached = 0
        """ns, CLOCK_MONOTONIC; before anything was seen."""
        self._reserved = 0
        """Numbers that user space has given to what had begun before."""
        self._watched: dict[tuple[int, int], set[tuple[int, int]]] = {}
        self._untold: dict[tuple[int, int], int] = {}
        """Watched files that may be truncated by path without a word of their file systems -> UNTOLD* of bpf/."""

    @property
    def ring_fd(self) -> int:
        """Descriptor of the ring map; valid while attached."""
        return self._program.fd("ring")

    def watch(self, dev: int, ino: int) -> None:
        """Record operations on this inode that begin from now on; `dev` is st_dev of stat(2).

        It may be that of another file system on overlayfs: use `watch_file` there.
        """
        self._note_untold((dev, ino), _UNTOLD)  # on which file system it is, nobody says
        # s_dev is MKDEV(major, minor) with 20 bits of minor; st_dev went through new_encode_dev().
        self._note(dev, ino, (ino, os.major(dev) << 20 | os.minor(dev)))

    def watch_file(self, fd: int) -> tuple[int, int]:
        """Watch the file that is open as `fd`, on any file system; returns its (st_dev, st_ino)."""
        status = os.fstat(fd)
        table, watched = self._program["learning"], self._program["watched"]
        flag = self._program["untold"]
        flag[ctypes.c_int(0)] = ctypes.c_uint8(0)
        before = {(key.ino, key.dev) for key in watched}
        thread = table.Key(os.getpid() << 32 | threading.get_native_id())
        table[thread] = table.Leaf(status.st_dev)
        # vfs_fallocate() refuses length 0, and then the mode, whatever the file; our program has seen the call by then.
        _LIBC.fallocate(fd, NAMING_MODE, ctypes.c_long(0), ctypes.c_long(0))
        del table[thread]
        self._note_untold((status.st_dev, status.st_ino), int(flag[ctypes.c_int(0)].value))
        found = {(key.ino, key.dev) for key in watched} - before
        if found:
            self._note(status.st_dev, status.st_ino, found.pop())
        elif (status.st_dev, status.st_ino) not in self._watched:
            self.watch(status.st_dev, status.st_ino)
        return status.st_dev, status.st_ino

    def unwatch(self, dev: int, ino: int) -> None:
        """Stop recording this inode, and forget its operations in flight. Nothing happens if it is not watched."""
        self._note_untold((dev, ino), 0)
        table = self._program["watched"]
        for inode, device in self._watched.pop((dev, ino), set()):
            with contextlib.suppress(KeyError):
                del table[table.Key(inode, device)]
        for name in _IN_FLIGHT:
            entries = self._program[name]
            for key, leaf in entries.items():
                op = np.frombuffer(bytes(leaf), OPERATION, 1)[0]
                if op["op"] and op["dev"] == dev and op["ino"] == ino:
                    with contextlib.suppress(KeyError):
                        # A place may be another write's by now: to delete it there is to write zeroes.
                        if bytes(entries[key])[: OPERATION.itemsize] == bytes(leaf)[: OPERATION.itemsize]:
                            del entries[key]

    def may_record(self, dev: int, ino: int) -> bool:
        """Whether operations on this file are recorded, if those of the process are."""
        return not self._by_file or (dev, ino) in self._watched

    def expect_exit(self, pid: int, tid: int) -> None:
        """The thread may be in a system call that it had entered before the programs were attached."""
        table = self._program["marked_threads"]
        table[ctypes.c_uint64(pid << 32 | tid)] = table.Leaf(0, 0)

    def expect_submission(self, pid: int, tid: int, count: int, iocbs: int) -> None:
        """The same of io_submit(2) with so many iocbs, of which it has the array at that address."""
        if not 0 < count <= BEFORE_NUMBERS - self._reserved:
            return
        table = self._program["submissions"]
        leaf = table.Leaf()
        leaf.seq_next, leaf.t_begin, leaf.iocbs = BEFORE_NUMBERS + 1 + self._reserved, self._attached, iocbs
        leaf.total = leaf.left = count
        leaf.cpu, leaf.kind = NONE_CPU, Op.AIO_WRITE
        key = table.Key(pid << 32 | tid)
        # Not if the thread has come back meanwhile, and was seen to enter another one.
        fd = self._program.fd("submissions")
        if self._bcc.lib.bpf_update_elem(fd, ctypes.byref(key), ctypes.byref(leaf), _NOT_THERE) == 0:
            self._reserved += count

    def expect_context(self, context: int, pid: int) -> None:
        """Writes by io_submit(2) may be in flight that this process has submitted to one of its contexts."""
        self._program["aio_contexts"][ctypes.c_uint64(context)] = ctypes.c_uint64(pid)

    def follow(self, pid: int) -> None:
        """Record operations of this process, and of the children that it makes from now on."""
        table = self._program["selected"]
        table[ctypes.c_uint32(pid)] = ctypes.c_uint8(1)

    def unfollow(self, pid: int) -> None:
        """No longer record this process; nothing happens if it is not followed. Its children go on being recorded."""
        with contextlib.suppress(KeyError):
            del self._program["selected"][ctypes.c_uint32(pid)]

    def follow_comm(self, name: str) -> None:
        """Follow every process that takes this name when it executes a program from now on.

        Of a longer name the kernel keeps 15 bytes.
        """
        table = self._program["comms"]
        key = table.Key()
        ctypes.memmove(ctypes.addressof(key), os.fsencode(name)[:15].ljust(16, b"\0"), 16)
        table[key] = ctypes.c_uint8(1)

    def followed(self) -> set[int]:
        """Processes that are followed now."""
        return {int(key.value) for key in self._program["selected"]}

    def names(self) -> list[Name]:
        """Names of the files met, the last 4,096 of them, as they were met. Only without `Selection.by_file`."""
        found = []
        for key, leaf in self._program["names"].items():
            text = bytes(leaf.text)
            places = reversed(range(0, leaf.parts * _NAME_BYTES, _NAME_BYTES))
            path = "/".join(_part(text[at : at + _NAME_BYTES]) for at in places)
            mounted = os.makedev(leaf.dev >> 20, leaf.dev & 0xFFFFF)
            file = (int(key.dev), int(key.ino))
            found.append(Name(file, int(key.generation), path, bool(leaf.whole), mounted, int(leaf.when)))
        return sorted(found, key=lambda name: name.when)

    def mapped(self) -> dict[tuple[int, int], int]:
        """(st_dev, inode) -> how often a file of those recorded was seen to be mapped so that stores change it."""
        return {(int(key.dev), int(key.ino)): int(leaf.value) for key, leaf in self._program["mapped"].items()}

    def seen(self) -> dict[Op, int]:
        """Operations that ended since the programs were attached, by kind. As the next two: with a `hooks.Table`."""
        table = self._program["seen"]
        counts = {op: int(table.sum(ctypes.c_int(op)).value) for op in (*WRITES, Op.FALLOCATE, Op.TRUNCATE)}
        return {op: count for op, count in counts.items() if count}

    def post_eof_fallocates(self) -> int:
        """Those that began since the programs were attached."""
        return int(self._program["zero_begun"].sum(ctypes.c_int(0)).value)

    def remembered(self, writes: Operations) -> tuple[Operations, int]:
        """Post-EOF fallocates that have ended, as far as the table has them; with writes (n,), which are in flight.

        And how many of these may have met one that the table has no more.
        """
        assert self._table is not None
        rows, forgotten = [], np.zeros(self._table.sets, np.uint64)
        for place, leaf in enumerate(self._program["zero_writes"].values()):
            which = place // self._table.slots
            forgotten[which] = max(int(forgotten[which]), leaf.forgotten)
            if leaf.since and leaf.op.seq_end:
                rows.append(bytes(leaf.op)[: OPERATION.itemsize])
        unsure = forgotten[(writes["ino"] % np.uint64(self._table.sets)).astype(np.int64)] > writes["seq_begin"]
        return np.frombuffer(b"".join(rows), OPERATION), int(np.count_nonzero(unsure))

    def inflight(self) -> Operations:
        """OPERATION rows of what has begun on a watched inode and not ended, as of now."""
        rows = b"".join(
            bytes(leaf)[: OPERATION.itemsize] for name in _IN_FLIGHT for leaf in self._program[name].values()
        )
        begun: Operations = np.frombuffer(rows, OPERATION)
        begun = np.compress((begun["op"] != 0) & (begun["ino"] != 0), begun)
        # One that is about to leave has its end already, and is not in the ring yet: it must be in one of the two.
        for name, value in _NOT_ENDED.items():
            begun[name] = value
        return begun

    def dropped(self) -> dict[str, int]:
        """Operations lost since the programs were attached, by reason.

        "program skipped": the kernel did not run a program because it was interrupted, or preempted, on the same CPU
        (bpf_prog_info.recursion_misses, 9ed9e9ba2337, v5.12): at most one begin or end each. Completions of direct
        writes, and reads, do that most. They have a second program, which counts what it takes in place of the first.
        Where programs are not preempted, one on xfs_end_io_direct_write is interrupted by no write that raises i_size
        (iomap leaves those to a worker), and the end of any other takes the place of that time, as on other file
        systems.
        """
        table = self._program["drops"]
        lost = {name: int(table.sum(ctypes.c_int(i)).value) for i, name in enumerate(DROP_KINDS)}
        self._skipped = max(self._skipped, self._count_skipped())
        return lost | {"program skipped": max(self._skipped - self._skipped_before, 0)}

    def _count_skipped(self) -> int:
        """May be too large by what happens meanwhile, if it happens all the time, never too small."""
        for _ in range(5):
            taken = self._taken()
            skipped = {name: self._misses(program) for name, program in self._programs.items()}
            if taken == self._taken():
                break
        again = skipped.pop(_AGAIN, 0)
        if _COMPLETE in skipped:
            # Where tasks preempt the first, the second knows of writes only, and of all others but that it was run.
            left = max(skipped[_COMPLETE] - taken, 0)
            skipped[_COMPLETE] = min(left, again) if self._preempts else left
        if not self._preempts:
            skipped.pop("on_xfs_end_io_direct_write", None)
        return sum(skipped.values())

    def _taken(self) -> int:
        """Completions that the second program has taken in place of the first."""
        if _AGAIN not in self._programs:
            return 0
        return int(self._program["taken"].sum(ctypes.c_int(0)).value)

    def _note(self, dev: int, ino: int, key: tuple[int, int]) -> None:
        table = self._program["watched"]
        table[table.Key(*key)] = table.Leaf(dev)
        self._watched.setdefault((dev, ino), set()).add(key)

    def _note_untold(self, file: tuple[int, int], untold: int) -> None:
        """Whether a truncate(2) of nobody knows which file may be one of `file`'s."""
        self._untold[file] = untold
        self._program["untold"][ctypes.c_int(0)] = ctypes.c_uint8(max(self._untold.values()))

    def _start(self) -> None:
        """From now on operations may be seen: what had begun before has the numbers below."""
        self._skipped_before = min(self._count_skipped() for _ in range(2))
        self._attached = time.monotonic_ns()
        self._program["sequence"][ctypes.c_int(0)] = ctypes.c_uint64(2 * BEFORE_NUMBERS)
        table = self._program["before_all"]
        table[ctypes.c_int(0)] = table.Leaf(0, self._attached, 0)

    def _misses(self, fd: int) -> int:
        if self._misses_offset is None:
            return 0
        buffer = ctypes.create_string_buffer(self._misses_offset + 8)
        length = ctypes.c_uint32(len(buffer))
        if self._bcc.lib.bpf_obj_get_info(fd, buffer, ctypes.byref(length)) != 0:
            return 0
        return int.from_bytes(buffer.raw[self._misses_offset :], "little")

    def _load_typed(self, types: Mapping[str, int]) -> str | None:
        """Load on_<tracepoint> for tracepoints that the kernel's BTF has as those types; the reason if that fails."""
        self._types = types
        with quiet() as said:
            try:
                for tracepoint, type_id in types.items():
                    self._typed[tracepoint] = self._program.load_typed(f"on_{tracepoint}", type_id)
            except OSError as error:
                return _reason(error, said())
        return None

    def _raw(self, tracepoint: str, program: str | None = None) -> str | None:
        """Attach on_<tracepoint>, or another program; the reason if that is not possible."""
        name = program or f"on_{tracepoint}"
        with quiet() as said:
            try:
                if program is None and tracepoint in self._typed:
                    self._programs[name] = self._typed[tracepoint]
                    self._links[name] = self._program.attach_typed(self._typed[tracepoint])
                    return None
                if name not in self._programs:
                    self._programs[name] = self._program.load_for_tracepoint(name)
                self._links[name] = self._program.attach_to_tracepoint(self._programs[name], tracepoint)
            except OSError as error:
                return _reason(error, said())
        return None

    def _detach(self, program: str) -> None:
        """Take a program from the tracepoint to which `_raw` has attached it last."""
        self._program.detach(self._links.pop(program))

    def _go_on(self, tracepoint: str, table: str, number: int, program: str) -> str | None:
        """Load a program that others on that tracepoint end with (a tail call), by its number in a table; the reason
        if that fails.
        """
        with quiet() as said:
            try:
                if tracepoint in self._typed:
                    loaded = self._program.load_typed(program, self._types[tracepoint])
                else:
                    loaded = self._program.load_for_tracepoint(program)
                self._program[table][ctypes.c_int(number)] = ctypes.c_int(loaded)
            except OSError as error:
                return _reason(error, said())
        return None

    def _function(self, probe: Probe, mechanism: Mechanism) -> str | None:
        """Attach a program to a function by kprobe or kfunc; the reason if that is not possible."""
        program, function, returns = probe.program, probe.function, probe.returns
        with quiet() as said:
            try:
                if mechanism is Mechanism.KPROBE:
                    if program not in self._programs:
                        self._programs[program] = self._program.load_for_kprobe(program)
                    self._program.attach_to_function(self._programs[program], function, returns=returns)
                else:
                    loaded = self._program.load_for_kfunc(program, function, returns=returns)
                    self._programs[f"{program} {function}"] = loaded
                    self._program.attach_kfunc(loaded)
            except OSError as error:
                return _reason(error, said())
        return None


def _reason(error: OSError, said: str) -> str:
    """Why something could not be loaded or attached, and what libbcc or the verifier has said."""
    return said if str(error.strerror) in said else f"{error.strerror} {said}".strip()


def _part(raw: bytes) -> str:
    """One component of a path; what did not fit is shown as cut off."""
    text = raw.partition(b"\0")[0]
    return os.fsdecode(text) + ("..." if len(text) == len(raw) - 1 else "")


@contextlib.contextmanager
def attach(
    ring_bytes: int = 16 << 20,
    mechanism: str = Mechanism.AUTO,
    selection: Selection = WATCHED_FILES,
    table: Table | None = None,
) -> Iterator[Probes]:
    """Compile and attach everything; all of it is gone when the block ends, or the process does.

    `ring_bytes` is the room for finished operations that nobody has drained yet, a power of two and whole pages.
    `mechanism` is a `Mechanism` or its name; anything but "auto" is for comparing them. `selection` says what is
    recorded; nothing is until a file is watched, or a process followed. With `table` only operations that have met in
    the kernel, and must not have, leave it.
    Raises `UnsupportedError` naming cause and remedy if an essential hook, or a mechanism asked for, cannot be had.
    """
    if ring_bytes < mmap.PAGESIZE or ring_bytes & (ring_bytes - 1):
        raise ValueError(f"ring_bytes must be a power of two of at least {mmap.PAGESIZE}, not {ring_bytes}")
    wanted = Mechanism(mechanism)
    if os.geteuid() != 0:
        raise UnsupportedError("tracing the kernel needs root: run it as root (sudo)")
    bcc = import_bcc()
    info = btf.kernel("xfs")
    plan = hooks.plan(info, wanted)
    macros = hooks.macros(
        info, plan, selection, ring_bytes=ring_bytes, record_bytes=RECORD_BYTES, table=table, typed=bool(plan.types)
    )
    stage = "record.c" if table is None else "watch.c"
    with contextlib.ExitStack() as stack:
        # bcc has callbacks from C, where an exception that a signal raises is printed and lost.
        with interrupts.deferred():
            program = Program(bcc, build(bcc, bpf.source(stage, *plan.files), macros))
            stack.callback(program.close)
            probes = Probes(bcc, program, info, ring_bytes, table)
            untyped = probes._load_typed(plan.types)
            if untyped is not None:
                # A verifier that does not follow these pointers: offsets have to do.
                program.close()
                program = Program(bcc, build(bcc, bpf.source(stage, *plan.files), macros | {"TYPED": 0}))
                stack.callback(program.close)
                probes = Probes(bcc, program, info, ring_bytes, table)
            _attach_processes(probes, info, all_of_them=selection.by_process)
            _attach_extra(probes, info)
            _attach_truncate(probes, info, plan)
            _attach_faults(probes, info)
            _attach_places(probes, info)
            if selection.by_file and not selection.by_process:
                _attach_threads(probes, info)
            _attach_uring(probes, info)
            _attach_fallocate(probes, plan)
            _attach_direct(probes, plan)
            probes._by_file = selection.by_file
            _load_aio(probes, watching=table is not None)
            _require(
                probes._go_on("sys_exit", "exit_programs", 0, "on_exit_from_before"), "the program on_exit_from_before"
            )
            probes._start()
            for tracepoint in hooks.SYSTEM_CALLS:
                _require(probes._raw(tracepoint), f"raw tracepoint {tracepoint}")
            probes.mechanisms["system calls"] = "raw tracepoints sys_enter, sys_exit"
            by_btf = f" (not by BTF: {untyped})" if untyped else ", by BTF" if plan.types else ""
            for hook in ("system calls", *hooks.DIRECT) if by_btf else ():
                probes.mechanisms[hook] += by_btf
        yield probes


def _attach_extra(probes: Probes, info: btf.Btf) -> None:
    for name, (arguments, cost) in hooks.EXTRA.items():
        if info.tracepoint(name) is None:
            reason: str | None = "this kernel has no such tracepoint, or its module is not loaded"
        elif not hooks.fits(info, name, arguments):
            reason = "its arguments are others on this kernel"
        elif arguments[0] == "xfs_inode" and info.offset("xfs_inode.i_vnode") is None:
            reason = "no BTF of xfs"
        else:
            reason = probes._raw(name)
        if reason is None:
            probes.mechanisms[name] = "raw tracepoint"
        else:
            probes.gaps[name] = f"{reason}: {cost}"


def _attach_truncate(probes: Probes, info: btf.Btf, plan: Plan) -> None:
    """What tells on which file a truncate(2) is."""
    tells = {}
    if plan.kprobes and probes._function(hooks.TRUNCATE_FUNCTION, Mechanism.KPROBE) is None:
        tells[hooks.TELLS_ALL] = "kprobe do_truncate"
    else:
        if "xfs_setattr" in probes.mechanisms:
            tells[hooks.XFS_MAGIC] = "xfs_setattr"
        ext4 = btf.module("ext4", info)
        found = [hooks.fits(ext4, name, arguments) for name, arguments in hooks.EXT4_SIZE.items()]
        if all(found) and not any([probes._raw(name, "on_ext4_setattr") for name in hooks.EXT4_SIZE]):
            tells[hooks.EXT4_MAGIC] = ", ".join(hooks.EXT4_SIZE)
    table = probes._program["tells_size"]
    for slot, magic in enumerate(tells):
        table[ctypes.c_int(slot)] = ctypes.c_uint64(magic)
    if tells:
        probes.mechanisms["truncate(2)"] = ", ".join(tells.values())


def _attach_faults(probes: Probes, info: btf.Btf) -> None:
    """Without it only mmap(2) tells that somebody can change a file by storing into memory."""
    for name, arguments in hooks.XFS_FAULTS.items():
        if hooks.fits(info, name, arguments) and info.offset("xfs_inode.i_vnode") is not None:
            if probes._raw(name) is None:
                probes.mechanisms[name] = "raw tracepoint"
            return


def _attach_places(probes: Probes, info: btf.Btf) -> None:
    """Where a write goes that its call does not say."""
    for name, (arguments, program) in hooks.PLACES.items():
        known = btf.module("ext4", info) if name.startswith("ext4") else info
        if hooks.fits(known, name, arguments) and probes._raw(name, program) is None:
            probes.mechanisms[name] = "raw tracepoint"


def _attach_threads(probes: Probes, info: btf.Btf) -> None:
    """What threads of the kernel change; on XFS the hooks of everybody's changes show it."""
    ext4 = btf.module("ext4", info)
    for name in hooks.EXT4_FALLOCATES:
        if hooks.fits(ext4, name, ("inode",)) and probes._raw(name, "on_ext4_fallocate") is None:
            probes.mechanisms[name] = "raw tracepoint"


def _attach_processes(probes: Probes, info: btf.Btf, *, all_of_them: bool) -> None:
    """What tells of threads that end; and if processes are followed, of those that begin."""
    for name, arguments in hooks.PROCESSES.items():
        if name != "sched_process_exit" and not all_of_them:
            continue
        reason = probes._raw(name) if hooks.fits(info, name, arguments) else "its arguments are others on this kernel"
        _require(reason, f"raw tracepoint {name}")
    if all_of_them:
        probes.mechanisms["processes"] = "raw tracepoints sched_process_fork, _exec, _exit"


def _attach_uring(probes: Probes, info: btf.Btf) -> None:
    """Without it an io_uring request that does not pass through iomap is not seen."""
    submit = next((name for name in hooks.URING_SUBMIT if hooks.fits(info, name, ("io_kiocb",))), None)
    if submit is None or not hooks.tells_request(info):
        reason: str | None = "this kernel has no tracepoints with the arguments that it has since Linux 6.0"
    elif any(info.offset(member) is None for member in hooks.URING_MEMBERS):
        reason = "no BTF of its requests"
    else:
        reason = probes._raw("io_uring_complete") or probes._raw(submit, "on_io_uring_submit")
    if reason is None:
        probes._program["uring_submissions"][ctypes.c_int(0)] = ctypes.c_uint8(1)
        probes.mechanisms["io_uring"] = f"raw tracepoints {submit}, io_uring_complete"
    else:
        probes.gaps["io_uring"] = (
            f"{reason}: buffered writes, fallocates and truncations by io_uring, and writes that it refuses, "
            "are not seen"
        )


def _load_aio(probes: Probes, *, watching: bool) -> None:
    """The programs that those on system calls go on with, in the order of AIO_* in bpf/aio.c."""
    steps = ("io_submit_count", "io_submit_note", "io_submit_hear", "io_submit_end", "io_submit_met", "io_getevents")
    for number, step in enumerate(steps):
        if step != "io_submit_met" or watching:
            _require(probes._go_on("sys_exit", "aio_programs", number, f"on_{step}"), f"the program on_{step}")
    name = "on_io_submit_note_enter"
    _require(probes._go_on("sys_enter", "enter_programs", 0, name), f"the program {name}")


_PAIRS = {Mechanism.KPROBE: "kprobe and kretprobe", Mechanism.KFUNC: "kfunc and kretfunc (fentry, fexit)"}


def _attach_fallocate(probes: Probes, plan: Plan) -> None:
    if plan.fallocate is Mechanism.TRACEPOINT:
        reason: str | None = "as asked for"
    else:
        reason = None
        for probe in hooks.FALLOCATE_FUNCTIONS:
            reason = reason or probes._function(probe, plan.fallocate)
        if plan.forced:
            _require(reason, f"{plan.fallocate} xfs_file_fallocate")
        elif reason is not None and plan.fallocate is Mechanism.KFUNC:
            reason = f"no kprobes (CONFIG_KPROBES), and no kfunc: {reason}"
    if reason is None:
        why = f" ({plan.fallocate_why})" if plan.fallocate_why else ""
        probes.mechanisms["xfs_file_fallocate"] = _PAIRS[plan.fallocate] + why
        probes._program["xfs_by_function"][ctypes.c_int(0)] = ctypes.c_uint8(1)
    else:
        probes.mechanisms["xfs_file_fallocate"] = f"system call and io_uring only ({reason})"
        probes.gaps["xfs_file_fallocate"] = f"{reason}: a fallocate by a kernel thread (loop, nfsd) is not recorded"


def _attach_direct(probes: Probes, plan: Plan) -> None:
    if plan.direct is Mechanism.TRACEPOINT:
        for name in hooks.DIRECT:
            _require(probes._raw(name), f"raw tracepoint {name}")
            probes.mechanisms[name] = "raw tracepoint"
            if f"on_{name}" == _COMPLETE:
                _require(probes._raw(name, _AGAIN), f"the program {_AGAIN}")
        return
    for probe in hooks.DIRECT_FUNCTIONS:
        _require(probes._function(probe, plan.direct), f"{plan.direct} {probe.function} ({plan.why})")
        kind = _PAIRS[plan.direct] if probe.function == "iomap_dio_complete" else plan.direct.value
        probes.mechanisms[probe.function] = f"{kind} ({plan.why})"


def _require(reason: str | None, what: str) -> None:
    if reason is not None:
        raise UnsupportedError(
            f"cannot attach {what}: {reason}: run as root outside of containers, on a kernel with BPF_EVENTS, "
            "and either Linux 6.6 or kprobes"
        )
