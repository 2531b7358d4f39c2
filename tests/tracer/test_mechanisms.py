"""Every mechanism: it attaches and says so, or is refused with what lacks; in the VM, all of them see the same."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

from tracer import attach
from tracer.errors import UnsupportedError
from tracer.hooks import Mechanism
from tracer.vm import kernels, machine

INSIDE = Path(__file__).parent / "vm_inside/mechanisms.py"


def test_unknown() -> None:
    with pytest.raises(ValueError, match="ptrace"), attach.attach(mechanism="ptrace"):
        pass


@pytest.mark.root
@pytest.mark.parametrize("mechanism", Mechanism)
def test_attached_as_asked_for_or_refused(mechanism: Mechanism) -> None:
    with contextlib.ExitStack() as stack:
        try:
            probes = stack.enter_context(attach.attach(1 << 20, mechanism))
        except UnsupportedError as error:
            refusal = str(error)
        else:
            refusal = ""
            fallocate = probes.mechanisms["xfs_file_fallocate"]
            completion = probes.mechanisms["iomap_dio_complete"]
    if refusal:
        assert mechanism is not Mechanism.AUTO
        assert str(mechanism) in refusal
    elif mechanism is Mechanism.TRACEPOINT:
        assert fallocate.startswith("system call only")
        assert completion == "raw tracepoint"
    elif mechanism is not Mechanism.AUTO:
        # A kfunc is not possible everywhere: kprobes stand in.
        assert fallocate.startswith(str(mechanism)) or completion.startswith(str(mechanism))
        assert not completion.startswith("raw")


@pytest.mark.vm
@pytest.mark.slow
def test_every_mechanism_sees_the_same_operations() -> None:
    """In Debian's kernel, which has kprobes and kfuncs; before 6.6 it has no tracepoints of direct writes."""
    kernel = kernels.resolve("debian")
    with machine.boot(kernel) as vm:
        done = vm.run([sys.executable, str(INSIDE)], timeout=600)
    said = done.stderr.decode(errors="replace")[-2000:]
    assert done.stdout, said
    report = json.loads(done.stdout)
    assert {"auto", "kprobe"} <= set(report["attached"]), report["refused"]
    assert report["attached"]["kprobe"]["xfs_file_fallocate"] == "kprobe and kretprobe"
    for part, found in report["parts"].items():
        assert not any(found["differences"].values()), (part, found)
        assert not any(found["apart"].values()), (part, found)
        assert found["operations"]["kprobe"]["fallocate"] > 50, (part, found)
        assert found["xfs_direct_writes"] > 0, part
    assert not any(count for lost in report["dropped"].values() for count in lost.values()), report["dropped"]
    assert (done.status, report["equal"]) == (0, True), said
