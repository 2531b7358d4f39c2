"""One run of either side, on an image in a scratch directory."""

import dataclasses
import json
import re
import sys
from pathlib import Path

from bench.workload import Workload
from tracer.errors import EofraceError
from tracer.lab import children


def prepare(path: Path, workload: Workload) -> None:
    """Make the image of `workload` with qemu-img, filled with data if it asks for that."""
    children.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(workload.size)])
    if workload.filled:
        _bench(path, Workload("fill", "", True, workload.size >> 16, 1 << 16, 1 << 16, workload.size), "native", "85")


def peer(path: Path, workload: Workload, aio: str) -> float:
    """Seconds that `qemu-img bench` took, as it says itself. Raises ChildError."""
    return _bench(path, workload, aio, "0")


def _bench(path: Path, workload: Workload, aio: str, pattern: str) -> float:
    words = ["qemu-img", "bench", "-f", "qcow2", "-t", "none", "-i", aio]
    words += ["-c", str(workload.count), "-d", str(workload.depth), "-o", str(workload.start)]
    words += ["-s", str(workload.length), "-S", str(workload.step)]
    words += ["-w", f"--pattern={pattern}"] if workload.write else []
    done = children.run([*words, str(path)])
    found = re.search(r"Run completed in ([\d.]+) seconds", done.stdout)
    if found is None:
        raise EofraceError(f"qemu-img bench printed no time: {done.stdout!r}")
    return float(found[1])


def ours(path: Path, workload: Workload, aio: str) -> float:
    """Seconds that blockstack took. Raises ChildError."""
    fields = json.dumps(dataclasses.asdict(workload))
    done = children.run([sys.executable, "-m", "bench.driver", str(path), aio, fields])
    return float(json.loads(done.stdout)["seconds"])


def check(path: Path) -> None:
    """`qemu-img check`: a fast driver that leaves a broken image has measured nothing. Raises ChildError."""
    children.run(["qemu-img", "check", "-q", "-f", "qcow2", str(path)])
