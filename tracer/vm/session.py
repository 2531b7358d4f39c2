"""One command in one boot, with its output on ours: what `vm run` does."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from tracer.errors import UnsupportedError
from tracer.report.escape import printable
from tracer.vm import kvm, machine
from tracer.vm.image import Kernel
from tracer.vm.inner import Inner
from tracer.vm.machine import MachineError, Sink

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How the VM is made. `timeout` in seconds limits the command inside."""

    memory: str = "5G"
    cpus: int = 2
    timeout: float = 1800.0
    extras: tuple[str, ...] = ()


def run(kernel: Kernel, inner: Inner, options: Options, note: Note) -> int:
    """Boot, run, and return the command's exit status. The console's last lines go to stderr if the guest dies.

    Raises `MachineError`, `UnsupportedError`.
    """
    accelerated = bool(kvm.prove(kernel).works)
    extras = [_extra(name) for name in options.extras]
    for extra in extras:
        # What takes minutes is done before there is a VM to wait for it.
        extra.prepare(kernel, note)
    note(f"booting {printable(kernel.name)} ({kernel.release}) with {'KVM' if accelerated else 'emulation (TCG)'}")
    try:
        with machine.boot(
            kernel, memory=options.memory, cpus=options.cpus, kvm=accelerated, shares=inner.shares
        ) as guest:
            note(f"up in {guest.boot_seconds:.0f} s")
            environment = _terminal()
            for extra in extras:
                environment |= extra.provide(guest, note)
            done = guest.eofrace(
                inner.arguments,
                timeout=options.timeout,
                stdout=_writer(sys.stdout.fileno()),
                stderr=_writer(sys.stderr.fileno()),
                environment=environment,
            )
            return done.status
    except MachineError as error:
        if error.console:
            print("the VM's console, last lines:", file=sys.stderr)
            for line in error.console.splitlines():
                print(f"  {printable(line)}", file=sys.stderr)
        raise


def _extra(name: str) -> ModuleType:
    """What `--with NAME` adds: the module tracer.vm.NAME.

    Its function `prepare(kernel, note)` makes it; `provide(guest, note)` adds it to the running guest and gives the
    environment that a command then needs. Raises `UnsupportedError`.
    """
    try:
        return importlib.import_module(f"tracer.vm.{name}")
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"--with {name} is not in this version: leave it out") from error


def _writer(descriptor: int) -> Sink:
    """Writes to our own output, byte for byte."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return write


def _terminal() -> dict[str, str]:
    """What a command inside should know of our terminal: it writes to a pipe."""
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            columns = os.get_terminal_size(stream.fileno()).columns
            both = sys.stdout.isatty() and sys.stderr.isatty()
            return {"COLUMNS": str(columns), **({"FORCE_COLOR": "1"} if both else {})}
    return {}
