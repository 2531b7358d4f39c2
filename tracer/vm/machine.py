"""Boot a kernel over the host's own files, and run commands in it.

    with machine.boot(kernel, shares=[Share(directory)]) as vm:
        done = vm.run(["uname", "-r"], timeout=60)     # Finished(status, stdout, stderr)

The host's root file system is the guest's, read-only; what a command writes goes to memory ($TMPDIR, $HOME), or to
the shared directories, one of which is the cache of all guests (a compiler takes a minute there). QEMU is a child that
the kernel kills with us. Output travels over a virtio serial port of its own, byte for byte; the kernel's console is
kept apart, for the report when the guest dies.
"""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer import cache
from tracer.errors import InconclusiveError, UnsupportedError
from tracer.lab import children
from tracer.report.escape import printable
from tracer.vm import agent, command, private
from tracer.vm.command import Share as Share
from tracer.vm.image import Kernel

BOOT_SECONDS = 180.0
"""Limit of a boot. Under emulation on a busy host one of 20 s has taken 60."""

_CONSOLE_KEPT = 1 << 16
_LINES_SHOWN = 12
_SIGNS = ("Kernel panic", "BUG:", "Oops", "general protection", "Out of memory")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "EOFRACE_DEBUG")
_HIDDEN = ("/dev", "/proc", "/run", "/sys")

Sink = Callable[[bytes], object]


class MachineError(InconclusiveError):
    """The VM died, hung or took too long. `console` holds the last lines of its kernel's console."""

    def __init__(self, message: str, console: str) -> None:
        super().__init__(message)
        self.console = console


@dataclass(frozen=True, slots=True)
class Finished:
    """A command's end: `status` is its exit status, or 128 and the signal that ended it."""

    status: int
    stdout: bytes
    stderr: bytes


@contextlib.contextmanager
def boot(
    kernel: Kernel,
    *,
    memory: str = "5G",
    cpus: int = 2,
    kvm: bool = False,
    shares: Sequence[Share] = (),
    limit: float = BOOT_SECONDS,
) -> Iterator["Machine"]:
    """A running VM, until the end of the block. `memory` as QEMU's -m takes it, `limit` of the boot in seconds.

    Raises `UnsupportedError` where tools are missing, there is no place for the cache, or QEMU does not start,
    `MachineError` where the guest does not come up.
    """
    command.check_tools()
    shares = (*shares, Share(_guests_cache()))
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(private.directory())
        ours, theirs = stack.enter_context(_socketpair())
        console, console_end = stack.enter_context(_socketpair())
        command.fill_private(place, kernel)
        words = command.words(
            kernel,
            memory=memory,
            cpus=cpus,
            kvm=kvm,
            shares=shares,
            private=place,
            agent_fd=theirs.fileno(),
            console_fd=console_end.fileno(),
        )
        log = stack.enter_context(tempfile.TemporaryFile())
        try:
            qemu = subprocess.Popen(
                children.dying_with_us(words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), console_end.fileno()),
                # Ctrl-C on the terminal is for us alone: we end it.
                process_group=0,
            )
        except OSError as error:
            raise UnsupportedError(f"cannot start QEMU: {error.strerror}") from error
        stack.callback(_end, qemu)
        theirs.close()
        console_end.close()
        machine = Machine(ours, console, qemu, kernel)
        try:
            machine.wait_until_up(limit)
        except MachineError:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            if said and qemu.poll():
                # QEMU itself refused: no memory, a bad option, no KVM.
                raise UnsupportedError(f"QEMU cannot start: {printable(said.splitlines()[-1])}") from None
            raise
        for number, share in enumerate(shares):
            machine.mount(command.tag(number), share)
        yield machine


