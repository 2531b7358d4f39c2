"""What each marker needs. A test that cannot run here is skipped with the reason, and pytest's -ra lists it."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from xdist.scheduler import LoadScopeScheduling

from tracer import host
from tracer.vm import build, command

# Machines are shared: how long one example takes says nothing.
settings.register_profile("shared", deadline=None)
# tests/mutation/analysis.toml: whether an example fails is all that is asked, and the same ones every time.
settings.register_profile("mutation", deadline=None, phases=(Phase.explicit, Phase.generate), derandomize=True)
settings.load_profile("shared")


@functools.cache
def _no_root() -> str | None:
    """Why tests that mount or trace cannot run here, None if they can."""
    if os.geteuid() != 0:
        return "needs root: run the tests as root"
    missing = host.look().missing
    return "; ".join(f"{fact.name}: {fact.detail} ({fact.remedy})" for fact in missing) or None


@functools.cache
def _no_vm() -> str | None:
    """Why the dedicated VM cannot be booted here."""
    lacking = command.missing_tools()
    return f"needs {', '.join(lacking)} (./run vm kernels installs them, as root)" if lacking else None


def _no_racy() -> str | None:
    """Why the proofs on the kernels of our own cannot run."""
    lacking = [name for name in build.VARIANTS if build.cached(name) is None]
    return f"the kernel {' and '.join(lacking)} is not built: ./run test --vm-racy builds it" if lacking else None


def _not_slow() -> str | None:
    return "EOFRACE_FAST is set" if os.environ.get("EOFRACE_FAST") else None


def _not_long() -> str | None:
    return None if os.environ.get("EOFRACE_ALL") else "takes minutes: EOFRACE_ALL=1 runs it"


_NEEDS: dict[str, Callable[[], str | None]] = {
    "root": _no_root,
    "vm": _no_vm,
    "racy": _no_racy,
    "slow": _not_slow,
    "long": _not_long,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vm-racy`: build what the proofs on a racy kernel need, instead of skipping them."""
    parser.addoption("--vm-racy", action="store_true", help="build the kernels racy and stock if they are not cached")


class _ByModule(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types
    """A module goes to one process; all that boot the VM to the same one, because two machines at once would be slower.

    (--dist loadgroup does nothing with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "vm" if _rank(str(self.config.rootpath / module)) == 0 else module


@functools.cache
def _rank(module: str) -> int:
    """0: boots the VM; 1: root's, mostly long; 2: others."""
    text = Path(module).read_text()
    return next((rank for rank, name in enumerate(("vm", "root")) if f"mark.{name}" in text), 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long first: at the end all processes have something left to do."""
    items.sort(key=lambda item: _rank(str(item.path)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """With several processes: `./run test` without arguments."""
    config.option.loadscopereorder = False  # in the order of the items
    return _ByModule(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this host cannot run."""
    for marker, reason in _NEEDS.items():
        if marker == "racy" and item.config.getoption("--vm-racy"):
            continue
        if item.get_closest_marker(marker) is not None:
            why = reason()
            if why is not None:
                pytest.skip(why)
