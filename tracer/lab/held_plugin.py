"""nbdkit plugin: a disk on which chosen writes stay in flight until somebody lets them go (`tracer.lab.held`).

Loaded by nbdkit's own Python, so it imports nothing of eofrace. Parameters: `image`, `control`: descriptors that nbdkit
inherits, of the backing file and of a SOCK_SEQPACKET socket that carries one JSON object a packet; `holder`: the pid of
who has its other end.

| to the plugin | means |
|---|---|
| {"hold": rule, "prefix": hex, "length": bytes or null, "limit": n or null} | hold writes that begin so |
| {"drop": rule} | hold no more by this rule, and release what it holds |
| {"release": write, "error": errno} | let one go: done if errno is 0, failed otherwise |

Each is answered by {"done": true}. A write that is held is told as {"held": write, "rule": its rule,
"offset": bytes, "length": bytes}.

Nothing stays held for a dead holder: when the socket is closed, or the holder is seen to be dying, every held write
fails with EIO and no other is held. (A process killed by SIGKILL waits in exit_aio() for its own writes before it
closes a socket: it is dying for as long as we hold them.) When the socket is closed, nbdkit and nbdfuse above it end,
too: both ask the kernel for a signal when their parent dies, and hear nothing of one that died before they asked.
"""

import builtins
import contextlib
import errno
import json
import os
import signal
import socket
import threading
import time
from typing import Any

import nbdkit  # type: ignore[import-not-found]  # there is one inside nbdkit alone

API_VERSION = 2
LOOK = 0.25
"""Seconds between two looks at the holder, while something is held."""

_PF_EXITING = 0x4  # linux/sched.h; set by do_exit() before exit_mm()
_SIGKILL = 1 << 8

_parameters: dict[str, int] = {}
_state = threading.Condition()
_rules: dict[int, tuple[bytes, int | None, int | None]] = {}  # prefix, length, writes it may still hold
_held: dict[int, int] = {}  # write -> its rule
_verdicts: dict[int, int] = {}  # write -> errno, 0 to go on
_numbers = iter(range(1, 2**63))
_over = False
_control: socket.socket | None = None


def thread_model() -> int:
    """Requests run in parallel, each in a thread, which may wait."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    """Take a parameter."""
    _parameters[key] = int(value)


def after_fork() -> None:
    """Start listening; threads do not survive a fork, and nbdkit may."""
    global _control
    _control = socket.socket(fileno=_parameters["control"])
    threading.Thread(target=_listen, args=(_control,), daemon=True).start()
    threading.Thread(target=_watch, daemon=True).start()


def open(readonly: bool) -> int:
    """One handle serves all."""
    return 1


def get_size(handle: int) -> int:
    """Bytes."""
    return os.fstat(_parameters["image"]).st_size


def can_fua(handle: int) -> int:
    """The backing store lives no longer than we do: a write that was taken is as safe as it gets."""
    return int(nbdkit.FUA_NATIVE)


def flush(handle: int, flags: int) -> None:
    """As for FUA."""


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    """Read all of `buffer`."""
    view, done = memoryview(buffer), 0
    while done < len(view):
        count = os.preadv(_parameters["image"], [view[done:]], offset + done)
        if count == 0:
            break  # the end: get_size() lets no request reach beyond
        done += count


def pwrite(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    """Write all of `buffer`, after the verdict if a rule holds it."""
    view, done = memoryview(buffer), 0
    if _rules:
        error = _wait(view, offset)
        if error:
            nbdkit.set_error(error)
            raise OSError(error, "failed on demand")
    while done < len(view):
        done += os.pwritev(_parameters["image"], [view[done:]], offset + done)


def _wait(view: memoryview, offset: int) -> int:
    with _state:
        rule = _match(view)
        if rule is None or _over or _control is None:
            return 0
        write = next(_numbers)
        _held[write] = rule
        _state.notify_all()
        _tell(_control, {"held": write, "rule": rule, "offset": offset, "length": len(view)})
        _state.wait_for(lambda: write in _verdicts)
        del _held[write]
        return _verdicts.pop(write)


def _match(view: memoryview) -> int | None:
    for rule, (prefix, length, limit) in _rules.items():
        if limit != 0 and length in (None, len(view)) and view[: len(prefix)] == prefix:
            _rules[rule] = (prefix, length, None if limit is None else limit - 1)
            return rule
    return None


def _listen(control: socket.socket) -> None:
    try:
        while packet := control.recv(65536):
            message = json.loads(packet)
            with _state:
                _obey(message)
                _state.notify_all()
            _tell(control, {"done": True})
    except OSError:
        pass
    finally:
        _give_up()
        _end_nbdfuse()
        os.kill(os.getpid(), signal.SIGTERM)


def _end_nbdfuse() -> None:
    """It is our parent; after its death somebody else is, who has to live."""
    parent = os.getppid()
    with contextlib.suppress(OSError):
        process = os.pidfd_open(parent)
        with builtins.open(f"/proc/{parent}/comm", "rb") as comm:
            if comm.read().strip() == b"nbdfuse" and os.getppid() == parent:
                signal.pidfd_send_signal(process, signal.SIGTERM)
        os.close(process)


def _watch() -> None:
    while not _over:
        with _state:
            _state.wait_for(lambda: _over or _held)
        if _dying(_parameters["holder"]):
            _give_up()
        time.sleep(LOOK)


def _dying(pid: int) -> bool:
    """Whether the process is on its way out, or would be if it did not wait for us."""
    try:
        with builtins.open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        if fields[0] in b"ZX" or int(fields[6]) & _PF_EXITING:
            return True
        with builtins.open(f"/proc/{pid}/status", "rb") as status:
            pending = [line.split()[1] for line in status if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    except (OSError, IndexError):
        return True
    return any(int(mask, 16) & _SIGKILL for mask in pending)


def _give_up() -> None:
    global _over
    with _state:
        _over = True
        _rules.clear()
        _verdicts.update(dict.fromkeys(_held, errno.EIO))
        _state.notify_all()


def _obey(message: dict[str, Any]) -> None:
    if "hold" in message:
        _rules[message["hold"]] = (bytes.fromhex(message["prefix"]), message["length"], message["limit"])
    elif "drop" in message:
        _rules.pop(message["drop"], None)
        _verdicts.update({write: 0 for write, rule in _held.items() if rule == message["drop"]})
    elif message["release"] in _held:
        _verdicts.setdefault(message["release"], message["error"])


def _tell(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the holder is dead: _listen sees it, too
        control.send(json.dumps(message).encode())
