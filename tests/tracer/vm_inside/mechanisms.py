"""The same operations through every mechanism at once: a script for the dedicated VM, where all of them attach.

    python tests/tracer/vm_inside/mechanisms.py

Attaches one recorder per mechanism, works on a scratch XFS, and prints one JSON object:
what attached how and in which time, and in what each recorder's operations differ from the reference's (tracepoints, or
where this kernel has none for direct writes, the default) and from what XFS' own tracepoints of direct writes say. Exit
status 0: nothing differs.
"""

import contextlib
import ctypes
import json
import mmap
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

import blockstack  # noqa: E402 - this file is a script
from blockstack.guest import make_plan, run  # noqa: E402
from blockstack.journal import Journal  # noqa: E402
from tracer import attach, btf, hooks, interrupts  # noqa: E402
from tracer.compiler import build, import_bcc  # noqa: E402
from tracer.errors import UnsupportedError  # noqa: E402
from tracer.lab import scratch  # noqa: E402
from tracer.lab.scratch import AnonymousFile  # noqa: E402
from tracer.loader import Program  # noqa: E402
from tracer.operations import WRITES, Op, Operations  # noqa: E402
from tracer.recorder import Recorder  # noqa: E402

KIB = 1 << 10
WRITES_OF_GUEST = 300
MECHANISMS = ("tracepoint", "auto", "kprobe", "kfunc")

IDENTITY = ("op", "offset", "length", "flags", "result", "pid", "tid", "request", "dev", "ino")
"""What an operation is: equal for every mechanism."""
SIZES = ("size_begin", "size_end", "size_applied")
"""Equal where nothing else happened between the system call and the function that it ends in."""

# Independent of all the rest: no pairing, no keys, only what XFS says of each direct write to one file system (another
# may have the same inode numbers).
WITNESS = """
struct witnessed {
	u64 ino;
	s64 offset;
	s64 length;
	u64 ends;
};
BPF_ARRAY(witnessed, struct witnessed, 65536);

static inline void witness(u64 inode, s64 offset, s64 length, u64 ends)
{
	struct witnessed *entry;
	u32 slot;

	if (FIELD(u32, FIELD(u64, inode, OFF_inode_i_sb), OFF_super_block_s_dev) != WITNESSED_DEV)
		return;
	slot = take_numbers(1);
	entry = witnessed.lookup(&slot);
	if (!entry)
		return;
	entry->ino = FIELD(u64, inode, OFF_inode_i_ino);
	entry->offset = offset;
	entry->length = length;
	entry->ends = ends;
}

int on_xfs_file_direct_write(struct bpf_raw_tracepoint_args *ctx)
{
	u64 file = FIELD(u64, ctx->args[0], OFF_kiocb_ki_filp);

	witness(FIELD(u64, file, OFF_file_f_inode), FIELD(s64, ctx->args[0], OFF_kiocb_ki_pos),
		FIELD(u64, ctx->args[1], OFF_iov_iter_count), 0);
	return 0;
}

int on_xfs_end_io_direct_write(struct bpf_raw_tracepoint_args *ctx)
{
	witness(ctx->args[0] + OFF_xfs_inode_i_vnode, ctx->args[1], ctx->args[2], 1);
	return 0;
}
"""


class Witness:
    """XFS' own tracepoints of direct writes to the file system with this st_dev."""

    def __init__(self, stack: contextlib.ExitStack, dev: int) -> None:
        info = btf.kernel("xfs")
        wanted = {"xfs_file_direct_write": ("kiocb", "iov_iter"), "xfs_end_io_direct_write": ("xfs_inode", "")}
        for name, arguments in wanted.items():
            assert hooks.fits(info, name, arguments), info.tracepoint(name)
        plan = hooks.plan(info, hooks.Mechanism.AUTO)
        record = attach.RECORD_BYTES
        macros = hooks.macros(info, plan, hooks.WATCHED_FILES, ring_bytes=mmap.PAGESIZE, record_bytes=record)
        # s_dev is MKDEV(major, minor) with 20 bits of minor.
        text = WITNESS.replace("WITNESSED_DEV", str(os.major(dev) << 20 | os.minor(dev)))
        bcc = import_bcc()
        self._program = Program(bcc, build(bcc, (ROOT / "bpf/eofrace.h").read_text() + text, macros))
        stack.callback(self._program.close)
        for name in wanted:
            self._program.attach_to_tracepoint(self._program.load_for_tracepoint(f"on_{name}"), name)

    def count(self) -> int:
        """Events so far."""
        return int(self._program["sequence"][ctypes.c_int(0)].value)

    def seen(self, ino: int, since: int) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
        """(offset, length) of the begins, (offset, bytes written) of the ends on an inode, behind that many events."""
        rows = [self._program["witnessed"][ctypes.c_int(i)] for i in range(since + 1, self.count() + 1)]
        begins, ends = (
            Counter((int(row.offset), int(row.length)) for row in rows if row.ino == ino and row.ends == which)
            for which in (0, 1)
        )
        return begins, ends


