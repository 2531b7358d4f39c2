"""Build the kernels `racy` and `stock` from Debian's linux-source package.

Both come out of one tree: the second is an incremental build that compiles fs/xfs again and links. The tree is kept
in the cache until both are there. An image is cached by the content of patch, fragment and source package version.
"""

import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from tracer import cache
from tracer.errors import EofraceError, UnsupportedError
from tracer.lab import children
from tracer.report.escape import printable
from tracer.vm import debian
from tracer.vm.image import Kernel, release_of

VARIANTS = ("racy", "stock")
"""With our patch, and without: same source, same configuration."""

SOURCE = "linux-source-6.1"
LIMIT_SECONDS = 3600.0

TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "pahole": "dwarves",
    "patch": "patch",
    "xz": "xz-utils",
    "tar": "tar",
    "cpio": "cpio",
    "rsync": "rsync",
}
"""What a build needs, and Debian's package of each. Headers have no command: libelf-dev, libssl-dev."""

_HEADERS = {"/usr/include/libelf.h": "libelf-dev", "/usr/include/openssl/opensslv.h": "libssl-dev"}
_STEPS = 1900
"""Lines that a build from scratch prints, for the progress bar."""
_LINES_SHOWN = 8

Progress = Callable[[int, int, str], None]
"""Called with the steps done, the steps there are (a guess), and what is being done."""


class BuildError(EofraceError):
    """A build that failed or took too long; `log` holds its last lines."""

    status = UnsupportedError.status

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


def patch() -> bytes:
    """Our patch."""
    return _data("xfs-fallocate-race.patch")


def fragment() -> bytes:
    """Our configuration, for `make allnoconfig`."""
    return _data("fragment.config")


def key(variant: str, source_version: str) -> str:
    """Cache key: what makes two images differ."""
    digest = hashlib.sha256()
    for part in (variant.encode(), source_version.encode(), fragment(), patch() if variant == "racy" else b""):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:24]


def cached(variant: str) -> Kernel | None:
    """The image that is there for today's patch and fragment, of the newest source package it was built from."""
    entries = []
    for entry in _built().glob(f"{variant}-*"):
        described = cache.read_json(entry / "kernel.json")
        if described is not None and entry.name == f"{variant}-{key(variant, str(described.get('source')))}":
            entries.append((float(described.get("built", 0)), entry, str(described["release"])))
    if not entries:
        return None
    _, entry, release = max(entries)
    return Kernel(variant, entry / "bzImage", release, None)


def detail(variant: str) -> str:
    """What the listing says about a cached image."""
    found = cached(variant)
    described = None if found is None else cache.read_json(found.image.parent / "kernel.json")
    if described is None:
        return ""
    return f"{SOURCE} {described['source']}, all built in, BTF; built in {described['seconds']:.0f} s"


def missing_tools() -> list[str]:
    """Debian packages that a build needs and that are not there."""
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    packages += [package for header, package in _HEADERS.items() if not os.path.exists(header)]
    return packages


def make(variant: str, progress: Progress | None = None) -> Kernel:
    """Build one, unless it is cached. Raises `UnsupportedError`, `BuildError`."""
    report = progress or (lambda done, steps, what: None)
    found = cached(variant)
    if found is not None:
        return found
    lacking = missing_tools()
    if lacking:
        raise UnsupportedError(
            f"building needs {', '.join(lacking)}: apt-get install {' '.join(lacking)} (./run vm build installs them)"
        )
    with cache.lock("build"):
        found = cached(variant)
        return found if found is not None else _make(variant, report)


def _make(variant: str, report: Progress) -> Kernel:
    began = time.monotonic()
    used = _cpu_seconds()
    tree, version = _tree(report)
    release_suffix = f"-eofrace-{variant}"
    with _patched(tree, variant):
        if not (tree / ".config").exists():
            _configure(tree)
        words = ["make", f"-j{(os.cpu_count() or 1) + 1}", f"LOCALVERSION={release_suffix}", "bzImage"]
        _build(words, tree, report)
    image = tree / "arch/x86/boot/bzImage"
    release = release_of(image)
    seconds = time.monotonic() - began
    with cache.staging() as staged:
        ready = staged / "ready"
        ready.mkdir()
        shutil.copyfile(image, ready / "bzImage")
        shutil.copyfile(tree / ".config", ready / "config")
        cache.write_json(
            ready / "kernel.json",
            {
                "variant": variant,
                "release": release,
                "source": version,
                "seconds": round(seconds, 1),
                "cpu_seconds": round(_cpu_seconds() - used, 1),
                "built": time.time(),
                "compiler": _first_line(["gcc", "--version"]),
                "btf": True,
                "modules": False,
            },
        )
        cache.publish(ready, _built() / f"{variant}-{key(variant, version)}")
    if all(cached(name) is not None for name in VARIANTS):
        shutil.rmtree(tree.parent, ignore_errors=True)
    made = cached(variant)
    assert made is not None
    return made


