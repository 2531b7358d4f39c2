"""Debian's kernels: downloaded with apt, unpacked into the cache. Nothing is installed on the host."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tracer import cache
from tracer.errors import UnsupportedError, UsageError
from tracer.lab import children
from tracer.report.escape import printable
from tracer.vm.image import Kernel, release_of

META_PACKAGE = "linux-image-amd64"
"""Depends on the newest kernel that the host's own apt sources offer."""

_DOWNLOAD_SECONDS = 900.0
_UNPACK_SECONDS = 300.0


def directory() -> Path:
    """Where unpacked kernels lie, a directory each, named by the package's content."""
    return cache.root() / "debian"


def newest(meta: str = META_PACKAGE) -> Kernel:
    """The newest kernel of the host's apt sources, from the cache where it is there. Raises `UnsupportedError`.

    `meta`: the package that depends on it.
    """
    package = _newest_package(meta)
    for kernel in cached():
        if kernel.release == package.removeprefix("linux-image-"):
            return kernel
    with cache.lock("debian"), cache.staging() as staged:
        archive = download(package, staged)
        for part in _parts(archive):
            download(part, staged)
        return unpack(archive, name="debian")


def cached() -> list[Kernel]:
    """What has been unpacked, by release."""
    found = []
    try:
        entries = sorted(directory().iterdir())
    except OSError:
        return []
    for entry in entries:
        described = cache.read_json(entry / "kernel.json")
        if described is not None and isinstance(described.get("release"), str):
            found.append(_kernel(entry, "debian", described["release"]))
    return found


def download(package: str, target: Path) -> Path:
    """`apt-get download` of one package into the directory `target`: the archive. Raises `UnsupportedError`."""
    apt = children.find("apt-get")
    try:
        done = subprocess.run(
            # No sandbox user: `_apt` cannot write into a private directory.
            children.dying_with_us([apt, "-q", "-o", "APT::Sandbox::User=root", "download", package]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=target,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(
            f"{package} was not downloaded in {_DOWNLOAD_SECONDS:g} s: is the mirror slow?"
        ) from error
    archives = sorted(target.glob(f"{package}_*.deb"))
    if done.returncode != 0 or len(archives) != 1:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no reason given"]
        raise UnsupportedError(f"apt-get cannot download {package} ({printable(lines[-1])}): try apt-get update first")
    return archives[0]


def unpack(archive: Path, name: str) -> Kernel:
    """The kernel of a linux-image .deb, unpacked with its modules into the cache.

    Debian 14's kernels come in parts (linux-binary, linux-modules), which must lie beside it. Raises `UsageError` for
    a file that is no such package, or has no such parts.
    """
    shown = printable(str(archive))
    digest = _digest(archive)
    archives = [archive]
    for part in _parts(archive):
        found = sorted(path for path in archive.parent.glob("*.deb") if path.name.startswith(f"{part}_"))
        if not found:
            raise UsageError(f"{shown}: consists of parts, and {part} does not lie beside it: apt-get download {part}")
        archives.append(found[-1])
    if len(archives) > 1:
        digest = hashlib.sha256("".join(_digest(path) for path in archives).encode()).hexdigest()
    entry = directory() / digest[:24]
    described = cache.read_json(entry / "kernel.json")
    if described is not None:
        return _kernel(entry, name, described["release"])
    with cache.staging() as staged:
        tree = staged / "tree"
        for path in archives:
            try:
                children.run(["dpkg-deb", "-x", str(path.resolve()), str(tree)], seconds=_UNPACK_SECONDS)
            except children.ChildError as error:
                raise UsageError(
                    f"{printable(str(path))}: not a Debian package that can be unpacked ({error})"
                ) from error
        images = sorted([*(tree / "boot").glob("vmlinuz-*"), *(tree / "usr/lib/modules").glob("*/vmlinuz")])
        if len(images) != 1:
            raise UsageError(f"{shown}: holds no kernel: name a linux-image .deb (not the -dbg or meta package)")
        release = release_of(images[0])
        modules = next((path for path in _module_places(tree, release) if path.is_dir()), None)
        ready = staged / "ready"
        ready.mkdir()
        shutil.move(images[0], ready / "vmlinuz")
        if modules is not None:
            (ready / "lib" / "modules").mkdir(parents=True)
            shutil.move(modules, ready / "lib" / "modules" / release)
            children.run(["depmod", "-b", str(ready), release], seconds=_UNPACK_SECONDS)
        cache.write_json(ready / "kernel.json", {"release": release, "package": archive.name, "sha256": digest})
        cache.publish(ready, entry)
    return _kernel(entry, name, release)


def _digest(archive: Path) -> str:
    try:
        with archive.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{printable(str(archive))}: {error.strerror}: name a linux-image .deb") from error


def _parts(archive: Path) -> list[str]:
    """Packages that hold what a linux-image package only depends on (Debian's linux 7.3.4-1); none of an older one."""
    try:
        depends = children.run(["dpkg-deb", "-f", str(archive.resolve()), "Depends"], seconds=60).stdout
    except children.ChildError as error:
        raise UsageError(f"{printable(str(archive))}: not a Debian package ({error})") from error
    return re.findall(r"(?<!\S)(linux-(?:binary|modules)-[\w.+~-]+)", depends)


def _module_places(tree: Path, release: str) -> Sequence[Path]:
    return (tree / "lib" / "modules" / release, tree / "usr" / "lib" / "modules" / release)


def _kernel(entry: Path, name: str, release: str) -> Kernel:
    modules = entry / "lib" / "modules" / release
    return Kernel(name, entry / "vmlinuz", release, modules if modules.is_dir() else None)


def _newest_package(meta: str) -> str:
    try:
        done = children.run(["apt-cache", "depends", "--important", meta], seconds=60)
    except children.ChildError as error:
        raise UnsupportedError(f"apt knows no {meta}: apt-get update, or name a kernel ({error})") from error
    match = re.search(r"^\s*Depends: (linux-image-\S+)$", done.stdout, re.MULTILINE)
    if match is None:
        raise UnsupportedError(f"apt knows no {meta}: apt-get update, or name a kernel with --kernel")
    return match.group(1)
