"""What this host can do, found by trying.

Versions and configuration files say what a kernel was built with; a container, a sandbox or lockdown decides what
of it can be used. So every fact is the outcome of doing the thing once, on a small scale, and every fact that is
missing comes with the one step that closes it.
"""

import functools
import importlib
import os
import platform
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracer import taskstats, trials
from tracer.errors import EofraceError, UnsupportedError
from tracer.lab import children, loop, namespace, scratch
from tracer.lab.held import held_scratch

AS_ROOT = "run it as root (sudo) on the host"

_HOOK_REMEDY = "a kernel with CONFIG_KPROBES and XFS loaded (modprobe xfs), or `eofrace vm`"

_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
_HEADERS = (Path("/sys/kernel/kheaders.tar.xz"), Path("/proc/kheaders.tar.xz"))


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str  # what was found, or why not
    remedy: str = ""  # the one thing that closes it; empty if `ok`
    required: bool = True  # for kernel evidence; the others add to it


@dataclass(frozen=True, slots=True)
class Host:
    """All facts, in the order in which one rests on another."""

    facts: tuple[Fact, ...]

    @property
    def kernel_evidence(self) -> bool:
        """Whether a scratch XFS and eBPF can both be had."""
        return all(fact.ok for fact in self.facts if fact.required)

    @property
    def missing(self) -> tuple[Fact, ...]:
        """What kernel evidence lacks."""
        return tuple(fact for fact in self.facts if fact.required and not fact.ok)

    def get(self, name: str) -> Fact:
        """The fact of that name. Raises `KeyError`."""
        for fact in self.facts:
            if fact.name == name:
                return fact
        raise KeyError(name)


class _MissingError(Exception):
    """Not there: what was found, and the remedy."""


def look(directory: Path | None = None, *, hooks: bool = False) -> Host:
    """Try everything; about half a second. Files are tried in `directory` (default: where scratch files go).

    `hooks` attaches the eBPF programs too, another second. Nothing is left mounted, attached or created, and the
    calling thread stays in its mount namespace. Never raises for what is missing.
    """
    where = directory or scratch.default_directory()
    # unshare(2) of the mount namespace concerns the calling thread alone: one that ends takes it along.
    with ThreadPoolExecutor(1, thread_name_prefix="host") as pool:
        return pool.submit(_look, where, hooks).result()


def facts_json(directory: Path | None = None) -> dict[str, Any]:
    """The facts as JSON data, for the "host" of a report or a trace."""
    return to_json(look(directory))


