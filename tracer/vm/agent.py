"""The VM's first process: it makes the host's root file system usable, and runs commands for the host.

It runs as PID 1 inside, isolated (`python -I`), with the standard library alone; the host imports the framing from
here. The two talk over one virtio serial port, in frames: one byte of kind, four bytes of length (big-endian), and
the payload. One command runs at a time.
"""

import ctypes
import fcntl
import glob
import json
import os
import selectors
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PORT = "org.eofrace.agent"
"""Name of the virtio serial port, as the guest sees it in /sys/class/virtio-ports."""

ROOT_TAG = "eofrace.root"
"""9p mount tag of the host's root."""

HOME = "/run/eofrace"
"""A tmpfs inside: whatever a command writes goes there, but for the shared directories."""

SCRATCH = f"{HOME}/tmp"  # noqa: S108 - of the guest's own
"""$TMPDIR inside: a tmpfs of six tenths of the memory."""

HELLO, OUT, ERR, EXIT = b"h", b"o", b"e", b"x"
"""From the guest: it is up (JSON), output, error output, the command's end (JSON)."""

RUN, KILL, MOUNT, MOUNTED = b"r", b"k", b"m", b"M"
"""From the host: run a command, kill it, mount a shared directory (JSON each); and the answer to the last."""

_HEADER = struct.Struct(">cI")
_LARGEST = 1 << 26
_MODULES = ("fuse", "loop", "xfs", "ext4", "btrfs", "overlay", "configs")
_MS_RDONLY, _MS_MOVE = 1, 8192
_RB_POWER_OFF = 0x4321FEDC
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame, ready to be sent."""
    return _HEADER.pack(kind, len(payload)) + payload


class Frames:
    """Takes bytes as they come, and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The frames that `data` completes, as (kind, payload). Raises `ValueError` for what cannot be one."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if length > _LARGEST:
                raise ValueError(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield kind, payload


# ---------------------------------------------------------------- making the machine


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> None:
    """mount(2). Raises `OSError`."""
    data = options.encode() if options else None
    if _libc().mount(source.encode(), os.fsencode(target), kind.encode(), flags, data):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind}: {os.strerror(number)}", target)


def _try_mount(source: str, target: str, kind: str, options: str = "") -> None:
    try:
        os.makedirs(target, exist_ok=True)
        _mount(source, target, kind, options)
    except OSError as error:
        _log(f"{target}: {error}")


def _log(text: str) -> None:
    """One line on the console, by way of the kernel's log."""
    try:
        with open("/dev/kmsg", "w", encoding="utf-8", errors="replace") as stream:
            stream.write(f"<3>eofrace: {text}\n")
    except OSError:
        pass


def _switch_root() -> None:
    """Start again on the same root, mounted with a cache (v9fs `cache=loose`): what is read-only may be kept.

    virtme-ng mounts the root without one: then every process reads the libraries anew, which for Python with numpy
    and pyarrow costs 9 s each time instead of 3.
    """
    _mount("run", "/run", "tmpfs", "mode=0755")
    os.mkdir("/run/root")
    options = "version=9p2000.L,trans=virtio,access=any,msize=512000,cache=loose"
    _mount(ROOT_TAG, "/run/root", "9p", options, _MS_RDONLY)
    os.chdir("/run/root")
    _mount(".", "/", "none", "", _MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    os.execv(sys.executable, [sys.executable, "-I", os.path.abspath(__file__), "rooted"])  # noqa: S606 - ourselves


def _set_up(parameters: dict[str, str]) -> None:
    # Without asking what is there: through 9p the host's own /proc and /sys are.
    _mount("sysfs", "/sys", "sysfs")
    _mount("devtmpfs", "/dev", "devtmpfs")
    _mount("run", "/run", "tmpfs", "mode=0755")
    os.makedirs(SCRATCH)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _mount("scratch", SCRATCH, "tmpfs", f"mode=0700,size={memory * 6 // 10}")
    os.mkdir(f"{HOME}/home")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    _modules(parameters)
    _writable_tmp()
    _try_mount("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666")
    _try_mount("shm", "/dev/shm", "tmpfs", "mode=1777")  # noqa: S108 - the kernel's own name
    for kind, target in (
        ("tracefs", "/sys/kernel/tracing"),
        ("debugfs", "/sys/kernel/debug"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("configfs", "/sys/kernel/config"),
    ):
        if os.path.isdir(target):
            _try_mount(kind, target, kind)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(control, _SIOCGIFFLAGS, request)[:18])[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))


