"""OpenZFS for the VM (`--with zfs`): Debian's zfs-dkms built for its kernel, and the tools of the same version.

Asked for by the user, never part of the default set-up; nothing is installed on the host. Modules and tools are kept in
the cache by kernel release. The modules are made from source on the user's machine, as dkms would (they are CDDL, the
kernel is GPL: nobody distributes the result).
"""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer import cache
from tracer.errors import EofraceError, UnsupportedError
from tracer.lab import children
from tracer.report.escape import printable
from tracer.vm import apt
from tracer.vm.image import Kernel
from tracer.vm.machine import Machine

MODULES = ("spl", "zfs")
"""In the order of loading. What else they need is built in (Debian's kernels since 5.10)."""
TOOLS = {"make": "make", "gcc": "gcc", "strip": "binutils"}
"""What a build needs, and Debian's package of each."""

BUILD_SECONDS = 3600.0
_LOAD_SECONDS = 120.0
_LIBRARIES = f"lib/{platform.machine()}-linux-gnu"

Note = Callable[[str], None]


class ZfsBuildError(EofraceError):
    """The modules could not be built; the message ends with make's last line."""

    status = UnsupportedError.status


@dataclass(frozen=True, slots=True)
class Zfs:
    """Built modules and their tools. `modules` holds spl.ko and zfs.ko, `tools` a tree with sbin/ and lib/."""

    modules: Path
    tools: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """What zpool(8) and zfs(8) need to be found and to run."""
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {
            "PATH": f"{self.tools}/sbin:{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{self.tools}/{_LIBRARIES}",
        }


def provide(guest: Machine, note: Note) -> dict[str, str]:
    """Load ZFS in the guest, built before if need be; the environment in which its tools work.

    Raises `UnsupportedError`, `ZfsBuildError`.
    """
    zfs = prepare(guest.kernel, note)
    for module in MODULES:
        done = guest.run(["insmod", str(zfs.modules / f"{module}.ko")], timeout=_LOAD_SECONDS)
        if done.status != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise UnsupportedError(f"the VM does not load {module}.ko of ZFS {zfs.version}: {printable(said[-1])}")
    note(f"ZFS {zfs.version} is loaded")
    return zfs.environment


def prepare(kernel: Kernel, note: Note) -> Zfs:
    """ZFS for `kernel`: from the cache, or downloaded and built (5 minutes). Raises `UnsupportedError`."""
    found = cached(kernel.release)
    if found is not None:
        return found
    if kernel.modules is None:
        raise UnsupportedError(f"{kernel.name} ({kernel.release}) takes no modules: use --kernel debian for ZFS")
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if lacking:
        raise UnsupportedError(f"building ZFS needs {', '.join(lacking)}: apt-get install {' '.join(lacking)}")
    with cache.lock("zfs"):
        return cached(kernel.release) or _make(kernel, note)


def cached(release: str) -> Zfs | None:
    """What is built for that release; None if nothing is."""
    for entry in sorted(_directory().glob(f"{release}-*")):
        described = cache.read_json(entry / "zfs.json")
        if described is not None and described.get("release") == release:
            return Zfs(entry / "modules", entry / "tools", str(described["version"]))
    return None


def _directory() -> Path:
    return cache.root() / "zfs"


def _make(kernel: Kernel, note: Note) -> Zfs:
    began = time.monotonic()
    with cache.staging() as staged:
        note("downloading ZFS")
        (staged / "apt").mkdir()
        private = apt.PrivateApt(staged / "apt", apt.codename())
        version = private.newest("zfs-dkms")
        ready = staged / "ready"
        (ready / "modules").mkdir(parents=True)
        names = ["zfsutils-linux", *private.siblings("zfsutils-linux", version)]
        _unpack(private, [f"{name}={version}" for name in names], ready / "tools")
        _unpack(private, [f"zfs-dkms={version}"], staged / "source")
        headers = _headers(kernel, private, staged / "headers")
        source = next((staged / "source/usr/src").glob("zfs-*"))
        note(f"building ZFS {version} for {kernel.release}, some minutes")
        _build(source, headers)
        for module in MODULES:
            # With its debugging information zfs.ko has 90 MB, and is no use: the VM's kernel has none for modules.
            words = ["strip", "--strip-debug", "-o", str(ready / "modules" / f"{module}.ko")]
            children.run([*words, str(source / "module" / f"{module}.ko")], seconds=120)
        seconds = round(time.monotonic() - began, 1)
        cache.write_json(ready / "zfs.json", {"release": kernel.release, "version": version, "seconds": seconds})
        cache.publish(ready, _directory() / f"{kernel.release}-{version}")
    made = cached(kernel.release)
    assert made is not None
    return made


def _unpack(private: apt.PrivateApt, packages: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        private.download(packages, Path(place))
        for archive in sorted(Path(place).glob("*.deb")):
            children.run(["dpkg-deb", "-x", str(archive), str(target)], seconds=120)


@dataclass(frozen=True, slots=True)
class _Headers:
    """Debian's split of a kernel's headers: `common` is the source, `build` what was configured."""

    common: Path
    build: Path


def _headers(kernel: Kernel, private: apt.PrivateApt, target: Path) -> _Headers:
    """The host's if it has them, else downloaded. Raises `UnsupportedError`."""
    modules = Path("/lib/modules") / kernel.release
    if (modules / "build" / "Makefile").exists():
        source = modules / "source" if (modules / "source").exists() else modules / "build"
        return _Headers(source.resolve(), (modules / "build").resolve())
    name = f"linux-headers-{kernel.release}"
    flavour = kernel.release.rsplit("-", 1)
    common = f"linux-headers-{flavour[0]}-common"
    kbuild = f"linux-kbuild-{'.'.join(kernel.release.split('.')[:2])}"
    try:
        _unpack(private, [name, common], target)
    except UnsupportedError as error:
        raise UnsupportedError(f"no headers of {kernel.release} to build ZFS with: {error}") from error
    try:
        _unpack(private, [kbuild], target)
    except UnsupportedError:
        # Since 6.12 there is one for each ABI.
        _unpack(private, [f"linux-kbuild-{flavour[0]}"], target)
    build = target / "usr/src" / name
    makefile = build / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{target}/usr/src/"))
    return _Headers(target / "usr/src" / common, build)


def _build(source: Path, headers: _Headers) -> None:
    """configure and make, as dkms.conf of zfs-dkms has it. Raises `ZfsBuildError`."""
    configure = ["./configure", "--disable-dependency-tracking", "--prefix=/usr", "--with-config=kernel"]
    configure += [f"--with-linux={headers.common}", f"--with-linux-obj={headers.build}"]
    deadline = time.monotonic() + BUILD_SECONDS
    # sh: the package's configure need not be executable where the cache lies (noexec).
    for words in (["sh", *configure], ["make", f"-j{os.cpu_count() or 1}"]):
        try:
            done = subprocess.run(
                children.dying_with_us(words),
                cwd=source,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ZfsBuildError(f"building ZFS took more than {BUILD_SECONDS:g} s: run it again") from error
        if done.returncode != 0:
            said = [line for line in done.stdout.splitlines() if "rror" in line] or done.stdout.splitlines() or [""]
            raise ZfsBuildError(f"ZFS does not build for this kernel: {words[0]}: {printable(said[0].strip())}")
