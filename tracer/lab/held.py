"""The held disk: a scratch file system on which chosen writes stay in flight until they are released.

nbdkit with a small plugin (`held_plugin.py`) serves the backing file, nbdfuse makes a file of it, and a loop device a
disk. A write is held by how its payload begins: a test's writes carry a marker, the file system's own metadata passes.

One request at a time: nbdfuse (libnbd 1.14) waits for the server's answer with its only handle locked (nbd_poll()), so
every other request to the disk, reads too, waits behind a held one until it is released.

Whatever happens, nothing stays held: releasing is part of leaving the context; the plugin gives up on a holder that is
dying (`held_plugin`); nbdfuse and nbdkit die with the process, and a dead nbdfuse aborts its connection, which fails
everything in flight with EIO (fuse_abort_conn()).

nbdfuse mounts in a mount namespace of its own, whose root we see as /proc/PID/root: no mount point is made, and nobody
else sees it.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.errors import EofraceError, Status, UnsupportedError
from tracer.lab import children, loop, namespace, scratch
from tracer.lab.scratch import Scratch

LOOP_SET_DIRECT_IO = 0x4C08
"""linux/loop.h, 4.10: without it loop writes page by page through the page cache of nbdfuse's file."""

_PLUGIN = Path(__file__).with_name("held_plugin.py")
_LOOK = 0.5
_ANSWER_SECONDS = 60.0
_START_SECONDS = 30.0  # some tenths of one, but for an emulated machine
_STOP_SECONDS = 5.0
_HIGH = 64  # descriptors that libnbd and nbdkit do not use for themselves


class HeldDiskError(EofraceError):
    """The held disk does not work (any more). Whatever was measured on it means nothing."""

    status = Status.INCONCLUSIVE


@dataclass(frozen=True, slots=True)
class HeldWrite:
    """One write in flight. Offset and length are the disk's, in bytes."""

    number: int
    offset: int
    length: int
    t_held: int  # ns, CLOCK_MONOTONIC


@dataclass(slots=True)
class Hold:
    """One rule, and what it holds. Made by `HeldDisk.hold`."""

    disk: "HeldDisk"
    number: int
    writes: list[HeldWrite] = field(default_factory=list)
    """All that were ever held by it, in order."""

    def wait(self, seconds: float, count: int = 1) -> bool:
        """Wait until `count` writes have been held; False if that did not happen. Raises HeldDiskError."""
        return self.disk._wait(lambda: len(self.writes) >= count, seconds)

    def release(self, write: HeldWrite | None = None) -> None:
        """Let one write go on, or all of this rule. One that is gone already is no error. Raises HeldDiskError."""
        self._let_go(write, 0)

    def fail(self, write: HeldWrite | None = None, error: int = errno.EIO) -> None:
        """Have one write fail with this errno, or all of this rule. (loop makes an I/O error of most of them.)"""
        self._let_go(write, error)

    def _let_go(self, write: HeldWrite | None, error: int) -> None:
        for one in [write] if write is not None else list(self.writes):
            self.disk._command({"release": one.number, "error": error})


class HeldDisk:
    """A mounted scratch file system on a disk that holds writes. Made by `held_scratch()`."""

    def __init__(self, control: socket.socket, daemon: "_Daemon") -> None:
        self.scratch: Scratch  # set once it is mounted
        self._control = control
        self._daemon = daemon
        self._state = threading.Condition()
        self._turn = threading.Lock()
        self._answers = 0
        self._dead = False
        self._stop = False
        self._rules = 0
        self._holds: dict[int, Hold] = {}
        self._listener = threading.Thread(target=self._listen, name="held disk", daemon=True)
        self._listener.start()

    @staticmethod
    def marker() -> bytes:
        """16 bytes that no other payload begins with."""
        return secrets.token_bytes(16)

    @contextlib.contextmanager
    def hold(self, prefix: bytes, *, length: int | None = None, limit: int | None = None) -> Iterator[Hold]:
        """Hold writes whose payload begins with `prefix`, from now to the end of the block.

        `length`: only writes of so many bytes, as they reach the disk. `limit`: only so many of them. At the end what
        is still held is released. Raises HeldDiskError.
        """
        with self._state:
            self._rules += 1
            hold = self._holds[self._rules] = Hold(self, self._rules)
        try:
            self._command({"hold": hold.number, "prefix": prefix.hex(), "length": length, "limit": limit})
            yield hold
        finally:
            with contextlib.suppress(HeldDiskError):
                self._command({"drop": hold.number})
            del self._holds[hold.number]

    @property
    def pids(self) -> list[int]:
        """Of nbdfuse, for tests of what happens when it dies."""
        return [self._daemon.process.pid]

    def close(self) -> None:
        """Stop talking: the plugin fails what is still held."""
        self._stop = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._listener.join()

    def _command(self, message: dict[str, Any]) -> None:
        with self._turn:
            expected = self._answers + 1
            self._send(message)
            if not self._wait(lambda: self._answers >= expected, _ANSWER_SECONDS):
                raise HeldDiskError("the held disk does not answer: look for a stopped nbdkit")

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            raise self._died() from None

    def _wait(self, condition: Any, seconds: float) -> bool:
        with self._state:
            done = self._state.wait_for(lambda: self._dead or condition(), seconds)
            if self._dead and not condition():
                raise self._died()
            return bool(done)

    def _has_ended(self) -> bool:
        """Whether it is dead, or dying: what was in flight fails some time before the death is heard of."""
        with self._state:
            return self._state.wait_for(lambda: self._dead, 2 * _LOOK)

    def _died(self) -> HeldDiskError:
        return HeldDiskError(f"the held disk has ended{self._daemon.last_words()}: run it again")

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        try:
            while not self._stop:
                if not poll.poll(_LOOK * 1000):
                    if self._daemon.process.poll() is not None:
                        break  # nbdkit waits for the held write, which nobody wants any more
                    continue
                packet = self._control.recv(65536)
                if not packet:
                    break
                self._hear(json.loads(packet))
        except (OSError, ValueError):
            pass  # closed, by us or by a dying nbdkit
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        with self._state:
            self._dead = True
            self._state.notify_all()

    def _hear(self, message: dict[str, Any]) -> None:
        with self._state:
            if "done" in message:
                self._answers += 1
            elif message["rule"] in self._holds:
                write = HeldWrite(message["held"], message["offset"], message["length"], time.monotonic_ns())
                self._holds[message["rule"]].writes.append(write)
            self._state.notify_all()