def _writable_tmp() -> None:
    """Have /tmp writable, in memory: some tools insist on it (libnbd's nbd_connect_systemd_socket_activation).

    The host's files stay visible there, where the kernel has overlayfs; else they are hidden.
    """
    for name in ("upper", "work"):
        os.makedirs(f"{HOME}/overlay/{name}")
    try:
        layers = f"lowerdir=/tmp,upperdir={HOME}/overlay/upper,workdir={HOME}/overlay/work"
        _mount("tmp", "/tmp", "overlay", layers)  # noqa: S108
    except OSError as error:
        _log(f"{error}: a tmpfs hides the host's /tmp")
        _try_mount("tmp", "/tmp", "tmpfs", "mode=1777")  # noqa: S108


def _modules(parameters: dict[str, str]) -> None:
    """Show the kernel's own modules in /lib/modules, and load what the commands need."""
    release = os.uname().release
    directory = parameters.get("eofrace.modules")
    if directory is not None:
        if os.path.isdir("/lib/modules"):
            _mount("modules", "/lib/modules", "tmpfs", "mode=0755")
            os.symlink(directory, f"/lib/modules/{release}")
        else:
            # No place to put them (the root is read-only): both modprobe and the kernel's calls to it are told.
            base = f"{HOME}/modules"
            os.makedirs(f"{base}/lib/modules")
            os.symlink(directory, f"{base}/lib/modules/{release}")
            os.environ["MODPROBE_OPTIONS"] = f"-d {base}"
            helper = Path(f"{HOME}/modprobe")
            helper.write_text(f'#!/bin/sh\nexec modprobe -d {base} "$@"\n')
            helper.chmod(0o755)
            Path("/proc/sys/kernel/modprobe").write_text(str(helper))
    elif os.path.isdir(f"/lib/modules/{release}") and "eofrace.rootmodules" not in parameters:
        # The host's modules of the same name are another build's.
        _mount("none", f"/lib/modules/{release}", "tmpfs", "mode=0755")
        return
    if directory is not None or "eofrace.rootmodules" in parameters:
        # What is built in or not built at all is no error.
        subprocess.run(["modprobe", "-a", "-q", *_MODULES], check=False, stdin=subprocess.DEVNULL, capture_output=True)


def _mount_shared(request: dict[str, Any]) -> None:
    """Mount one shared directory of the host where it lies on the host. Raises `OSError`."""
    target = _unhex(request["path"])
    os.makedirs(target, exist_ok=True)
    access = "rw" if request["writable"] else "ro"
    options = f"{access},version=9p2000.L,trans=virtio,access=any,msize=524288"
    _mount(request["tag"], target, "9p", options, 0 if request["writable"] else _MS_RDONLY)


# ---------------------------------------------------------------- running commands