def _cpu_seconds() -> float:
    """Processor time of all children that have ended: what a build costs on a machine that is shared."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _built() -> Path:
    return cache.root() / "built"


# ---------------------------------------------------------------- the tree


def _tree(report: Progress) -> tuple[Path, str]:
    """The unpacked source, configured or not, and its package version."""
    for place in sorted((cache.root() / "trees").glob("*/source.json")):
        described = cache.read_json(place)
        if described is not None and described.get("fragment") == hashlib.sha256(fragment()).hexdigest():
            return place.parent / "linux", str(described["version"])
    # Trees of an older fragment are of no use any more.
    shutil.rmtree(cache.root() / "trees", ignore_errors=True)
    with cache.staging() as staged:
        report(0, _STEPS, f"downloading {SOURCE}")
        archive = debian.download(SOURCE, staged)
        version = _first_line(["dpkg-deb", "-f", str(archive), "Version"])
        report(0, _STEPS, "unpacking")
        children.run(["dpkg-deb", "-x", str(archive), str(staged / "deb")], seconds=600)
        archive.unlink()
        tars = sorted((staged / "deb/usr/src").glob("linux-source-*.tar.xz"))
        if len(tars) != 1:
            raise UnsupportedError(f"{SOURCE} {version} holds no source: report this")
        ready = staged / "ready"
        (ready / "linux").mkdir(parents=True)
        words = ["tar", "-x", "-f", str(tars[0]), "-C", str(ready / "linux"), "--strip-components=1"]
        # Half of the unpacked bytes, and no part of the build: register headers, documentation, self tests.
        words += [f"--exclude=*/{name}" for name in ("asic_reg", "Documentation/*/*", "tools/testing/selftests/*/*")]
        children.run(words, seconds=600)
        cache.write_json(
            ready / "source.json", {"version": version, "fragment": hashlib.sha256(fragment()).hexdigest()}
        )
        place = cache.root() / "trees" / re.sub(r"[^\w.+~-]", "_", version)
        cache.publish(ready, place)
    return place / "linux", version


@contextlib.contextmanager
def _patched(tree: Path, variant: str) -> Iterator[None]:
    """The tree with the patch or without it, whatever an interrupted build has left."""
    state = tree.parent / "variant"
    if (state.read_text() if state.exists() else "stock") != variant:
        # Written first: an interruption in between is then seen as "unknown", and both directions are tried.
        state.write_text("unknown")
    if not state.exists() or state.read_text() == "unknown":
        direction = [] if variant == "racy" else ["-R"]
        _apply(tree, direction)
        state.write_text(variant)
    yield


def _apply(tree: Path, direction: Sequence[str]) -> None:
    """Apply the patch or take it out. Where that has been done already it stays so."""
    other = ["-R"] if not direction else []
    base = ["patch", "-p1", "-f", "-s", "-r", "-", "--no-backup-if-mismatch", "-d", str(tree)]
    for extra, words in ((["--dry-run"], other), ([], list(direction))):
        done = subprocess.run([*base, *words, *extra], input=patch(), capture_output=True, timeout=60, check=False)
        if extra and done.returncode == 0:
            return
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip()
        raise BuildError("our patch does not fit this source: report this, with the source's version", said)


def _configure(tree: Path) -> None:
    """allnoconfig and the fragment. Raises `BuildError` if the source drops an option of it."""
    allconfig = tree.parent / "fragment.config"
    allconfig.write_bytes(fragment())
    environment = {**_environment(), "KCONFIG_ALLCONFIG": str(allconfig)}
    done = subprocess.run(
        children.dying_with_us(["make", "allnoconfig"]),
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    dropped = [] if done.returncode else dropped_options((tree / ".config").read_text())
    if done.returncode or dropped:
        (tree / ".config").unlink(missing_ok=True)
        why = f"the source drops {', '.join(dropped)}" if dropped else "make allnoconfig failed"
        raise BuildError(f"{why}: report this", _tail(done.stderr.splitlines()))


def dropped_options(config: str) -> list[str]:
    """Options of the fragment that a resulting .config does not have as asked for."""
    lines = set(config.splitlines())
    wanted = [line for line in fragment().decode().splitlines() if line.startswith("CONFIG_")]
    unwanted = re.findall(r"^# (CONFIG_\w+) is not set$", fragment().decode(), re.MULTILINE)
    missing = [line for line in wanted if line not in lines]
    return missing + [name for name in unwanted if any(line.startswith(f"{name}=") for line in lines)]


# ---------------------------------------------------------------- make


def _build(words: Sequence[str], tree: Path, report: Progress) -> None:
    """Run make to its end. Raises `BuildError`; the processes it started end with it, whatever happens."""
    last: deque[str] = deque(maxlen=200)
    process = subprocess.Popen(
        children.dying_with_us(words),
        cwd=tree,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(LIMIT_SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        for done, line in enumerate(process.stdout, 1):
            last.append(line.rstrip())
            report(done, _STEPS, line.strip())
        status = process.wait()
    finally:
        timer.cancel()
        _end(process)
        if process.stdout is not None:
            process.stdout.close()
    if late.is_set():
        raise BuildError(f"the build took more than {LIMIT_SECONDS:g} s: run it again, it goes on", _tail(last))
    if status != 0:
        raise BuildError(f"make failed (exit {status}): {_reason(last)}", _tail(last))


def _end(process: "subprocess.Popen[str]") -> None:
    """End make and all it started: first so that it removes what is half written, then for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _reason(lines: Sequence[str]) -> str:
    errors = [line for line in lines if re.search(r"error|No space|not found|\*\*\*", line, re.IGNORECASE)]
    if any("No space left" in line for line in errors):
        return f"the disk of {cache.root()} is full: free 3 GB there, or set XDG_CACHE_HOME"
    return printable(errors[0].strip()) if errors else "see its last lines"


def _tail(lines: Sequence[str]) -> str:
    return "\n".join([printable(line) for line in lines if line.strip()][-_LINES_SHOWN:])


def _environment() -> dict[str, str]:
    """Fixed where it would make two builds differ, or make's words unreadable."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "LC_ALL": "C",
        "KBUILD_BUILD_USER": "eofrace",
        "KBUILD_BUILD_HOST": "eofrace",
        "KBUILD_BUILD_TIMESTAMP": "2026-01-01",
    }


def _first_line(words: Sequence[str]) -> str:
    return (children.run(list(words)).stdout.splitlines() or [""])[0].strip()


def _data(name: str) -> bytes:
    return resources.files("tracer.vm").joinpath("kernel", name).read_bytes()
