"""A qemu-storage-daemon that serves one image to us, and ends when we end.

Its NBD server is a socket that has no name in any file system: we listen on an address that the kernel picks, connect
to it ourselves before QEMU exists, and hand the listening end over. QEMU takes one connection, ours, and no other.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracer import interrupts
from tracer.errors import EofraceError, UnsupportedError, UsageError
from tracer.lab import children, loop, scratch
from tracer.report.escape import printable

NAME = "qemu-storage-daemon"
EXPORT = "disk"

_STOP_SECONDS = 60.0
"""How long it may take to write its tables back: it is asked to end, and killed only then."""
_VERSION = re.compile(r"qemu-storage-daemon version ([0-9][^\s(]*)")


class DaemonError(EofraceError):
    """A qemu-storage-daemon did not end as it should have."""


@dataclass(frozen=True, slots=True)
class Build:
    """One QEMU. `path` is absolute, `version` is what it says of itself, such as `7.2.22`."""

    path: str
    version: str
    label: str
    """Its row in every output: `qemu-7.2.22`, with a number where another build says the same."""


def builds(paths: tuple[Path, ...]) -> tuple[Build, ...]:
    """The builds to be judged; of none, the host's own. Raises UsageError, UnsupportedError."""
    found: list[Build] = []
    for path in paths or (Path(children.find(NAME)),):
        version = _version(path)
        twins = sum(build.version == version for build in found)
        found.append(Build(os.path.abspath(path), version, f"qemu-{version}" + (f"#{twins + 1}" if twins else "")))
    return tuple(found)


def _version(path: Path) -> str:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise UsageError(f"--qemu {path}: no such program: name a {NAME}")
    try:
        said = children.run([os.path.abspath(path), "--version"], seconds=30).stdout
    except (children.ChildError, UnsupportedError) as error:
        raise UsageError(f"--qemu {path}: it does not run: {error}") from None
    match = _VERSION.search(said)
    if match is None:
        raise UsageError(f"--qemu {path}: not a {NAME}: it calls itself {printable(said.partition(chr(10))[0])!r}")
    return match[1]


class Daemon:
    """A running one. `connection` is the connected client's end of its NBD server; whoever uses it closes it."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: socket.socket, said: int) -> None:
        self.process = process
        self.connection = connection
        self._said = said

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def last_words(self) -> str:
        """The last line that it wrote to stderr; what became of it if it wrote none."""
        said = os.pread(self._said, 65536, max(0, os.fstat(self._said).st_size - 65536)).decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        if lines:
            return printable(lines[-1])[:300]
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(0.5)
            return f"signal {-code}" if code < 0 else f"exit {code}"
        return "it said nothing"

    def stop(self) -> None:
        """Have it close the image, written back, and end. Raises DaemonError where it does not, or fails."""
        self.process.terminate()
        try:
            code = self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DaemonError(f"{NAME} did not end within {_STOP_SECONDS:g} s") from None
        if code:
            raise DaemonError(f"{NAME} ended badly ({self.last_words()})")


@contextlib.contextmanager
def served(
    build: Build, image: Path, *, aio: str, direct: bool, discard: str = "unmap", format: str = "qcow2"
) -> Iterator[Daemon]:
    """Have `build` serve the image at `image`, a path that its process can open. Whatever happens, it ends with the
    block; `Daemon.stop` ends it well.

    Call it in a thread that lives as long as the block. Raises UnsupportedError where it cannot be started at all; one
    that refuses the image is found out by who connects.
    """
    cache = {"direct": direct, "no-flush": False}
    file = {
        "driver": "file",
        "node-name": "file",
        "filename": str(image),
        "aio": aio,
        "cache": cache,
        "discard": discard,
        # The image has no name, so nobody else opens it; and who reads it back must not wait for the lock's end.
        "locking": "off",
    }
    disk = {"driver": format, "node-name": EXPORT, "file": "file", "cache": cache, "discard": discard}
    export = {"type": "nbd", "id": "export", "node-name": EXPORT, "name": EXPORT, "writable": True}
    with contextlib.ExitStack() as stack:
        said = loop.unnamed_file(scratch.default_directory())
        stack.callback(os.close, said)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("")  # unix(7), autobind: an abstract address that nobody has
        listener.listen(1)
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(listener.getsockname())
        server = {"addr": {"type": "fd", "str": str(listener.fileno())}, "max-connections": 1}
        words = [build.path, "--blockdev", json.dumps(file), "--blockdev", json.dumps(disk)]
        words += ["--nbd-server", json.dumps(server), "--export", json.dumps(export)]
        with interrupts.deferred():
            try:
                process = subprocess.Popen(
                    children.dying_with_us(words),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=(listener.fileno(),),
                    start_new_session=True,  # Ctrl-C is for us: it has to live until the guest has stopped
                )
            except OSError as error:
                raise UnsupportedError(f"cannot start {build.path}: {error.strerror}") from error
            stack.callback(_end, process)
        listener.close()  # once QEMU is gone, too, the connection breaks
        yield Daemon(process, connection, said)


def _end(process: "subprocess.Popen[bytes]") -> None:
    # The whole session: where the program is a script, QEMU is its child.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