def _port() -> int:
    """The serial port to the host, opened. Raises `OSError` where it does not come within 30 s."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            if Path(name).read_text().strip() == PORT:
                device = "/dev/" + name.split("/")[-2]
                if os.path.exists(device) and stat.S_ISCHR(os.stat(device).st_mode):
                    return os.open(device, os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.05)
    raise OSError("the host's serial port does not appear")


class _Server:
    """Obeys the host's frames, and forwards what the one running command prints."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._frames = Frames()
        self._running: _Running | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(port, selectors.EVENT_READ)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        data = memoryview(frame(kind, payload))
        while data:
            data = data[os.write(self._port, data) :]

    def serve(self) -> None:
        """Serve until the host goes away."""
        self.send(HELLO, json.dumps({"release": os.uname().release}).encode())
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._port:
                    data = os.read(self._port, 1 << 16)
                    if not data:
                        return
                    for kind, payload in self._frames.feed(data):
                        self._obey(kind, payload)
                elif key.data is None:
                    self._ended()
                    break
                else:
                    self._forward(key.fd, key.data)

    def _forward(self, descriptor: int, kind: bytes) -> bool:
        """Send what there is. False: nothing is left (or nothing for now)."""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        if data:
            self.send(kind, data)
        else:
            self._selector.unregister(descriptor)
        return bool(data)

    def _obey(self, kind: bytes, payload: bytes) -> None:
        if kind == RUN:
            self._run(json.loads(payload))
        elif kind == MOUNT:
            try:
                _mount_shared(json.loads(payload))
                self.send(MOUNTED, b"{}")
            except OSError as error:
                self.send(MOUNTED, json.dumps({"error": str(error)}).encode())
        elif kind == KILL and self._running is not None:
            os.killpg(self._running.child.pid, signal.SIGKILL)

    def _run(self, request: dict[str, Any]) -> None:
        words = [_unhex(word) for word in request["words"]]
        environment = {_unhex(name): _unhex(value) for name, value in request["environment"].items()}
        if "MODPROBE_OPTIONS" in os.environ:
            environment["MODPROBE_OPTIONS"] = os.environ["MODPROBE_OPTIONS"]
        try:
            running = _Running(words, environment, _unhex(request["directory"]))
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else words[0]
            self.send(EXIT, json.dumps({"status": 127, "error": f"{where}: {error.strerror}"}).encode())
            return
        self._running = running
        self._selector.register(running.pidfd, selectors.EVENT_READ)
        for descriptor, kind in running.outputs:
            self._selector.register(descriptor, selectors.EVENT_READ, kind)

    def _ended(self) -> None:
        """The command has ended. (A daemon it left behind may hold its output open: that is not waited for.)"""
        running = self._running
        assert running is not None
        self._running = None
        self._selector.unregister(running.pidfd)
        for descriptor, kind in running.outputs:
            if descriptor in self._selector.get_map():
                while self._forward(descriptor, kind):
                    pass
                if descriptor in self._selector.get_map():
                    self._selector.unregister(descriptor)
        status = running.close()
        os.sync()
        self.send(EXIT, json.dumps({"status": status}).encode())


class _Running:
    """A command at work. Raises `OSError` where it cannot be started."""

    def __init__(self, words: list[str], environment: dict[str, str], directory: str) -> None:
        self.child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=directory,
            start_new_session=True,
        )
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        self.outputs = ((self.child.stdout.fileno(), OUT), (self.child.stderr.fileno(), ERR))
        for descriptor, _ in self.outputs:
            os.set_blocking(descriptor, False)
        self.pidfd = os.pidfd_open(self.child.pid)

    def close(self) -> int:
        """Bury it. Its exit status, or minus the signal that ended it."""
        status = self.child.wait()
        os.close(self.pidfd)
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        self.child.stdout.close()
        self.child.stderr.close()
        return status


def _unhex(word: str) -> str:
    """A word of the host's, which may be any bytes."""
    return os.fsdecode(bytes.fromhex(word))


def _parameters() -> dict[str, str]:
    words = Path("/proc/cmdline").read_text().split()
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _reap(server: int) -> None:
    """PID 1's lasting job: bury orphans until the server has ended."""
    while True:
        pid, _ = os.wait()
        if pid == server:
            return


def main() -> None:
    """Be PID 1."""
    # The kernel gives init no PATH.
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if "rooted" not in sys.argv:
        _switch_root()
    _mount("proc", "/proc", "proc")
    _set_up(_parameters())
    server = os.fork()
    if server == 0:
        try:
            _Server(_port()).serve()
        except BaseException as error:
            _log(f"agent: {type(error).__name__}: {error}")
            os._exit(1)
        os._exit(0)
    _reap(server)
    os.sync()
    _libc().reboot(ctypes.c_uint(_RB_POWER_OFF))


if __name__ == "__main__":
    main()
