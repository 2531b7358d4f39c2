"""Power failures: what a disk may hold when the power goes, at every write of a run.

Writes reach the file in the order in which they were made; a flush makes those before it stable. Of those since the
last flush the disk may hold any: looked at are all of them, and the last one alone.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from blockstack.aio import Engine
from blockstack.buffers import AlignedBuffer
from blockstack.file_posix import FilePosix


class Recorder:
    """An engine around the real one, which notes every write, and every flush, of one file from now on.

    The file must be opened without O_DIRECT, and under a strategy that issues no zero-writes.
    """

    def __init__(self, file: FilePosix, path: Path) -> None:
        self.before = path.read_bytes()
        self.writes: list[tuple[int, bytes] | None] = []  # offset and data; None is a flush
        self.flushed = 0, b""  # for the test: how many of `writes` there were, and the guest's content then
        self._engine: Engine = file._engine
        file._engine = self
        self._fdatasync = file._calls.fdatasync
        file._calls.fdatasync = self._flush  # type: ignore[method-assign]

    async def pread(self, buffer: AlignedBuffer, length: int, offset: int) -> int:
        return await self._engine.pread(buffer, length, offset)

    async def pwrite(self, buffer: AlignedBuffer, length: int, offset: int, request: int) -> None:
        self.writes.append((offset, bytes(buffer.view[:length])))
        await self._engine.pwrite(buffer, length, offset, request)

    async def _flush(self) -> None:
        await self._fdatasync()
        self.writes.append(None)

    def close(self) -> None:
        self._engine.close()

    def cuts(self) -> Iterator[tuple[int, bytes]]:
        """How many writes and flushes there were, and what the disk may hold then."""
        stable = bytearray(self.before)
        now = bytearray(self.before)
        for number, write in enumerate(self.writes, 1):
            if write is None:
                stable[:] = now
                continue
            _apply(now, *write)
            yield number, bytes(now)
            alone = bytearray(stable)
            _apply(alone, *write)
            if alone != now:
                yield number, bytes(alone)


def _apply(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def corruptions(path: Path, content: bytes) -> int:
    """What `qemu-img check` finds in `content`, leaks aside."""
    path.write_bytes(content)
    words = ["qemu-img", "check", "-f", "qcow2", "--output=json", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    report = json.loads(done.stdout)
    return int(report.get("corruptions", 0)) + int(report["check-errors"])
