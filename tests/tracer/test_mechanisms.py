"""Every mechanism: it attaches and says so, or is refused with what lacks; in the VM, all of them see the same."""

import contextlib

import pytest

from tracer import attach
from tracer.errors import UnsupportedError
from tracer.hooks import Mechanism


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
        assert fallocate.startswith(str(mechanism))
        assert not completion.startswith("raw")
