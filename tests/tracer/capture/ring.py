"""io_uring in a hundred lines, for every opcode that changes a file: a script that other processes run.

    python tests/tracer/capture/ring.py FILE           one request of each kind, one after the other
    python tests/tracer/capture/ring.py FILE linked    a fallocate and two writes, one after the other by their links
    python tests/tracer/capture/ring.py FILE linked-deferred   the same with completions in the task that waits for them
    python tests/tracer/capture/ring.py FILE linked-polled     the same, submitted by a thread of the kernel
    python tests/tracer/capture/ring.py FILE skipped   a write whose completion nobody hears of, and what comes after it
    python tests/tracer/capture/ring.py FILE nowait    a write that would have to wait, and is given up
    python tests/tracer/capture/ring.py FILE opens     opens that truncate FILE, and make another one
    python tests/tracer/capture/ring.py FILE opens x   the same, and one that gets no descriptor
    python tests/tracer/capture/ring.py FILE appends   six writes of 1000 bytes to the end, two at a time
    python tests/tracer/capture/ring.py FILE moved     200 direct writes of 4096 bytes to the end, four at a time
    python tests/tracer/capture/ring.py FILE workers   two writes, when a line of input comes; prints one first
    python tests/tracer/capture/ring.py FILE splices   64 bytes from a pipe to FILE; splices-direct: with O_DIRECT

Prints one JSON object: the results by user_data, in the order in which they were asked for.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import struct
import sys
import time
from typing import Any, NamedTuple

WRITEV, WRITE_FIXED, FALLOCATE, OPENAT, WRITE, SPLICE, FTRUNCATE = 2, 5, 17, 18, 23, 30, 55
FIXED_FILE, LINK, ASYNC, SKIP = 1, 4, 16, 64
NOWAIT = 8  # RWF_NOWAIT
LIMIT = 64 << 20
"""RLIMIT_FSIZE of `main`."""
ROWS = [
    ("buffered_write", 0, 4096, 4096),
    ("buffered_write", 8192, 1024, 1024),
    ("fallocate", 0, 1 << 20, 0),
    ("fallocate", 4096, 8192, 0),
    ("buffered_write", 16384, 4096, 4096),
    ("uring_write", 32768, 4096, 4096),
    ("uring_write", 65536, 8192, 8192),
    ("uring_write", 131072, 4096, 4096),
    ("uring_write", 262144, 4096, 4096),
    ("buffered_write", 262144, 4096, 4096),
    ("buffered_write", LIMIT, 4096, -errno.EFBIG),
    ("uring_write", LIMIT, 4096, -errno.EFBIG),
    ("truncate", 4096, 0, 0),
]
"""What a trace has of the requests of `main`: kind, offset, length, result."""

_SQE = struct.Struct("=BBHiQQIIQHHi16x")
_AT_FDCWD = -100
SQPOLL, SINGLE_ISSUER, DEFER_TASKRUN = 1 << 1, 1 << 12, 1 << 13
_GETEVENTS, _SQ_WAKEUP = 1, 2
_REGISTER_BUFFERS, _REGISTER_FILES = 0, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


class Request(NamedTuple):
    """As struct io_uring_sqe has it; `mode` is its rw_flags."""

    opcode: int
    fd: int
    offset: int
    address: int
    length: int
    user_data: int
    mode: int = 0
    flags: int = 0
    other: int = 0  # splice_fd_in, or file_index


class Ring:
    """One request at a time."""

    def __init__(self, flags: int = 0) -> None:
        """`flags`: SQPOLL, or SINGLE_ISSUER and DEFER_TASKRUN."""
        self._flags = flags
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("=3I", parameters, 0, 0, 0, flags)
        self.fd = _call(425, ctypes.c_uint(4), parameters)
        sq = struct.unpack_from("=8I", parameters.raw, 40)
        cq = struct.unpack_from("=8I", parameters.raw, 80)
        self._rings = mmap.mmap(self.fd, 1 << 16, offset=0)
        self._entries = mmap.mmap(self.fd, 4 * 64, offset=0x10000000)
        self._tail, self._mask, self._array = sq[1], sq[2], sq[6]
        self._queued = 0
        self._cq_head, self._cq_mask, self._cqes = cq[0], cq[2], cq[5]

    def register(self, what: int, argument: Any, count: int) -> None:
        _call(427, ctypes.c_int(self.fd), ctypes.c_uint(what), argument, ctypes.c_uint(count))

    def run(self, request: Request) -> int:
        """Submit one, wait for it, return its result."""
        self.queue(request)
        found, result = self.submit(1)[0]
        assert found == request.user_data
        return result

    def queue(self, request: Request) -> None:
        """Prepare one."""
        (tail,) = struct.unpack_from("=I", self._rings, self._tail)
        (mask,) = struct.unpack_from("=I", self._rings, self._mask)
        at = tail & mask
        opcode, fd, offset, address, length, user_data, mode, flags, other = request
        words = (opcode, flags, 0, fd, offset, address, length, mode, user_data, 0, 0, other)
        _SQE.pack_into(self._entries, at * 64, *words)
        struct.pack_into("=I", self._rings, self._array + 4 * at, at)
        struct.pack_into("=I", self._rings, self._tail, tail + 1)
        self._queued += 1

    def submit(self, completions: int) -> list[tuple[int, int]]:
        """Submit what was prepared and wait; user_data and result of each completion."""
        queued, self._queued = self._queued, 0
        _call(
            426,
            *(ctypes.c_uint(self.fd), ctypes.c_uint(queued), ctypes.c_uint(completions)),
            ctypes.c_uint(_GETEVENTS | (_SQ_WAKEUP if self._flags & SQPOLL else 0)),
            *(None, ctypes.c_size_t(0)),
        )
        (mask,) = struct.unpack_from("=I", self._rings, self._cq_mask)
        found = []
        for _ in range(completions):
            (head,) = struct.unpack_from("=I", self._rings, self._cq_head)
            found.append(struct.unpack_from("=Qi", self._rings, self._cqes + 16 * (head & mask)))
            struct.pack_into("=I", self._rings, self._cq_head, head + 1)
        return found


def main(path: str) -> dict[int, int]:
    ring = Ring()
    buffered = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 1 << 16)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    vectors = (ctypes.c_uint64 * 4)(address, 1000, address, 24)
    ring.register(_REGISTER_FILES, (ctypes.c_int * 2)(buffered, direct), 2)
    ring.register(_REGISTER_BUFFERS, (ctypes.c_uint64 * 2)(address, 1 << 16), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    requests = (
        Request(WRITE, buffered, 0, address, 4096, 1),
        Request(WRITEV, buffered, 8192, ctypes.addressof(vectors), 2, 2),
        Request(FALLOCATE, buffered, 0, 1 << 20, 1, 3),
        Request(FALLOCATE, buffered, 4096, 8192, 0x10, 4),  # zero-range
        Request(WRITE, 0, 16384, address, 4096, 5, flags=FIXED_FILE),
        Request(WRITE, direct, 32768, address, 4096, 6),
        Request(WRITE, 1, 65536, address, 8192, 7, flags=FIXED_FILE),
        Request(WRITE_FIXED, 1, 131072, address, 4096, 8, flags=FIXED_FILE),
        Request(WRITE, direct, 262144, address, 4096, 9, flags=ASYNC),
        Request(WRITE, buffered, 262144, address, 4096, 10, flags=ASYNC),
        Request(WRITE, buffered, LIMIT, address, 4096, 11),
        Request(WRITE, direct, LIMIT, address, 4096, 12),
        Request(FTRUNCATE, buffered, 4096, 0, 0, 13),
    )
    done = {request.user_data: ring.run(request) for request in requests}
    del vectors
    return done


def special(path: str, what: str) -> dict[int, int]:
    ring = Ring({"linked-polled": SQPOLL, "linked-deferred": SINGLE_ISSUER | DEFER_TASKRUN}.get(what, 0))
    direct = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    memory = mmap.mmap(-1, 1 << 16)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if what == "opens":
        ring.register(_REGISTER_FILES, (ctypes.c_int * 2)(-1, -1), 2)
        old, new = (ctypes.create_string_buffer(os.fsencode(name)) for name in (path, f"{path}.new"))
        how = {"mode": os.O_RDWR | os.O_CREAT | os.O_TRUNC}
        done = {
            1: ring.run(Request(OPENAT, _AT_FDCWD, 0, ctypes.addressof(old), 0o600, 1, **how)),
            2: ring.run(Request(OPENAT, _AT_FDCWD, 0, ctypes.addressof(new), 0o600, 2, **how)),
            3: ring.run(Request(OPENAT, _AT_FDCWD, 0, ctypes.addressof(old), 0o600, 3, mode=os.O_RDWR)),
        }
        if len(sys.argv) > 3:
            done[4] = ring.run(Request(OPENAT, _AT_FDCWD, 0, ctypes.addressof(old), 0o600, 4, other=1, **how))
        return done
    if what == "appends":
        end = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        ring.register(_REGISTER_FILES, (ctypes.c_int * 1)(end), 1)
        done = {}
        for number, (fd, flags) in enumerate([(end, 0), (0, FIXED_FILE), (end, ASYNC)]):
            ring.queue(Request(WRITE, fd, 0, address, 1000, 2 * number + 1, flags=flags))
            ring.queue(Request(WRITE, fd, 2**64 - 1, address, 1000, 2 * number + 2, flags=flags))
            done |= dict(ring.submit(2))
        return done
    if what.startswith("splices"):
        source, sink = os.pipe()
        os.write(sink, bytes(64))
        out = os.open(path, os.O_RDWR | (os.O_DIRECT if what == "splices-direct" else 0))
        position = 2**64 - 1  # -1: the pipe has none
        return {1: ring.run(Request(SPLICE, out, 4096, position, 64, 1, other=source))}
    if what.startswith("linked"):
        ring.queue(Request(FALLOCATE, direct, 0, 1 << 20, 0, 1, flags=LINK))
        ring.queue(Request(WRITE, direct, 1 << 20, address, 4096, 2, flags=LINK))
        ring.queue(Request(WRITE, direct, 2 << 20, address, 4096, 3))
        return dict(ring.submit(3))
    if what == "moved":
        end = os.open(path, os.O_RDWR | os.O_APPEND | os.O_DIRECT)
        done = {}
        for first in range(1, 201, 4):
            for number in range(first, first + 4):
                place = 4096 * (number % 4)
                memory[place : place + 4096] = bytes([number]) * 4096
                ring.queue(Request(WRITE, end, 0, address + place, 4096, number))
            done |= dict(ring.submit(4))
        return done
    if what == "workers":
        print("open", flush=True)
        sys.stdin.readline()
        ring.queue(Request(WRITE, direct, 0, address, 4096, 1, flags=ASYNC))
        ring.queue(Request(WRITE, direct, 1 << 20, address, 8192, 2, flags=ASYNC))
        return dict(ring.submit(2))
    if what.startswith("skipped"):
        buffered = os.open(path, os.O_RDWR)
        if what == "skipped-fallocate":
            ring.queue(Request(FALLOCATE, buffered, 0, 1 << 20, 0, 1, flags=SKIP))
        else:
            ring.queue(Request(WRITE, buffered, 0, address, 4096, 1, flags=SKIP))
        ring.submit(0)
        while os.fstat(buffered).st_size == 0:  # a worker does it, perhaps later than all that follows
            time.sleep(0.01)
        heard = (Request(WRITE, buffered, 4096 * number, address, 4096, number) for number in range(2, 40))
        return {request.user_data: ring.run(request) for request in heard}
    done = {1: ring.run(Request(WRITE, direct, 0, address, 65536, 1, mode=NOWAIT))}
    os.posix_fallocate(direct, 0, 4096)
    return done


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1]) if len(sys.argv) == 2 else special(*sys.argv[1:3])))
