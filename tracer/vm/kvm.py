"""Whether hardware acceleration really works here: a guest is booted with it, within a limit.

/dev/kvm alone proves nothing: in some nested virtual machines it opens, and a guest then makes no progress. The
finding is cached by host kernel and QEMU version.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer import cache
from tracer.errors import EofraceError, UnsupportedError
from tracer.lab import children
from tracer.report.escape import printable
from tracer.vm.image import Kernel
from tracer.vm.machine import MachineError, boot

PROOF_SECONDS = 20.0
"""Limit of the proof. With KVM that works the guest is up in 2 or 3."""

_DEVICE = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether KVM works (None: not tried yet) and how that is known."""

    works: bool | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `vm kernels --json` shows it."""
        return {"works": self.works, "reason": self.reason}


def known() -> Finding:
    """What is known without trying."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Finding(False, f"{_DEVICE} is missing or not for this user: emulation (TCG)")
    stored = cache.read_json(_place())
    if stored is None or stored.get("key") != _key():
        return Finding(None, "not tried yet: the first vm run does")
    return Finding(bool(stored.get("works")), str(stored.get("reason", "")))


def prove(kernel: Kernel) -> Finding:
    """What is known, or is found now by a boot of `kernel`."""
    finding = known()
    if finding.works is not None:
        return finding
    with cache.lock("kvm"):
        finding = known()
        if finding.works is not None:
            return finding
        try:
            with boot(kernel, memory="1G", cpus=1, kvm=True, limit=PROOF_SECONDS) as machine:
                finding = Finding(True, f"a guest was up in {machine.boot_seconds:.1f} s")
        except MachineError:
            finding = Finding(False, f"a guest was not up within {PROOF_SECONDS:g} s: emulation (TCG)")
        except UnsupportedError as error:
            finding = Finding(False, f"{printable(str(error))}: emulation (TCG)")
        cache.write_json(_place(), {"key": _key(), **finding.to_json()})
    return finding


def _place() -> Path:
    return cache.root() / "kvm.json"


def _key() -> str:
    try:
        version = children.run(["qemu-system-x86_64", "--version"]).stdout.splitlines()[0]
    except (EofraceError, IndexError):
        version = "no QEMU"
    return f"{platform.release()} {platform.version()} | {version}"