@contextlib.contextmanager
def held_scratch(fs: str, size: int, backing_dir: Path, delay_ms: int = 0) -> Iterator[HeldDisk]:
    """A fresh file system `fs` of `size` bytes on a held disk, mounted for this process and its children alone.

    With `delay_ms` every read and write takes so much longer (nbdkit's delay filter, which knows whole milliseconds),
    and few do so at once: with 5 ms, 170 random writes a second of depth 1 and 540 of depth 32 were measured.

    Call it in a thread that lives as long as the context: the helpers die with it. Raises `UsageError` and
    `UnsupportedError` as `scratch.loop_scratch` does, `UnsupportedError` too where nbdkit, nbdfuse or FUSE is missing,
    and `HeldDiskError` in place of whatever the death of the disk made of the block.
    """
    kind = scratch.kind_of(fs, size)
    namespace.enter_private_namespace()
    for command in (kind.mkfs[0], "nbdkit", "nbdfuse", "unshare"):
        children.find(command)
    with contextlib.ExitStack() as stack:
        backing = loop.backing_file(backing_dir, size)
        stack.callback(os.close, backing)
        scratch.make_file_system(kind, backing)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        daemon = stack.enter_context(_Daemon(backing, theirs, delay_ms))
        disk = HeldDisk(ours, daemon)
        stack.callback(disk.close)
        file = daemon.open_file(size)
        stack.callback(_close, file)
        with loop.loop_device(file) as device:
            stack.callback(loop.wait_cleared, device, file)
            _direct(device)
            disk.scratch = stack.enter_context(scratch.mounted(fs, kind, device))
        try:
            yield disk
        except Exception as error:
            # Who works on a disk that has died meets an I/O error before `disk` hears of the death.
            if isinstance(error, HeldDiskError) or not disk._has_ended():
                raise
            raise disk._died() from error


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # ENOTCONN of a nbdfuse that is dead; the descriptor is closed
        os.close(descriptor)


def _direct(device: Path) -> None:
    """Let loop pass requests on whole, where it can: only then does a rule's length mean anything."""
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, LOOP_SET_DIRECT_IO, 1)
    finally:
        os.close(descriptor)


class _Daemon:
    """nbdfuse with nbdkit below it. A context: both are gone at its end."""

    def __init__(self, backing: int, control: socket.socket, delay_ms: int) -> None:
        self._said = loop.unnamed_file(scratch.default_directory())
        place = f"{namespace.cover()}/{secrets.token_hex(16)}"
        image = fcntl.fcntl(backing, fcntl.F_DUPFD, _HIGH)
        theirs = fcntl.fcntl(control, fcntl.F_DUPFD, _HIGH)
        control.close()
        # nbdkit runs the plugin in an interpreter of its own, which must not look for a venv.
        slow = [f"delay-{what}={delay_ms}ms" for what in ("read", "write") if delay_ms]
        serve = ["nbdkit", "--exit-with-parent", "--log=stderr", *(["--filter=delay"] if slow else []), "python"]
        mount = ["unshare", "--mount", "--propagation", "slave", "--"]
        mount += [children.find("nbdfuse"), place, "["]
        serve += [str(_PLUGIN), f"image={image}", f"control={theirs}", f"holder={os.getpid()}", *slow]
        words = [*mount, *serve, "]"]
        self._path = f"root{place}"
        try:
            self.process = subprocess.Popen(
                children.dying_with_us(words),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=(image, theirs),
                env={**os.environ, "PYTHONNOUSERSITE": "1"},
                start_new_session=True,  # Ctrl-C is for us: the disk has to outlive the mount
            )
        except OSError as error:
            os.close(self._said)
            raise UnsupportedError(f"cannot start nbdfuse: {error.strerror}") from error
        finally:
            os.close(image)
            os.close(theirs)

    def __enter__(self) -> "_Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        # Only now, with nothing mounted on it any more: or for certain, if something is.
        children.end(self.process, _STOP_SECONDS)
        os.close(self._said)

    def open_file(self, size: int) -> int:
        """A descriptor of nbdfuse's file, once it serves. Raises UnsupportedError."""
        path = f"/proc/{self.process.pid}/{self._path}"
        deadline = time.monotonic() + _START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                if os.fstat(descriptor).st_size == size:
                    return descriptor
                os.close(descriptor)
            time.sleep(0.005)
        raise UnsupportedError(
            f"nbdfuse does not serve a held disk{self.last_words()}: load FUSE (modprobe fuse), install nbdkit and its "
            "Python plugin (apt-get install nbdkit nbdkit-plugin-python libnbd-bin)"
        )

    def last_words(self) -> str:
        """The last line that it wrote, in brackets; nothing if it wrote none."""
        said = os.pread(self._said, 65536, max(0, os.fstat(self._said).st_size - 65536)).decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return f" ({lines[-1]})" if lines else ""
