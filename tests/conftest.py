"""What each marker needs. A test that cannot run here is skipped with the reason, and pytest's -ra lists it."""

import functools
import os
from collections.abc import Callable

import pytest
from hypothesis import settings

from tracer import host
from tracer.vm import build, command

# Machines are shared: how long one example takes says nothing.
settings.register_profile("shared", deadline=None)
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


_NEEDS: dict[str, Callable[[], str | None]] = {"root": _no_root, "vm": _no_vm, "racy": _no_racy, "slow": _not_slow}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--vm-racy`: build what the proofs on a racy kernel need, instead of skipping them."""
    parser.addoption("--vm-racy", action="store_true", help="build the kernels racy and stock if they are not cached")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (pytest-xdist, --dist loadgroup) what changes the host stays in one of them.

    Tests marked `root` look at all loop devices and mounts of the host; those marked `vm` change nothing there. What
    shares a module shares its fixtures.
    """
    marks: dict[object, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    for item in items:
        group = next((name for name in ("vm", "root") if name in marks[item.path]), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this host cannot run."""
    for marker, reason in _NEEDS.items():
        if marker == "racy" and item.config.getoption("--vm-racy"):
            continue
        if item.get_closest_marker(marker) is not None:
            why = reason()
            if why is not None:
                pytest.skip(why)
