"""The result of `eofrace probe --json` (schema eofrace.probe/1), as far as the strategy `auto` goes by it.

The file may come from anywhere: it is read with limits, and what makes no sense is an error, never "safe".
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 4 << 20
MAX_RESULTS = 1000

SCHEMA = "eofrace.probe/1"
VERDICTS = frozenset({"safe", "racy", "unsupported", "inconclusive"})
MODES = frozenset({"plain", "zero-range", "keep-size"})
NEEDED = frozenset({"plain", "zero-range"})
"""Modes of fallocate that may extend a file and that file-posix uses (`FilePosix._pwrite_zeroes`)."""


def read_known_safe(path: str | Path) -> frozenset[str]:
    """`known_safe` of a file. Raises OSError, and ValueError for wrong content."""
    # Not blocking, and looked at first: the name may be a FIFO's.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path}: not a regular file")
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"{path}: longer than {MAX_BYTES} bytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not JSON") from None
    try:
        return known_safe(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def known_safe(content: Any) -> frozenset[str]:
    """File systems on which a probe of the *running* kernel found all modes that matter safe, or unsupported.

    At least one has to be safe, none may be missing, and no result may say anything else. A result of another kernel
    says nothing of this one: none then. Raises ValueError where `content` is not a probe's result.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"not a result of eofrace probe ({SCHEMA})")
    results = content.get("results")
    if not isinstance(results, list) or len(results) > MAX_RESULTS:
        raise ValueError(f"results is not a list of at most {MAX_RESULTS}")
    found: dict[str, dict[str, set[str]]] = {}
    for result in results:
        fs, mode, verdict = _fields(result)
        found.setdefault(fs, {}).setdefault(mode, set()).add(verdict)
    if not _is_running_kernel(content):
        return frozenset()
    return frozenset(fs for fs, modes in found.items() if _is_safe(modes))


def _fields(result: Any) -> tuple[str, str, str]:
    if not isinstance(result, dict):
        raise ValueError("a result is not an object")
    fs, mode, verdict = (result.get(name) for name in ("fs", "mode", "verdict"))
    if not isinstance(fs, str) or not 0 < len(fs) <= 64:
        raise ValueError("a result names no file system")
    # `in` a set of strings: what cannot be hashed is no name either.
    if not isinstance(mode, str) or mode not in MODES or not isinstance(verdict, str) or verdict not in VERDICTS:
        raise ValueError(f"a result has an unknown mode or verdict, of {', '.join(sorted(MODES | VERDICTS))}")
    return fs, mode, verdict


def _is_running_kernel(content: dict[str, Any]) -> bool:
    kernel, version = content.get("kernel"), content.get("kernel_version")
    if not isinstance(kernel, str) or not isinstance(version, str | None):
        raise ValueError("the kernel's release or version is not text")
    running = os.uname()
    # Two builds may share a release (a patched one does): the version has the build's number and time.
    return kernel == running.release and version in (None, running.version)


def _is_safe(modes: dict[str, set[str]]) -> bool:
    needed = [modes.get(mode, set()) for mode in NEEDED]
    said = set().union(*needed)
    return all(needed) and said <= {"safe", "unsupported"} and "safe" in said
