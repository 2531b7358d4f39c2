"""Where kernels, compiled programs and findings are kept: $XDG_CACHE_HOME/eofrace, else ~/.cache/eofrace (root's too).

All of it can be had again: deleting it costs time and nothing else. Every entry appears whole under its name, by
rename(2), so that an interrupted build or download is no entry.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracer.errors import UnsupportedError
from tracer.report.escape import printable


def root() -> Path:
    """The cache directory, made if missing (mode 0700). Raises `UnsupportedError`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    parent = Path(base) if os.path.isabs(base) else _home() / ".cache"
    directory = parent / "eofrace"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        name = printable(str(directory))
        raise UnsupportedError(f"{name}: {error.strerror}: name another place in XDG_CACHE_HOME") from error
    return directory.resolve()


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UnsupportedError("no home directory: name a place for the cache in XDG_CACHE_HOME") from error


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """A private directory in the cache, on its file system, removed at the end of the block."""
    directory = Path(tempfile.mkdtemp(prefix="new-", dir=root()))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def publish(staged: Path, entry: Path) -> None:
    """Give a finished directory its final name. Whoever came first wins: equal names have equal contents."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise


@contextlib.contextmanager
def lock(name: str) -> Iterator[bool]:
    """Hold the named lock of the cache; the value is whether it had to be waited for. A killed holder holds nothing."""
    descriptor = os.open(root() / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield waited
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """A small JSON object of the cache; None if it is missing or not one."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write one, whole or not at all."""
    write(path, json.dumps(data, indent=1).encode() + b"\n")


def write(path: Path, data: bytes) -> None:
    """Write a file (mode 0600), whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix="new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
