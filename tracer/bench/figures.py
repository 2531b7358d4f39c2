"""Where the time goes: two more runs of each side, watched, which count for no ratio.

What eBPF saw of the image (time inside fallocate, writes), what the driver says of itself (requests that waited), what
reached the device, and what the file looks like in the end; and of a run of its own, where its threads slept in the
kernel. A figure that could not be had is None, and the result's notes say why.
"""

import ctypes
import fcntl
import os
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tracer import attach
from tracer.bench import blocked, sides
from tracer.bench.driver import Job
from tracer.bench.rounds import Options
from tracer.bench.sides import QEMU, Images
from tracer.bench.workload import Workload
from tracer.errors import UnsupportedError
from tracer.lab.scratch import Scratch
from tracer.operations import WRITES, Op, Operations, among
from tracer.recorder import Recorder

_SECTOR = 512
"""Of /sys/block/*/stat, in bytes, whatever the device's are (Documentation/block/stat.rst)."""

_libc = ctypes.CDLL(None, use_errno=True)

_FIEMAP = 0xC020660B  # FS_IOC_FIEMAP of linux/fiemap.h
_FIEMAP_FLAG_SYNC = 1


class Watcher:
    """Traces runs, where this host can be traced: `missing` says what cannot be had, and why."""

    def __init__(self, stack: ExitStack) -> None:
        self.missing: list[str] = []
        unseen = blocked.missing()
        self.sampled = unseen is None
        if unseen is not None:
            self.missing.append(f"time in inode_dio_wait is not seen here: {unseen}")
        self._recorder: Recorder | None = None
        try:
            self._probes = stack.enter_context(attach.attach())
        except UnsupportedError as error:
            self.missing.append(f"nothing was traced: {error}")
            return
        self._recorder = stack.enter_context(Recorder(self._probes))

    def figures(self, options: Options, scratch: Scratch, workload: Workload, side: str) -> dict[str, Any]:
        """Of two runs more, which may add to `missing`. Raises ChildError."""
        found = self._watched(options, scratch, workload, side)
        if self.sampled:
            image = Images(scratch.path, workload, options.cluster_size).make(workload.name)
            try:
                with blocked.Sampler() as sampler:
                    self._run(options, workload, side, image)
            finally:
                image.unlink()
            if sampler.failure:
                self._lacks("time in inode_dio_wait", workload, side, sampler.failure)
            return {**found, "asleep_ns": sampler.figures()}
        return {**found, "asleep_ns": None}

    def _watched(self, options: Options, scratch: Scratch, workload: Workload, side: str) -> dict[str, Any]:
        image = Images(scratch.path, workload, options.cluster_size).make(workload.name)
        try:
            descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _settle(descriptor)
                key = self._probes.watch_file(descriptor) if self._recorder is not None else None
                before, extents = _device(scratch), _extents(descriptor)
                told = self._run(options, workload, side, image)
                if note := told.pop("note", ""):
                    self._lacks("block I/O delay", workload, side, note)
                os.fsync(descriptor)
                after = _device(scratch)
                found = {
                    **_seen(self._recorder, key),
                    "device_bytes": _less(after, before, "bytes"),
                    "device_writes": _less(after, before, "writes"),
                    "extents": _extents(descriptor),
                    "extents_before": extents,
                    **told,
                }
                if key is not None:
                    self._probes.unwatch(*key)
            finally:
                os.close(descriptor)
        finally:
            image.unlink()
        return found

    def _run(self, options: Options, workload: Workload, side: str, image: Path) -> dict[str, Any]:
        if side == QEMU:
            sides.run(side, image, workload, aio=options.aio, cluster_size=options.cluster_size, seed=options.seed)
            return {}
        job = Job(str(image), options.aio, side, options.cluster_size, options.seed, workload, marks=True)
        told = sides.blockstack(job)
        return {name: told[name] for name in ("requests", "waited", "waited_ns", "block_io_delay_ns", "note")}

    def _lacks(self, figure: str, workload: Workload, side: str, why: str) -> None:
        """Say once why a figure is missing, and where it was first."""
        said = f"{figure} is not seen of every run"
        if not any(one.startswith(said) for one in self.missing):
            self.missing.append(f"{said} ({workload.name}: {side}): {why}")


def _settle(descriptor: int) -> None:
    """Write back what the scratch file system has dirty, and no other: syncfs(2), which os does not have."""
    if _libc.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _seen(recorder: Recorder | None, key: tuple[int, int] | None) -> dict[str, Any]:
    """Of the trace; nothing is made of one that has holes."""
    if recorder is None or key is None:
        return {}
    ops = recorder.take()
    ops = ops[(ops["dev"] == key[0]) & (ops["ino"] == key[1])]
    if recorder.dropped:
        return {"dropped": recorder.dropped}
    fallocates = ops[(ops["op"] == Op.FALLOCATE) & (ops["seq_end"] != 0)]
    writes = ops[among(ops["op"], WRITES) & (ops["result"] > 0)]
    return {
        "dropped": 0,
        "fallocates": len(fallocates),
        "fallocate_ns": _spent(fallocates),
        "fallocates_together": _together(fallocates),
        "writes": len(writes),
        "written_bytes": int(writes["result"].sum()),
    }


def _spent(ops: Operations) -> int:
    return int((ops["t_end"] - ops["t_begin"]).sum())


def _together(ops: Operations) -> float:
    """How many of some operations (n,) were in the kernel at once, while one was: 1 where they queue elsewhere."""
    if not len(ops):
        return 0.0
    times = np.concatenate([ops["t_begin"], ops["t_end"]])
    change = np.concatenate([np.ones(len(ops), np.int64), -np.ones(len(ops), np.int64)])
    order = np.argsort(times, kind="stable")
    within = np.cumsum(change[order])[:-1]
    busy = int(np.diff(times[order])[within > 0].sum())
    return _spent(ops) / busy if busy else 1.0


def _device(scratch: Scratch) -> dict[str, int] | None:
    """What was written to the device that a file system lies on; None: it is not one device (btrfs says none)."""
    path = Path(f"/sys/dev/block/{os.major(scratch.dev)}:{os.minor(scratch.dev)}/stat")
    try:
        fields = path.read_text().split()
    except OSError:
        return None
    return {"writes": int(fields[4]), "bytes": int(fields[6]) * _SECTOR}


def _less(after: dict[str, int] | None, before: dict[str, int] | None, name: str) -> int | None:
    return None if after is None or before is None else after[name] - before[name]


def _extents(descriptor: int) -> int | None:
    """How many extents a file has (FS_IOC_FIEMAP with room for none says just that); None: nobody knows."""
    request = bytearray(struct.pack("=QQIIII", 0, ctypes.c_uint64(-1).value, _FIEMAP_FLAG_SYNC, 0, 0, 0))
    try:
        fcntl.ioctl(descriptor, _FIEMAP, request)
    except OSError:
        return None
    return int(struct.unpack_from("=I", request, 20)[0])
