"""One run of either side on an image of its own: blockstack under a strategy, or `qemu-img bench`."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.bench.driver import Job
from tracer.bench.workload import KIB, Image, Workload
from tracer.errors import EofraceError, UsageError
from tracer.lab import children

QEMU = "qemu-img bench"
"""The side that is the outside reference, in place of a strategy's name."""

_SECONDS = 600.0
"""The longest that a run may take."""

_FILL = 64 * KIB
_PATTERN = ("-w", "--pattern=85")


@dataclass(frozen=True, slots=True)
class Images:
    """Makes images in a directory, all for one workload."""

    directory: Path
    workload: Workload
    cluster_size: int

    def make(self, name: str) -> Path:
        """A new image as the workload wants it. Raises ChildError."""
        path = self.directory / f"{name}.qcow2"
        path.unlink(missing_ok=True)
        options = [f"cluster_size={self.cluster_size}"]
        words: list[str] = []
        if self.workload.image is Image.PREALLOCATED:
            options.append("preallocation=falloc")
        if self.workload.image is Image.BACKED:
            words = ["-b", str(self._backing()), "-F", "raw"]
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), *words]
        children.run([*create, str(path), str(self.workload.size)])
        if self.workload.image is Image.FILLED:
            self._fill(path, "qcow2")
        return path

    def _backing(self) -> Path:
        path = self.directory / "backing.raw"
        if not path.exists():
            children.run(["qemu-img", "create", "-q", "-f", "raw", str(path), str(self.workload.size)])
            self._fill(path, "raw")
        return path

    def _fill(self, path: Path, form: str) -> None:
        count = self.workload.size // _FILL
        qemu_bench(path, form=form, aio="native", count=count, depth=32, length=_FILL, step=_FILL, more=_PATTERN)


def run(side: str, image: Path, workload: Workload, *, aio: str, cluster_size: int, seed: int) -> dict[str, Any]:
    """What a run took: `seconds`, and of blockstack the figures of tracer/bench/driver.py. Raises ChildError."""
    if side == QEMU:
        return {"seconds": _qemu(image, workload, aio)}
    return blockstack(Job(str(image), aio, side, cluster_size, seed, workload))


def blockstack(job: Job) -> dict[str, Any]:
    """Do a job in a process of its own. Raises ChildError."""
    done = children.run([sys.executable, "-m", "tracer.bench.driver", job.encode()], seconds=_SECONDS)
    figures = json.loads(done.stdout)
    assert isinstance(figures, dict)
    return figures


def _qemu(image: Path, workload: Workload, aio: str) -> float:
    more: list[str] = []
    if not workload.reads:
        more.append("-w")
        if workload.flush_every:
            # It waits for what is in flight before each flush unless told not to; blockstack's guest does not wait.
            more += [f"--flush-interval={workload.flush_every}", "--no-drain"]
    return qemu_bench(
        image,
        aio=aio,
        count=workload.count,
        depth=workload.depth,
        start=workload.start,
        length=workload.length,
        step=workload.step,
        more=more,
    )


def qemu_bench(
    image: Path,
    *,
    form: str = "qcow2",
    aio: str,
    count: int,
    depth: int,
    start: int = 0,
    length: int,
    step: int,
    more: Sequence[str] = (),
    seconds: float = _SECONDS,
) -> float:
    """Seconds that `qemu-img bench` took, as it says itself, cache none; places and lengths in bytes.

    `more`: further words, `-w` for writes. It may take `seconds` in all. Raises ChildError, EofraceError; UsageError
    where it has nothing to time: it tells milliseconds.
    """
    words = ["qemu-img", "bench", "-f", form, "-t", "none", "-i", aio, "-c", str(count), "-d", str(depth)]
    words += ["-o", str(start), "-s", str(length), "-S", str(step), *more, str(image)]
    done = children.run(words, seconds=seconds)
    found = re.search(r"Run completed in ([\d.]+) seconds", done.stdout)
    if found is None:
        raise EofraceError(f"qemu-img bench printed no time: {done.stdout[:200]!r}")
    if not float(found[1]):
        raise UsageError(
            f"{count} requests take qemu-img bench less than the millisecond that it can tell: ask for more"
        )
    return float(found[1])


def check(image: Path) -> None:
    """`qemu-img check`: a fast driver that leaves a broken image has measured nothing. Raises ChildError."""
    children.run(["qemu-img", "check", "-q", "-f", "qcow2", str(image)])
