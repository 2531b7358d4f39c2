"""Which eofrace this is, exactly: the number of a release says nothing about a checkout between two of them."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path

import tracer

ROOT = Path(tracer.__file__).resolve().parents[1]
"""The directory that this eofrace's packages lie in."""

_PARTS = ("tracer", "blockstack", "bpf")
_KINDS = {".py", ".c", ".h"}


@functools.cache
def version() -> str:
    """Release and a hash of the sources: "0.1.0+1f2e3d4c5b6a"."""
    try:
        release = importlib.metadata.version("eofrace")
    except importlib.metadata.PackageNotFoundError:
        release = "0"
    digest = hashlib.sha256()
    for path in sorted(path for part in _PARTS for path in (ROOT / part).rglob("*") if path.suffix in _KINDS):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{release}+{digest.hexdigest()[:12]}"
