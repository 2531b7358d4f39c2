"""Whether a simulated XFS does what this kernel's does: random operations, and the probe's order on a held disk.

    python tests/tracer/vm_inside/models.py MODEL SEEDS

Prints one JSON object: by mode of fallocate what the kernel did and what the model does, each as whether fallocate
waited for the write in flight, the size in the end (bytes), and the bytes of the write that are not there.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from blockstack.sim.calls import Call, CallKind, Clock, Request, Step  # noqa: E402 - this file is a script
from blockstack.sim.inode import Inode  # noqa: E402
from blockstack.sim.models import MODELS, FileSystem  # noqa: E402
from tests.blockstack.test_sim_models import check  # noqa: E402
from tracer.lab.held import held_scratch  # noqa: E402
from tracer.lab.namespace import enter_private_namespace  # noqa: E402
from tracer.lab.scratch import KINDS, MIB, default_directory, loop_scratch  # noqa: E402
from tracer.probe.observation import MODES, Layout  # noqa: E402
from tracer.probe.schedule import observe  # noqa: E402

Outcome = tuple[bool, int, int]


def go(inode: Inode, call: Call, following: Step | int, stop: str = "") -> Step | int:
    """Take steps until one is called `stop`, or cannot be taken, or the call has ended."""
    while isinstance(following, Step) and following.name != stop and (following.ready is None or following.ready()):
        following = following.act(inode, call)
    return following


def simulated(model: FileSystem, flags: int, layout: Layout) -> Outcome:
    """The write is in flight, its data not on the disk, while fallocate goes as far as it can."""
    inode, clock, data = Inode({}, 0), Clock(), b"\xa5" * layout.write_length
    write = Call(Request(CallKind.WRITE, layout.write_offset, layout.write_length, 0, 0, data), clock)
    fallocate = Call(Request(CallKind.FALLOCATE, 0, layout.fallocate_length, flags, 0, b""), clock)
    held = go(inode, write, model.begin(inode, write), "the data is on the disk")
    assert isinstance(held, Step)
    waits = go(inode, fallocate, model.begin(inode, fallocate))
    assert go(inode, write, held) == layout.write_length
    assert go(inode, fallocate, waits) == 0
    found = inode.get(layout.write_offset, layout.write_length)
    wrong = layout.write_length - sum(one == other for one, other in zip(found, data, strict=False))
    return isinstance(waits, Step), inode.size, wrong


def main(model: FileSystem, seeds: int) -> None:
    enter_private_namespace()
    with loop_scratch("xfs", 320 * MIB, default_directory()) as scratch:
        for seed in range(seeds):
            check(model, scratch.path / f"file-{seed}", seed)
    layout, found = Layout(), {}
    with held_scratch("xfs", KINDS["xfs"].minimum, default_directory()) as disk:
        for mode, flags in MODES.items():
            seen = observe(disk, mode, layout, None)
            assert seen.held, seen.failure
            assert (seen.write_error, seen.fallocate_error) == (0, 0)
            kernel = (seen.fallocate is not None, seen.size_found, seen.wrong_bytes)
            found[mode] = {"kernel": kernel, "model": simulated(model, flags, layout)}
    print(json.dumps(found))


main(MODELS[sys.argv[1]], int(sys.argv[2]))
