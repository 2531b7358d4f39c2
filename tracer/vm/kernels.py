"""Which kernels there are, and which one a user means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.errors import UsageError
from tracer.report.escape import printable
from tracer.vm import build, debian
from tracer.vm.image import Kernel, release_of

NAMES = ("debian", *build.VARIANTS)


def resolve(name: str) -> Kernel:
    """The kernel of a name (`NAMES`) or a path: an image, or a linux-image .deb.

    Downloads Debian's where it is not cached; does not build. Raises `UsageError`, `UnsupportedError`.
    """
    if name == "debian":
        return debian.newest()
    if name in build.VARIANTS:
        found = build.cached(name)
        if found is None:
            raise UsageError(f"the kernel {name} is not built yet: eofrace vm build {name}")
        return found
    path = Path(name)
    if "/" not in name and not path.exists():
        raise UsageError(f"no kernel {printable(name)}: name {', '.join(NAMES)}, an image, or a linux-image .deb")
    if path.suffix == ".deb":
        return debian.unpack(path, name=path.name)
    image = path.resolve()
    release = release_of(image)
    return Kernel(path.name, image, release, _modules_for(image, release))


def _modules_for(image: Path, release: str) -> Path | None:
    """Modules beside the image (an unpacked package, `make modules_install`), else the host's of that release."""
    for base in (*image.parents[:3], Path("/")):
        modules = base / "lib" / "modules" / release
        if (modules / "modules.dep").exists():
            return modules
    return None


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `vm kernels`."""

    name: str
    cached: bool
    release: str | None
    image: Path | None
    size: int | None
    modules: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """As `vm kernels --json` shows it."""
        return {
            "name": self.name,
            "cached": self.cached,
            "release": self.release,
            "image": None if self.image is None else str(self.image),
            "size": self.size,
            "modules": self.modules,
            "detail": self.detail,
        }


def listing() -> list[Listed]:
    """What there is, without downloading or building anything."""
    lines = [_line("debian", kernel, "") for kernel in debian.cached()]
    if not lines:
        lines.append(_absent("debian", "vm run downloads it (70 MB)"))
    for name in build.VARIANTS:
        found = build.cached(name)
        lines.append(
            _absent(name, f"eofrace vm build {name}") if found is None else _line(name, found, build.detail(name))
        )
    return lines


def _line(name: str, kernel: Kernel, detail: str) -> Listed:
    size = kernel.image.stat().st_size
    return Listed(name, True, kernel.release, kernel.image, size, kernel.modules is not None, detail)


def _absent(name: str, detail: str) -> Listed:
    return Listed(name, False, None, None, None, False, detail)
