"""An image as what is not zero in it: small, whatever its length; in the corpus a JSON file.

Beside the image it may bring the files that its backing chain names.
"""

import base64
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 512
"""Granularity of extents, in bytes."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """`extents` are (offset in bytes, data), ascending and apart."""

    length: int
    extents: tuple[tuple[int, bytes], ...]

    @classmethod
    def read(cls, path: Path, limit: int = 64 << 20) -> "Sparse":
        """The file at `path`; only its first `limit` bytes may hold data."""
        length = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(min(length, limit))
        extents: list[tuple[int, bytes]] = []
        start: int | None = None
        for at in range(0, len(data) + BLOCK, BLOCK):
            used = any(data[at : at + BLOCK])
            if used and start is None:
                start = at
            elif not used and start is not None:
                extents.append((start, data[start : min(at, len(data))]))
                start = None
        return cls(length, tuple(extents))

    def write(self, path: Path) -> None:
        """Make the file anew. Raises OSError where the file system cannot hold its length."""
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(self.length)
            for offset, data in self.extents:
                if offset < self.length:
                    file.seek(offset)
                    file.write(data[: self.length - offset])


@dataclass(frozen=True, slots=True)
class Entry:
    """One input of the corpus: `why` says what it once broke, or what it tries."""

    why: str
    image: Sparse
    others: dict[str, Sparse] = field(default_factory=dict)

    def dump(self, path: Path) -> None:
        files = {"image": self.image, **self.others}
        packed = {
            name: {
                "length": sparse.length,
                "extents": [[offset, _pack(data)] for offset, data in sparse.extents],
            }
            for name, sparse in files.items()
        }
        path.write_text(json.dumps({"why": self.why, "files": packed}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Entry":
        packed = json.loads(path.read_text())
        files = {
            name: Sparse(file["length"], tuple((offset, _unpack(data)) for offset, data in file["extents"]))
            for name, file in packed["files"].items()
        }
        return cls(packed["why"], files.pop("image"), files)

    def write(self, directory: Path) -> Path:
        """The files in `directory`; returns the image's path."""
        for name, sparse in self.others.items():
            sparse.write(directory / name)
        self.image.write(directory / "image")
        return directory / "image"


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