def to_json(host: Host) -> dict[str, Any]:
    """`host` as JSON data."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "distribution": _distribution(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel_evidence": host.kernel_evidence,
        "facts": [asdict(fact) for fact in host.facts],
    }


def _look(where: Path, hooks: bool) -> Host:
    facts = [
        _try("kernel", _kernel, "", required=False),
        _try("privilege", _privilege, AS_ROOT),
        _try("mount namespace", _namespace, AS_ROOT),
        _try("loop device", lambda: _loop(where), "load it (modprobe loop)"),
    ]
    mountable = all(fact.ok for fact in facts if fact.required)
    for name, fs in (("XFS", "xfs"), ("ext4", "ext4"), ("btrfs", "btrfs")):
        trial = functools.partial(_file_system, fs, where, mountable)
        facts.append(_try(name, trial, f"load it (modprobe {fs})", required=fs == "xfs"))
    facts += [
        _try(
            "held disk",
            lambda: _held_disk(where, mountable),
            "modprobe fuse; apt install nbdkit nbdkit-plugin-python libnbd-bin",
            required=False,
        ),
        _try("eBPF", trials.bpf, "use Linux 5.8 or later with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS"),
        _try("BTF", _btf, "use a kernel with CONFIG_DEBUG_INFO_BTF"),
        _try("bcc", _bcc, "apt install python3-bpfcc"),
        _try("kprobes", _kprobes, "not needed from Linux 6.6 on; CONFIG_KPROBE_EVENTS", required=False),
        _try("tracefs", _tracefs, "not needed by eofrace itself; " + AS_ROOT, required=False),
        _try(
            "kernel headers",
            _headers,
            "not needed by eofrace itself; apt install linux-headers-$(uname -r)",
            required=False,
        ),
        _try("Linux AIO", lambda: _aio(where), "use a kernel with CONFIG_AIO, outside of a sandbox"),
        _try(
            "direct I/O",
            lambda: _direct_io(where),
            "name a directory on a file system that has it (--dir)",
            required=False,
        ),
        _try("io_uring", trials.io_uring, "sysctl -w kernel.io_uring_disabled=0", required=False),
        _try("qemu-img", lambda: _version("qemu-img"), "apt install qemu-utils", required=False),
        _try("setpriv", lambda: children.find("setpriv"), "apt install util-linux", required=False),
        _try("TaskStats", _taskstats, "sysctl -w kernel.task_delayacct=1", required=False),
    ]
    if hooks:
        each: list[Fact] = []
        facts.append(_try("hooks", lambda: _hooks(each), AS_ROOT))
        facts += each
    return Host(tuple(facts))


def _try(name: str, trial: Callable[[], str], remedy: str, *, required: bool = True) -> Fact:
    try:
        return Fact(name, True, trial(), "", required)
    except _MissingError as error:
        detail, remedy = error.args
    except EofraceError as error:
        # Every message of ours ends with its remedy, behind the last colon.
        detail, _, own = str(error).rpartition(": ")
        detail, remedy = detail or str(error), own if detail else remedy
    except OSError as error:
        detail = error.strerror or str(error)
        if isinstance(error, PermissionError):
            remedy = AS_ROOT if os.geteuid() != 0 else "run it outside of the container or sandbox"
    except Exception as error:  # a trial that fails in an unforeseen way is a finding, too
        detail = f"{type(error).__name__}: {error}"
    return Fact(name, False, " ".join(detail.split()), remedy, required)


def _kernel() -> str:
    return f"{platform.release()} {platform.machine()}, {_distribution()}, Python {platform.python_version()}"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _privilege() -> str:
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    had = [name for bit, name in _CAPABILITIES.items() if effective >> bit & 1]
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    if os.geteuid() != 0:
        raise _MissingError(f"{user}, {', '.join(had) or 'no capabilities'}", AS_ROOT)
    # CAP_PERFMON and CAP_BPF (Linux 5.8) are parts of CAP_SYS_ADMIN, which is enough without them.
    if "CAP_SYS_ADMIN" not in had:
        raise _MissingError("root without CAP_SYS_ADMIN", "run it outside of the container, or with CAP_SYS_ADMIN")
    return f"{user} with {', '.join(had)}"


def _namespace() -> str:
    namespace.enter_private_namespace()
    return "unshare, private mounts"


def _loop(where: Path) -> str:
    descriptor = loop.backing_file(where, 1 << 20)
    try:
        with loop.loop_device(descriptor) as device:
            found = str(device)
        loop.wait_cleared(device, descriptor)
    finally:
        os.close(descriptor)
    return f"{found}, clears itself"


def _file_system(fs: str, where: Path, mountable: bool) -> str:
    if not mountable:
        raise _MissingError("cannot be mounted", "what is missing above")
    kind = scratch.KINDS[fs]
    begun = time.monotonic()
    with scratch.loop_scratch(fs, kind.minimum, where) as made, made.new_file():
        took = time.monotonic() - begun
    return f"made and mounted in {took * 1000:.0f} ms ({_version(kind.mkfs[0])})"


def _held_disk(where: Path, mountable: bool) -> str:
    if not mountable:
        raise _MissingError("cannot be mounted", "what is missing above")
    begun = time.monotonic()
    with held_scratch("ext4", scratch.KINDS["ext4"].minimum, where):
        took = time.monotonic() - begun
    return f"nbdkit, nbdfuse and loop, up in {took * 1000:.0f} ms"


def _btf() -> str:
    with open("/sys/kernel/btf/vmlinux", "rb") as blob:
        if blob.read(2) not in (b"\x9f\xeb", b"\xeb\x9f"):
            raise UnsupportedError("/sys/kernel/btf/vmlinux is not BTF: use a kernel with BTF")
    return "/sys/kernel/btf/vmlinux"


def _bcc() -> str:
    try:
        module = importlib.import_module("bcc")
    except ImportError as error:
        raise _MissingError(
            str(error), "apt install python3-bpfcc; a venv of /usr/bin/python3 with --system-site-packages"
        ) from error
    if not hasattr(module, "BPF"):
        raise _MissingError("another package is called bcc here", "pip uninstall bcc")
    return str(getattr(module, "__version__", "version unknown"))


def _kprobes() -> str:
    if not _KPROBE_PMU.exists():
        raise _MissingError("not compiled in", "not needed where the tracepoints are (Linux 6.6)")
    return "perf events"


def _tracefs() -> str:
    namespace.ensure_tracefs()
    events = namespace.TRACEFS / "events"
    return f"{namespace.TRACEFS}{'' if (events / 'xfs').is_dir() else ', no XFS events'}"


def _headers() -> str:
    named = os.environ.get("BCC_KERNEL_SOURCE")
    if named:
        return f"{named} (BCC_KERNEL_SOURCE)"
    build = Path(f"/lib/modules/{platform.release()}/build")
    for path in (build, *_HEADERS):
        if path.exists():
            return str(path)
    for path in sorted(Path("/usr/src").glob("linux-headers-*-common")):
        return f"{path}: another kernel's"
    raise _MissingError(
        f"none for {platform.release()}", f"not needed by eofrace; apt install linux-headers-{_flavour()}"
    )


def _flavour() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _aio(where: Path) -> str:
    return f"{trials.linux_aio(where)} write in {where} ({scratch.filesystem_of(where)})"


def _direct_io(where: Path) -> str:
    fs = scratch.filesystem_of(where)
    try:
        return f"{trials.direct_io(where)} in {where} ({fs})"
    except OSError as error:
        raise _MissingError(
            f"{error.strerror} in {where} ({fs})", "name a directory on a disk file system (--dir)"
        ) from error


def _version(command: str) -> str:
    words = [children.find(command), "-V" if command.startswith("mkfs") else "--version"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    # mke2fs -V prints its version to stderr.
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].split(" (")[0].strip().removesuffix(",") if lines else command


def _taskstats() -> str:
    found = taskstats.block_io_delay([os.getpid()])
    if found.delays is None:
        detail, _, remedy = found.note.partition(": ")
        raise _MissingError(detail, remedy or "none")
    return "block I/O delay per thread"


def _hooks(each: list[Fact]) -> str:
    """All of them attached once; `each` gets a fact for every hook."""
    attach = importlib.import_module("tracer.attach")
    begun = time.monotonic()
    with attach.attach(1 << 20) as probes:
        took = time.monotonic() - begun
        attached = {hook: how for hook, how in probes.mechanisms.items() if hook not in probes.gaps}
        each += [Fact(f"hook {hook}", True, how, required=False) for hook, how in attached.items()]
        each += [Fact(f"hook {hook}", False, why, _HOOK_REMEDY, required=False) for hook, why in probes.gaps.items()]
        without = f", {len(probes.gaps)} not as well as could be" if probes.gaps else ""
        return f"{len(attached)} attached in {took:.1f} s{without}"