class Machine:
    """A VM that is up. Made by `boot`."""

    def __init__(
        self, port: socket.socket, console: socket.socket, qemu: "subprocess.Popen[bytes]", kernel: Kernel
    ) -> None:
        self.kernel = kernel
        self.release = ""
        self.boot_seconds = 0.0
        self._port = port
        self._console = console
        self._qemu = qemu
        self._frames = agent.Frames()
        self._text = bytearray()
        self._selector = selectors.DefaultSelector()
        for end in (port, console):
            end.setblocking(False)
            self._selector.register(end, selectors.EVENT_READ)

    @property
    def console(self) -> str:
        """The kernel's console: its last lines, or those around the first sign of a disaster."""
        text = self._text.decode(errors="replace").replace("\r", "")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        at = next((number for number, line in enumerate(lines) if any(sign in line for sign in _SIGNS)), None)
        if at is not None:
            lines = lines[max(0, at - _LINES_SHOWN // 2) : at + _LINES_SHOWN // 2]
        return "\n".join(lines[-_LINES_SHOWN:])

    def wait_until_up(self, limit: float) -> None:
        """Wait for the agent's first word. Raises `MachineError`."""
        began = time.monotonic()
        for kind, payload in self._receive(began + limit, f"{self.kernel.name} did not come up within {limit:g} s"):
            if kind == agent.HELLO:
                self.release = str(json.loads(payload)["release"])
                self.boot_seconds = time.monotonic() - began
                return

    def mount(self, tag: str, share: Share) -> None:
        """Mount a shared directory inside. Raises `UnsupportedError`."""
        request = {"tag": tag, "path": _hex(os.fspath(share.path)), "writable": share.writable}
        self._send(agent.MOUNT, request)
        for kind, payload in self._receive(time.monotonic() + 60, "a shared directory was not mounted within 60 s"):
            if kind == agent.MOUNTED:
                failure = json.loads(payload).get("error")
                if failure:
                    raise UnsupportedError(f"{printable(str(share.path))} cannot be shared: {printable(failure)}")
                return

    def run(
        self,
        words: Sequence[str],
        *,
        timeout: float,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> Finished:
        """Run one command to its end, in seconds at most `timeout`.

        Its working directory is ours or `directory`; `environment` adds to the plain one it gets. With `stdout`
        or `stderr` output goes there as it comes, and not into the result. Raises `MachineError`.
        """
        kept: dict[bytes, list[bytes]] = {agent.OUT: [], agent.ERR: []}
        sinks = {agent.OUT: stdout or kept[agent.OUT].append, agent.ERR: stderr or kept[agent.ERR].append}
        place = os.path.abspath(directory if directory is not None else os.getcwd())
        full = {**_environment(), **(environment or {})}
        request = {
            "words": [_hex(word) for word in words],
            "environment": {_hex(name): _hex(value) for name, value in full.items()},
            "directory": _hex("/" if is_hidden(place) else place),
        }
        self._send(agent.RUN, request)
        late = f"{printable(words[0])} did not end within {timeout:g} s"
        for kind, payload in self._receive(time.monotonic() + timeout, late):
            if kind in sinks:
                sinks[kind](payload)
            elif kind == agent.EXIT:
                return self._finished(json.loads(payload), kept)
        raise AssertionError("frames end with an exception")

    def eofrace(
        self,
        arguments: Sequence[str],
        *,
        timeout: float,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run an eofrace command inside, with the Python and the packages of this process."""
        code = f"import sys; sys.path.insert(0, {_source()!r}); from tracer.commands import main; main()"
        return self.run(
            [sys.executable, "-P", "-c", code, *arguments],
            timeout=timeout,
            stdout=stdout,
            stderr=stderr,
            environment=environment,
        )

    def _finished(self, answer: dict[str, object], kept: Mapping[bytes, list[bytes]]) -> Finished:
        status = answer["status"]
        assert isinstance(status, int)
        if "error" in answer:
            raise MachineError(f"the VM cannot start the command: {printable(str(answer['error']))}", self.console)
        if status == -9 and b"Out of memory" in self._text:
            raise MachineError("the VM ran out of memory: give it more with --memory", self.console)
        return Finished(status if status >= 0 else 128 - status, b"".join(kept[agent.OUT]), b"".join(kept[agent.ERR]))

    def _send(self, kind: bytes, request: object) -> None:
        self._port.setblocking(True)
        try:
            self._port.settimeout(30)
            self._port.sendall(agent.frame(kind, json.dumps(request).encode()))
        except OSError as error:
            raise MachineError(f"the VM does not listen: {error}", self.console) from error
        finally:
            self._port.setblocking(False)

    def _receive(self, deadline: float, late: str) -> Iterator[tuple[bytes, bytes]]:
        """Frames, as they come. Raises `MachineError` at the deadline, and when QEMU ends."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineError(f"{late}: allow it more time, or see what it waits for", self.console)
            for key, _ in self._selector.select(min(left, 1.0)):
                data = _read(key.fileobj)
                if key.fileobj is self._console:
                    self._text += data
                    del self._text[:-_CONSOLE_KEPT]
                    continue
                if not data:
                    raise MachineError(self._death(), self.console)
                try:
                    yield from self._frames.feed(data)
                except ValueError as error:
                    raise MachineError(f"the VM's agent talks nonsense ({error})", self.console) from error

    def _death(self) -> str:
        """Why the port was closed: read the console's rest, and say it in a few words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._qemu.wait(10)
        while True:
            data = _read(self._console)
            if not data:
                break
            self._text += data
        for sign, words in (
            (b"Out of memory and no killable", "the VM ran out of memory: give it more with --memory"),
            (b"Kernel panic", "the VM's kernel panicked"),
            (b"No working init", "the VM's kernel found no init"),
        ):
            if sign in self._text:
                return words
        return f"the VM ended unexpectedly (QEMU: {_how(self._qemu.returncode)})"


def is_hidden(path: str) -> bool:
    """Whether the guest has something else of its own at this place of the host's."""
    return any(path == top or path.startswith(f"{top}/") for top in _HIDDEN)


def _guests_cache() -> Path:
    """Shared by all machines, and with nobody else: what a guest has compiled is not for the host's kernel."""
    directory = cache.root() / "in-vm"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _environment() -> dict[str, str]:
    base = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    base["PATH"] = os.environ.get("PATH", _PATH) + ":" + _PATH
    base["HOME"] = f"{agent.HOME}/home"
    base["TMPDIR"] = agent.SCRATCH
    base["XDG_CACHE_HOME"] = os.fspath(_guests_cache())
    base["PYTHONDONTWRITEBYTECODE"] = "1"
    return base


def _source() -> str:
    """The directory that holds the package `tracer`."""
    return os.fspath(Path(__file__).resolve().parents[2])


def _hex(word: str) -> str:
    return os.fsencode(word).hex()


def _read(end: object) -> bytes:
    assert isinstance(end, socket.socket)
    try:
        return end.recv(1 << 16)
    except (BlockingIOError, ConnectionResetError):
        return b""


def _how(returncode: int | None) -> str:
    if returncode is None:
        return "still running"
    return f"signal {-returncode}" if returncode < 0 else f"exit {returncode}"


def _end(qemu: "subprocess.Popen[bytes]") -> None:
    qemu.kill()
    qemu.wait()


@contextlib.contextmanager
def _socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other
