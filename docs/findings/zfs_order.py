"""The order of events in OpenZFS when a fallocate meets a held write: kprobes, and the stacks of who waits.

    python docs/findings/zfs_order.py          # from a checkout, as root; boots the VM by itself

Each case runs on a fresh file of a held disk. Printed: every call of zpl_fallocate(), zpl_iter_write() and of what they
call to change a size, with the file's two sizes at that moment: i_size, which stat(2) and lseek(2) tell, and z_size,
which ZFS reads by and keeps on disk. The kprobes are tracefs' (Documentation/trace/kprobetrace.rst), not compiled.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tracer import btf  # noqa: E402
from tracer.lab import namespace, waiting, zfs  # noqa: E402
from tracer.lab.held import HeldDisk, held_scratch  # noqa: E402
from tracer.lab.scratch import MIB, default_directory  # noqa: E402
from tracer.probe.workers import AioWrite, Fallocate, opened_direct  # noqa: E402

TRACEFS = namespace.TRACEFS
KIB = 1024
SECONDS = 60.0
# struct znode of 2.3.2 on x86-64, built for Debian's 6.1: pahole -C znode zfs.ko. The module carries no BTF.
Z_INODE, Z_SIZE = 504, 304
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


@dataclass(frozen=True)
class Case:
    """One schedule; offsets and lengths in KiB. The write is at 128, fallocate at 0."""

    name: str
    mode: int
    primed: bool = True  # the file's block size has grown already
    write_length: int = 64
    again: int = 0  # length of a second, plain fallocate when all is over


CASES = (
    Case("plain; then a plain one of 96 KiB, alone", 0, again=96),
    Case("plain, on a fresh file: the write takes two steps, the second is held", 0, primed=False, write_length=128),
    Case("punch hole at EOF", PUNCH_HOLE | KEEP_SIZE),
    Case("zero range, keep size, at EOF", ZERO_RANGE | KEEP_SIZE),
    Case("zero range", ZERO_RANGE),
    Case("keep size", KEEP_SIZE),
)


def main() -> int:
    """Inside the VM: the cases. Outside: boot it, and run this file inside."""
    if sys.argv[1:] == ["--inside"]:
        return inside()
    from tracer.vm import kernels, machine
    from tracer.vm import zfs as modules

    kernel = kernels.resolve("debian")
    modules.prepare(kernel, print)
    with machine.boot(kernel) as guest:
        environment = modules.provide(guest, print)
        words = [sys.executable, "-P", __file__, "--inside"]
        done = guest.run(words, timeout=600, environment=environment, stdout=_out(1), stderr=_out(2))
    return done.status


def inside() -> int:
    """Run all cases."""
    namespace.enter_private_namespace()
    namespace.ensure_tracefs()
    with held_scratch("zfs", 300 * MIB, default_directory()) as disk, _kprobes():
        for case in CASES:
            _run(disk, case)
    return 0


def _run(disk: HeldDisk, case: Case) -> None:
    print(f"\n== {case.name}: fallocate(mode {case.mode}, 0, 64 KiB), write of {case.write_length} KiB at 128 KiB")
    marker = disk.marker()
    # Every record begins with the marker: whichever of them goes to the disk by itself is held.
    data = b"".join(marker + os.urandom(zfs.RECORD - len(marker)) for _ in range(case.write_length * KIB // zfs.RECORD))
    with disk.scratch.new_file() as file, opened_direct(file.path) as direct, disk.hold(marker) as hold:
        if case.primed:
            zfs.prime(file.fd)
        write = AioWrite(direct, data, 128 * KIB)
        fallocate = Fallocate(file.fd, case.mode, 64 * KIB)
        _put("trace", "")
        write.start()
        if not hold.wait(SECONDS):
            print("the write was not held")
            return
        writer = waiting.look(write.tid)
        fallocate.start()
        seen, _ = waiting.wait_blocked(fallocate.tid, "fallocate", SECONDS, lambda: fallocate.error is not None)
        for name, where in (("write", writer), ("fallocate", seen)):
            print(f"   {name} waits in: {'-' if where is None else ' < '.join(where.stack[:7])}")
        hold.release()
        for worker in (write, fallocate):
            worker.join(SECONDS)
        _show({write.tid: "write", fallocate.tid: "fallocate"})
        _sizes(file.fd, data, write.error, fallocate.error)
        if case.again:
            _put("trace", "")
            second = Fallocate(file.fd, 0, case.again * KIB)
            second.start()
            second.join(SECONDS)
            _show({second.tid: "second"})
            _sizes(file.fd, data, write.error, second.error)


def _sizes(fd: int, data: bytes, write: int | None, fallocate: int | None) -> None:
    read = os.pread(fd, len(data), 128 * KIB)
    right = sum(one == other for one, other in zip(read, data, strict=False))
    size = os.fstat(fd).st_size
    print(f"   write: errno {write}, fallocate: errno {fallocate}; st_size {size} of {128 * KIB + len(data)}, ", end="")
    print(f"pread at 128 KiB: {right} of {len(data)} bytes right")


@contextmanager
def _kprobes() -> Iterator[None]:
    offsets = btf.offsets(btf.kernel(), ("inode.i_size", "file.f_inode"))
    i_size, f_inode = offsets["inode.i_size"], offsets["file.f_inode"]
    of_inode = f"i_size=+{i_size}(%di):s64 z_size={Z_SIZE - Z_INODE:+d}(%di):s64"
    of_znode = f"i_size=+{Z_INODE + i_size}(%di):s64 z_size=+{Z_SIZE}(%di):s64"
    of_file = of_inode.replace("(%di)", f"(+{f_inode}(%di))")
    of_kiocb = of_inode.replace("(%di)", f"(+{f_inode}(+0(%di)))")  # kiocb.ki_filp comes first
    probes = {
        "zpl_fallocate": ("mode=%si:s32 offset=%dx:s64 length=%cx:s64 " + of_file, "result=$retval:s64"),
        "zpl_iter_write": ("offset=+8(%di):s64 " + of_kiocb, "result=$retval:s64"),
        "zfs_extend": ("end=%si:s64 " + of_znode, "result=$retval:s64"),
        "zfs_trunc": ("end=%si:s64 " + of_znode, "result=$retval:s64"),
        "zfs_znode_update_vfs": (of_znode, ""),
        "truncate_setsize": ("new=%si:s64 " + of_inode, ""),
        "dmu_write_uio_direct": ("size=%dx:s64", ""),
    }
    _put("kprobe_events", "")
    for function, (arguments, result) in probes.items():
        _put("kprobe_events", f"p:eofrace/{function} {function} {arguments}", os.O_APPEND)
        if result:
            _put("kprobe_events", f"r16:eofrace/{function}_returns {function} {result}", os.O_APPEND)
    _put("trace_clock", "mono")
    _put("events/eofrace/enable", "1")
    try:
        yield
    finally:
        _put("events/eofrace/enable", "0")
        _put("kprobe_events", "")


def _show(names: dict[int, str]) -> None:
    begin = None
    for line in (TRACEFS / "trace").read_text().splitlines():
        if line.startswith("#"):
            continue
        # "comm-tid [cpu] flags seconds: event: (where) arguments"; a comm may hold anything but is before the last "-"
        task, _, rest = line.partition(" [")
        name = names.get(int(task.rsplit("-", 1)[1]))
        if name is None:
            continue
        seconds, event, detail = rest.split(maxsplit=2)[2].split(": ", 2)
        begin = float(seconds) if begin is None else begin
        print(f"   {(float(seconds) - begin) * 1000:8.2f} ms  {name:9}  {event:24} {detail.partition(') ')[2]}")


def _put(name: str, text: str, how: int = os.O_TRUNC) -> None:
    fd = os.open(TRACEFS / name, os.O_WRONLY | how)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _out(descriptor: int):  # type: ignore[no-untyped-def]
    return lambda data: os.write(descriptor, data)


if __name__ == "__main__":
    sys.exit(main())
