"""The simulated file systems do what real ones do: the same operations give the same size and content.

One operation after the other; and what happens between two of them in the one order that a held disk makes certain.
tests/tracer/vm/test_racy.py has both on kernels of our own.
"""

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, FileCalls
from blockstack.sim.calls import Call, CallKind, Clock, Request, Step
from blockstack.sim.inode import BLOCK, Inode
from blockstack.sim.models import MODELS, FileSystem
from tracer.lab.scratch import MIB, loop_scratch

SPAN = 64  # blocks
OPERATIONS = 60
MODES = (
    0,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_ZERO_RANGE,
    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
)


def drawn(seed: int) -> Iterator[Request]:
    """Operations on the first SPAN blocks; offsets and lengths are multiples of BLOCK."""
    rng = random.Random(seed)
    for number in range(OPERATIONS):
        first = rng.randrange(SPAN)
        count = rng.randint(1, 12)
        offset, length = first * BLOCK, count * BLOCK
        match rng.choice(("write", "write", "fallocate", "fallocate", "truncate", "read")):
            case "write":
                yield Request(CallKind.WRITE, offset, length, 0, 0, bytes([number + 1]) * length)
            case "fallocate":
                yield Request(CallKind.FALLOCATE, offset, length, rng.choice(MODES), 0, b"")
            case "truncate":
                yield Request(CallKind.TRUNCATE, offset, 0, 0, 0, b"")
            case _:
                yield Request(CallKind.READ, offset, length, 0, 0, b"")


def simulated(model: FileSystem, inode: Inode, request: Request) -> Call:
    """The call's steps, one after the other."""
    call = Call(request, Clock())
    following: Step | int = model.begin(inode, call)
    while isinstance(following, Step):
        assert following.ready is None or following.ready(), "nothing else is there to wait for"
        following = following.act(inode, call)
    call.result = following
    return call


def real(descriptor: int, calls: FileCalls, request: Request) -> int | bytes:
    try:
        match request.kind:
            case CallKind.WRITE:
                return os.pwrite(descriptor, request.data, request.offset)
            case CallKind.FALLOCATE:
                calls.fallocate(request.flags, request.offset, request.length, 0)
                return 0
            case CallKind.TRUNCATE:
                os.ftruncate(descriptor, request.offset)
                return 0
            case _:
                return os.pread(descriptor, request.length, request.offset)
    except OSError as error:
        return -(error.errno or errno.EIO)


def check(model: FileSystem, path: Path, seed: int) -> None:
    """Compare the model with the file system that `path` is on, after every operation."""
    inode = Inode({}, 0)
    with path.open("w+b", buffering=0) as file:
        calls = FileCalls(file.fileno())
        for request in drawn(seed):
            found = real(file.fileno(), calls, request)
            if found == -errno.EOPNOTSUPP:
                pytest.skip(f"the file system here does not have fallocate mode {request.flags}")
            call = simulated(model, inode, request)
            assert found == (call.data if request.kind is CallKind.READ else call.result), request
            assert os.fstat(file.fileno()).st_size == inode.size, request
            same = os.pread(file.fileno(), 1 << 20, 0) == inode.get(0, 1 << 20)
            assert same, request  # by itself: with CI set, pytest looks for the differences of a MiB, for an hour


@pytest.mark.parametrize("name", [name for name in MODELS if name != "zfs-11797"])
@pytest.mark.parametrize("seed", range(8))
def test_same_as_the_file_system_here(tmp_path: Path, name: str, seed: int) -> None:
    check(MODELS[name], tmp_path / "file", seed)


@pytest.mark.root
@pytest.mark.parametrize("name", ["xfs-fixed", "xfs-pre-5.5", "xfs-pre-4.4"])
def test_same_as_a_real_xfs(tmp_path: Path, name: str) -> None:
    with loop_scratch("xfs", 320 * MIB, tmp_path) as scratch:
        for seed in range(40):
            check(MODELS[name], scratch.path / f"file-{seed}", seed)


@pytest.mark.root
def test_a_write_in_flight_and_a_fallocate_as_on_a_held_disk() -> None:
    """The model of this kernel does what it does; its twin is the model of another one, which does not."""
    script = Path(__file__).parents[1] / "tracer" / "vm_inside" / "models.py"
    for name, apart in (("xfs-fixed", set()), ("xfs-pre-5.5", {"plain", "zero-range", "keep-size"})):
        done = subprocess.run([sys.executable, str(script), name, "1"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        modes = json.loads(done.stdout)
        assert all(found["kernel"] == [True, 196608, 0] for found in modes.values()), "a kernel with 249bd9087a52"
        assert {mode for mode, found in modes.items() if found["kernel"] != found["model"]} == apart, modes


def test_a_model_that_is_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: a fallocate that forgets to zero."""
    monkeypatch.setattr(Inode, "zero", lambda self, start, end: None)
    with pytest.raises(AssertionError):
        check(MODELS["xfs-fixed"], tmp_path / "file", 1)


def test_zfs_of_the_issue_differs_in_zero_range_alone(tmp_path: Path) -> None:
    """Its other modes set sizes and content as every file system does."""
    inode = Inode({}, 0)
    model = MODELS["zfs-11797"]
    for request in drawn(1):
        call = simulated(model, inode, request)
        refused = request.kind is CallKind.FALLOCATE and bool(request.flags & FALLOC_FL_ZERO_RANGE)
        assert (call.result == -errno.EOPNOTSUPP) is refused
        assert inode.size == inode.private_size