def differences(reference: Operations, other: Operations, names: Iterable[str]) -> list[str]:
    """Operations, told by the columns `names`, that one has and the other has not, or not as often."""
    names = tuple(names)

    def keys(ops: Operations) -> Counter[tuple[Any, ...]]:
        return Counter(tuple(op[name].item() for name in names) for op in ops)

    one, two = keys(reference), keys(other)
    return [
        f"{side}: {times} x {dict(zip(names, key, strict=True)) | {'op': Op(key[0]).label}}"
        for side, more in (("only the reference", one - two), ("not the reference", two - one))
        for key, times in more.items()
    ]


def apart(reference: Operations, other: Operations) -> int:
    """How many fallocates of `other`, seen at the function, are not the reference's system call at the same place.

    Each thread's calls come one after the other, so their places are told by the sequence numbers. Of the clocks only
    that both were in the kernel at once is asked: a kretprobe that was missed ends with the system call, behind the
    reference's end, and ktime_get_mono_fast_ns() may step back where the clock is updated.
    """
    calls, functions = (np.sort(ops[ops["op"] == Op.FALLOCATE], order="seq_begin") for ops in (reference, other))
    names = [name for name in IDENTITY if name != "request"]
    count = 0
    for tid in np.unique(functions["tid"]):
        one, two = (ops[ops["tid"] == tid] for ops in (calls, functions))
        if len(one) != len(two):
            count += len(two)
            continue
        same = one[names] == two[names]
        count += int((~same | (one["t_begin"] > two["t_end"]) | (two["t_begin"] > one["t_end"])).sum())
    return count


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), whatever comes of it."""
    ctypes.CDLL(None).fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def one_by_one(file: AnonymousFile) -> None:
    """Every mode, sizes up and down, synchronous direct and buffered writes; what XFS refuses, too."""
    rng = random.Random(1)
    direct = os.open(file.path, os.O_RDWR | os.O_DIRECT)
    # plain; KEEP_SIZE; ZERO_RANGE; both; PUNCH_HOLE; COLLAPSE_RANGE and INSERT_RANGE, aligned or not
    modes = (0, 1, 0x10, 0x11, 3, 8, 0x20)
    with mmap.mmap(-1, 64 * KIB) as buffer:
        for step in range(120):
            offset = rng.randrange(64) * 4 * KIB
            length = rng.choice((4, 16, 64)) * KIB
            if step % 8 == 7:
                os.ftruncate(file.fd, offset)
            elif step % 8 == 5:
                os.pwrite(direct, memoryview(buffer)[:length], offset)
            elif step % 8 == 3:
                os.pwrite(file.fd, memoryview(buffer)[:length], offset)
            else:
                fallocate(file.fd, rng.choice(modes), offset + rng.choice((0, 0, 512)), length)
    os.close(direct)


async def guest(path: Path, how: str) -> None:
    """A guest without protection: zero-writes and AIO writes at once; legacy-xfs adds ftruncate(2)."""
    plan = make_plan(3, WRITES_OF_GUEST)
    async with blockstack.open(path, "qcow2", strategy="none", fallocate=how, journal=Journal()) as disk:
        await run(disk, plan)


def work(
    place: scratch.Scratch, recorders: dict[str, tuple[attach.Probes, Recorder]], witness: Witness
) -> Iterator[dict[str, Any]]:
    """Each part of the work, with what each recorder saw of it."""
    for part in ("one by one", "kernel", "legacy-xfs"):
        with place.new_file() as file:
            if part != "one by one":
                interrupts.run(blockstack.create(file.path, make_plan(3, WRITES_OF_GUEST).size))
            for probes, recorder in recorders.values():
                recorder.take()
                probes.watch(file.dev, file.ino)
            since = witness.count()
            if part == "one by one":
                one_by_one(file)
            else:
                # That the control loses data is what it is there for.
                with contextlib.suppress(OSError, blockstack.ImageError, ExceptionGroup):
                    interrupts.run(guest(file.path, part))
            seen = {name: recorder.take() for name, (_, recorder) in recorders.items()}
            for probes, _ in recorders.values():
                probes.unwatch(file.dev, file.ino)
            yield {"part": part, "ino": file.ino, "since": since, "seen": seen}


def compare(part: dict[str, Any], witness: Witness) -> dict[str, Any]:
    """What every recorder saw in one part of the work, against the first one."""
    seen: dict[str, Operations] = part["seen"]
    reference, *others = seen
    columns = (*IDENTITY, *SIZES) if part["part"] == "one by one" else IDENTITY
    report: dict[str, Any] = {"operations": {}, "differences": {}, "apart": {}}
    begins, ends = witness.seen(part["ino"], part["since"])
    for name, ops in seen.items():
        report["operations"][name] = {op.label: int(n) for op in Op if (n := (ops["op"] == op).sum())}
        direct = ops[np.isin(ops["op"], WRITES) & (ops["op"] != Op.BUFFERED_WRITE)]
        written = direct[direct["result"] > 0]
        known = Counter(zip(direct["offset"].tolist(), direct["length"].tolist(), strict=True))
        done = Counter(zip(written["offset"].tolist(), written["result"].tolist(), strict=True))
        # xfs_file_dio_write_unaligned() begins again after an attempt that wrote nothing.
        again = Counter({offset: times for (offset, size), times in ends.items() if size <= 0})
        extra = Counter(offset for offset, _ in (begins - known).elements())
        found = [f"ends of XFS only: {ends - done}"] * any(size > 0 for _, size in ends - done)
        found += [f"begins of XFS only: {extra - again}"] * (not extra <= again)
        found += [f"not seen by XFS: {known - begins} {done - ends}"] * (not known <= begins or not done <= ends)
        report["differences"][name] = found
    for name in others:
        found = differences(seen[reference], seen[name], columns)
        sets_size = [ops[np.isin(ops["op"], (Op.FALLOCATE, Op.TRUNCATE))] for ops in (seen[reference], seen[name])]
        found += differences(sets_size[0], sets_size[1], (*IDENTITY, "size_applied"))
        report["differences"][name].extend(found)
        if name in ("kprobe", "kfunc"):
            report["apart"][name] = apart(seen[reference], seen[name])
    report["xfs_direct_writes"] = sum(begins.values())
    return report


def main() -> int:
    """Print the report; the exit status."""
    result: dict[str, Any] = {"kernel": os.uname().release, "attached": {}, "refused": {}, "parts": {}}
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(scratch.loop_scratch("xfs", 512 << 20, scratch.default_directory()))
        recorders = {}
        for name in MECHANISMS:
            began = time.monotonic()
            try:
                probes = stack.enter_context(attach.attach(mechanism=name))
            except UnsupportedError as error:
                result["refused"][name] = str(error)
                continue
            result["attached"][name] = {"seconds": round(time.monotonic() - began, 2), **probes.mechanisms}
            recorders[name] = (probes, stack.enter_context(Recorder(probes)))
        witness = Witness(stack, place.dev)
        for part in work(place, recorders, witness):
            result["parts"][part["part"]] = compare(part, witness)
        result["dropped"] = {name: probes.dropped() for name, (probes, _) in recorders.items()}
    result["equal"] = not any(
        any(part["differences"].values()) or any(part["apart"].values()) for part in result["parts"].values()
    )
    print(json.dumps(result, indent=1))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
