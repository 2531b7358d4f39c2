"""QEMU's command line, from virtme-ng: its choice of machine, its way of finding modules, its initramfs.

`virtme-run --dry-run --show-command` prints what it would run. Its consoles, which want a terminal, and its init,
which wants udev, are replaced by ours: the guest's PID 1 is tracer/vm/agent.py.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import UnsupportedError, UsageError
from tracer.lab import children
from tracer.report.escape import printable
from tracer.vm import agent
from tracer.vm.image import Kernel

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "file": "file",
    "modprobe": "kmod",
    "depmod": "kmod",
}
"""What booting needs beside virtme-ng, and Debian's package of each."""

_DROPPED = {"-echr", "-chardev", "-serial", "-mon", "-cpu"}
_DROPPED_DEVICES = ("virtio-serial", "virtconsole", "i6300esb")
_DROPPED_PARAMETERS = ("virtme_", "console=", "init=", "TERM=", "loglevel=", "psmouse.", "quiet", "nr_open=")

_EMULATED_CPU = "max,la57=off,+invtsc,-avx,-avx2"
"""All that TCG can do, but for AVX, which QEMU 7.2 emulates wrongly: numpy.argsort put a third of its arrays into a
wrong order, and verdicts were wrong for it (tracer/analysis/machine.py). Slower, too, with numpy in AVX (1.1 s instead
of 0.6), and with five levels of page tables. An invariant TSC spares every look at the clock a call into the HPET."""

_PARAMETERS = (
    "console=ttyS0",
    "earlyprintk=serial,ttyS0",
    "loglevel=5",
    # An oops ends the VM at once, and is reported: nothing that comes after one proves anything.
    "oops=panic",
    "panic=-1",
    "mitigations=off",
    "nokaslr",
    "tsc=reliable",
    "delayacct",
    "random.trust_cpu=on",
    "rcupdate.rcu_cpu_stall_suppress=1",
)


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host's that the guest sees at the same place, writable or not. `path` is absolute."""

    path: Path
    writable: bool = True


def missing_tools() -> list[str]:
    """Debian packages that booting needs and that are not there; "virtme-ng" is PyPI's."""
    packages = []
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None and shutil.which(tool, path="/usr/sbin:/sbin") is None:
            packages.append(package)
    if importlib.util.find_spec("virtme") is None:
        packages.append("virtme-ng")
    return list(dict.fromkeys(packages))


def check_tools() -> None:
    """Raise `UnsupportedError` where booting lacks something, with the way to get it."""
    lacking = missing_tools()
    if not lacking:
        return
    debian = [name for name in lacking if name != "virtme-ng"]
    ways = [f"apt-get install {' '.join(debian)}"] if debian else []
    if "virtme-ng" in lacking:
        ways.append("pip install 'eofrace[vm]'")
    raise UnsupportedError(f"the VM needs {', '.join(lacking)}: {'; '.join(ways)} (./run vm installs them, as root)")


def words(
    kernel: Kernel,
    *,
    memory: str,
    cpus: int,
    kvm: bool,
    shares: Sequence[Share],
    private: Path,
    agent_fd: int,
    console_fd: int,
) -> list[str]:
    """The words that start QEMU.

    `private` is a directory of the caller's (0700, of plain characters: it is named on the kernel's command line)
    for the initramfs; the two descriptors are connected stream sockets. Raises `UnsupportedError`, `UsageError`.
    """
    given = _virtme(kernel, memory, cpus, private)
    ours = list(_without_consoles(given))
    at = ours.index("-append") + 1
    ours[at] = _parameters(ours[at], kernel, private)
    ours += ["-cpu", "host" if kvm else _EMULATED_CPU]
    # tb-size: MiB of translated code.
    ours += ["-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=512"]
    ours += ["-no-reboot", "-nodefaults", "-no-user-config", "-monitor", "none"]
    ours += ["-chardev", f"socket,id=console,fd={console_fd}", "-serial", "chardev:console"]
    ours += ["-chardev", f"socket,id=agent,fd={agent_fd}", "-device", "virtio-serial-pci"]
    ours += ["-device", f"virtserialport,name={agent.PORT},chardev=agent"]
    ours += ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]
    ours += ["-device", f"virtio-9p-pci,fsdev=root,mount_tag={agent.ROOT_TAG}"]
    for number, share in enumerate(shares):
        path = os.fspath(share.path).replace(",", ",,")
        access = "" if share.writable else ",readonly=on"
        ours += ["-fsdev", f"local,id=share{number},path={path},security_model=none,multidevs=remap{access}"]
        ours += ["-device", f"virtio-9p-pci,fsdev=share{number},mount_tag={tag(number)}"]
    return ours


def tag(number: int) -> str:
    """9p mount tag of the share `number`."""
    return f"eofrace.share{number}"


def _virtme(kernel: Kernel, memory: str, cpus: int, private: Path) -> list[str]:
    """What virtme-run would execute; it writes the initramfs into `private`, if the kernel needs one."""
    command = [sys.executable, "-m", "virtme.commands.run", "--dry-run", "--show-command", "--force-9p"]
    command += ["--disable-kvm", "--disable-microvm", "--memory", memory, "--cpus", str(cpus)]
    # Its search for modules walks upwards from the image: only ours may be found.
    command += ["--kimg", os.fspath(kernel.image), "--mods", "auto" if kernel.modules is not None else "none"]
    if kernel.modules is not None:
        command += ["--force-initramfs", "--save-initramfs", os.fspath(private / "initramfs")]
    path = os.environ.get("PATH", os.defpath)
    environment = {**os.environ, "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin", "TMPDIR": os.fspath(private)}
    try:
        done = subprocess.run(
            children.dying_with_us(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environment,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError("virtme-ng did not prepare the boot within 60 s: is the disk overloaded?") from error
    if done.returncode != 0 or not done.stdout.strip():
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no reason given"]
        raise UsageError(f"virtme-ng cannot boot {printable(kernel.name)}: {printable(lines[-1])}")
    return shlex.split(done.stdout.strip().splitlines()[-1])


def _without_consoles(given: Sequence[str]) -> Iterator[str]:
    """`given` without the pairs of option and value that we set ourselves."""
    rest = iter(given)
    yield next(rest)
    for word in rest:
        value = next(rest, None)
        if value is None:
            yield word
        elif word not in _DROPPED and not (word == "-device" and value.startswith(_DROPPED_DEVICES)):
            yield word
            yield value


def _parameters(append: str, kernel: Kernel, private: Path) -> str:
    """The kernel's command line: virtme-ng's, less what concerns its init, with ours."""
    kept = [word for word in shlex.split(append) if not word.startswith(_DROPPED_PARAMETERS)]
    kept += _PARAMETERS
    if (private / "modules").is_symlink():
        kept.append(f"eofrace.modules={private / 'modules'}")
    elif kernel.modules is not None:
        kept.append("eofrace.rootmodules")
    kept += [f"init={private / 'python'}", "--", "-I", os.fspath(private / "agent.py")]
    return " ".join(kept)


def fill_private(private: Path, kernel: Kernel) -> None:
    """Put into `private` what the kernel's command line names: links, because its own paths may hold any character."""
    (private / "python").symlink_to(_interpreter())
    (private / "agent.py").symlink_to(Path(agent.__file__).resolve())
    if kernel.modules is not None and kernel.modules.resolve().parent != Path("/lib/modules").resolve():
        (private / "modules").symlink_to(kernel.modules.resolve())


def _interpreter() -> str:
    """The Python below a venv's: the agent wants nothing but the standard library."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return os.path.realpath(base)
