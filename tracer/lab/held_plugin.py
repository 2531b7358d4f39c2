"""nbdkit plugin: a disk on which chosen writes stay in flight until somebody lets them go (`tracer.lab.held`).

Loaded by nbdkit's own Python, so it imports nothing of eofrace. Parameters: `image`, `control`: descriptors that nbdkit
inherits, of the backing file and of a SOCK_SEQPACKET socket that carries one JSON object a packet.

| to the plugin | means |
|---|---|
| {"hold": rule, "prefix": hex, "length": bytes or null, "limit": n or null} | hold writes that begin so |
| {"drop": rule} | hold no more by this rule, and release what it holds |
| {"release": write, "error": errno} | let one go: done if errno is 0, failed otherwise |
| {"alive": true} | somebody is there |

Each but the last is answered by {"done": true}. A write that is held is told as {"held": write, "rule": its rule,
"offset": bytes, "length": bytes}.

Nothing stays held for a dead holder: when nothing was heard for LEASE seconds, or the socket is closed, every held
write fails with EIO and no other is held. (A process killed by SIGKILL waits in exit_aio() for its own writes before it
closes a socket, so that the lease is what frees it.)
"""

import contextlib
import errno
import json
import os
import socket
import threading
from typing import Any

import nbdkit  # type: ignore[import-not-found]  # there is one inside nbdkit alone

API_VERSION = 2
LEASE = 4.0
"""Seconds of silence after which the holder is taken for dead."""

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
    control.settimeout(LEASE)
    try:
        while packet := control.recv(65536):
            message = json.loads(packet)
            if "alive" not in message:
                with _state:
                    _obey(message)
                    _state.notify_all()
                _tell(control, {"done": True})
    except OSError:  # TimeoutError is one
        pass
    finally:
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
