"""Small images with everything that qemu-img can put into one, to be spoilt."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.blockstack.support import qemu_img, qemu_io
from tests.fuzz.sparse import Entry, Sparse

OPTIONS: dict[str, str] = {
    "v2": "compat=0.10,cluster_size=4096",
    "v3-512": "cluster_size=512",
    "v3-4k": "cluster_size=4096",
    "v3-64k": "cluster_size=65536",
    "v3-2m": "cluster_size=2M",
    "refcounts-1": "cluster_size=4096,refcount_bits=1",
    "refcounts-8": "cluster_size=4096,refcount_bits=8",
    "refcounts-64": "cluster_size=512,refcount_bits=64",
    "lazy": "cluster_size=4096,lazy_refcounts=on",
    "metadata": "cluster_size=4096,preallocation=metadata",
    "zstd": "cluster_size=4096,compression_type=zstd",
    "extended": "cluster_size=16384,extended_l2=on",
    "data-file": "cluster_size=4096,data_file=data",
}

_LIFE = ("write -P 1 0 20k", "write -P 2 70k 8k", "write -z 40k 8k", "discard 4k 4k", "write -P 3 1500k 4k")


@dataclass(frozen=True, slots=True)
class Seed:
    """An image, and where in it there is something worth changing: (offset, bytes) of single fields."""

    name: str
    entry: Entry
    fields: tuple[tuple[int, int], ...]
    areas: tuple[int, ...]  # offsets of pieces of metadata


def make(directory: Path) -> dict[str, Entry]:
    """All of them, as qemu-img makes them; those that this qemu-img cannot make are left out."""
    (directory / "base").write_bytes(b"\xbb" * 300_000 + bytes(212))
    found: dict[str, Entry] = {}
    for name, options in OPTIONS.items():
        path = directory / "image"
        path.unlink(missing_ok=True)
        with contextlib.chdir(directory):  # QEMU 7.2 looks for the data file where it is called
            try:
                qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "2M")
            except AssertionError:
                continue
            qemu_io(path, *_LIFE)
        others = {"data": Sparse.read(directory / "data")} if name == "data-file" else {}
        found[name] = Entry(name, Sparse.read(path), others)
    found["backed"] = _backed(directory, "base", "raw")
    found["over-qcow2"] = _backed(directory, "middle", "qcow2")
    found["loop"] = _backed(directory, "image", "qcow2")
    found["snapshots"] = _snapshots(directory)
    found["compressed"] = _compressed(directory, "zlib")
    found["compressed-zstd"] = _compressed(directory, "zstd")
    found["bitmap"] = _bitmap(directory)
    return found


def _fresh(directory: Path, *words: str) -> Path:
    path = directory / "image"
    path.unlink(missing_ok=True)
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", *words, path, "2M")
    return path


def _backed(directory: Path, name: str, format: str) -> Entry:
    others = {"base": Sparse.read(directory / "base")}
    if name == "middle":
        middle = _fresh(directory, "-b", "base", "-F", "raw").rename(directory / "middle")
        qemu_io(middle, "write -P 7 100k 30k")
        others["middle"] = Sparse.read(middle)
    path = _fresh(directory, "-u", "-b", name, "-F", format)
    if name != "image":
        qemu_io(path, *_LIFE)
    return Entry(f"over {name}", Sparse.read(path), others)


def _snapshots(directory: Path) -> Entry:
    path = _fresh(directory)
    for step in _LIFE:
        qemu_io(path, step)
        qemu_img("snapshot", "-c", f"after {step}", path)
    qemu_io(path, "write -P 9 0 4k")
    return Entry("snapshots", Sparse.read(path))


def _compressed(directory: Path, type: str) -> Entry:
    raw, path = directory / "raw", directory / "image"
    raw.write_bytes(b"compressible" * 20_000 + bytes((2 << 20) - 240_000))
    path.unlink(missing_ok=True)
    options = f"cluster_size=4096,compression_type={type}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    return Entry(f"compressed by {type}", Sparse.read(path))


def _bitmap(directory: Path) -> Entry:
    path = _fresh(directory)
    qemu_img("bitmap", "--add", path, "b")
    qemu_io(path, *_LIFE)
    return Entry("a dirty bitmap", Sparse.read(path))


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Entry]:
    """The seeds, made once."""
    return make(tmp_path_factory.mktemp("seeds"))
