"""What each marker needs. A test that cannot run here is skipped with the reason, and pytest's -ra lists it."""

import functools
import os
import shutil
from collections.abc import Callable

import pytest

from tracer import host


@functools.cache
def _no_root() -> str | None:
    """Why tests that mount or trace cannot run here, None if they can."""
    if os.geteuid() != 0:
        return "needs root: run the tests as root"
    missing = host.look().missing
    return "; ".join(f"{fact.name}: {fact.detail} ({fact.remedy})" for fact in missing) or None


@functools.cache
def _no_vm() -> str | None:
    if shutil.which("vng") is None:
        return "needs virtme-ng: pip install virtme-ng"
    if shutil.which("qemu-system-x86_64") is None:
        return "needs QEMU: apt install qemu-system-x86"
    return None


def _not_slow() -> str | None:
    return "EOFRACE_FAST is set" if os.environ.get("EOFRACE_FAST") else None


_NEEDS: dict[str, Callable[[], str | None]] = {"root": _no_root, "vm": _no_vm, "slow": _not_slow}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this host cannot run."""
    for marker, reason in _NEEDS.items():
        if item.get_closest_marker(marker) is not None:
            why = reason()
            if why is not None:
                pytest.skip(why)
