"""Drain the kernel's ring in bulk and hand out what happened as arrays of `OPERATION`.

The ring (BPF_MAP_TYPE_RINGBUF, 457f44363a88, v5.8) is mapped, not read: a page with the consumer's position, a
page with the producer's, and the data twice in a row, so that what wraps around is still in one piece. All
records have one size, so a stretch of the ring *is* a structured array: one copy of each field, one store of the
consumer's position, and the kernel may use the room again. bcc's callback for each record would be the limit
of a run; this is not.

A record that was reserved but not yet submitted carries a busy bit; nothing behind it is taken before it is. None is
ever discarded: all come by bpf_ringbuf_output().

Memory order: the kernel stores a record and then clears its busy bit (xchg() in bpf_ringbuf_commit()). The
reader loads the bits first and the records afterwards, which x86 keeps in order; `tracer.attach` refuses other
machines.
"""

import mmap
import os
import select
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tracer.attach import RECORD_BYTES, Probes
from tracer.operations import OPERATION, Columns, Operations, in_columns, in_rows

_BUSY = 1 << 31  # BPF_RINGBUF_BUSY_BIT

# A record in the ring: its header (BPF_RINGBUF_HDR_SZ), an OPERATION, the padding to 8 bytes.
_SLOT = np.dtype(
    {
        "names": ["header", "operation"],
        "formats": ["<u4", OPERATION],
        "offsets": [0, 8],
        "itemsize": 8 + RECORD_BYTES,
    }
)
_LAST_BYTE = 2**63 - 1
_HELD_UP = 0.02
"""Seconds between two looks at a record that is not complete, and has many behind it."""


class Recorder:
    """Records everything on the watched inodes of `probes` while the block lasts.

    One recorder at a time for one `Probes`: the ring has one consumer. Watch the inodes before the work starts;
    what is in the kernel already is not seen.

    `dropped` (and `dropped_by`, with the reasons) and `unfinished` describe the last `take()`: how many
    operations were lost in the kernel since the one before it, and how many rows it returned with seq_end 0.
    An operation that was unfinished in one take comes again, finished, in a later one, with the same seq_begin.
    """

    def __init__(self, probes: Probes) -> None:
        self.dropped = 0
        self.dropped_by: dict[str, int] = {}
        self.unfinished = 0
        self._probes = probes
        self._chunks: list[npt.NDArray[np.void]] = []
        """Stretches of the ring, of _SLOT."""
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="eofrace-drain", daemon=True)

    def __enter__(self) -> Self:
        size = self._probes.ring_bytes
        self._mask = size - 1
        fd = self._probes.ring_fd
        # Page 0 is the consumer's and writable; page 1 the producer's, then the data, twice (ringbuf_map_mmap_kern()).
        self._pages = mmap.mmap(fd, mmap.PAGESIZE)
        self._ring = mmap.mmap(fd, mmap.PAGESIZE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)
        self._consumer = np.frombuffer(self._pages, "<u8", 1)
        self._producer = np.frombuffer(self._ring, "<u8", 1)
        self._drain()
        self._chunks.clear()
        self._lost = self._probes.dropped()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        del self._consumer, self._producer
        self._pages.close()
        self._ring.close()

    def take(self, *, in_flight: bool = True) -> Operations:
        """All operations that ended since the last take, and those in flight now (seq_end 0), in one array.

        Without `in_flight` only the former: to look for the others costs some microseconds each. Sets `dropped`,
        `dropped_by` and `unfinished`.
        """
        return in_rows(self.take_columns(in_flight=in_flight))

    def take_columns(self, *, in_flight: bool = True, dropped: bool = True) -> Columns:
        """The same, a field behind the other: for traces, which are kept so.

        Without `dropped` nothing is said to be lost, and the next take that asks tells of it: to ask for every program
        costs as much as a thousand operations.
        """
        # In this order an operation that ends meanwhile is in both, never in neither.
        inflight = self._probes.inflight() if in_flight else np.empty(0, OPERATION)
        with self._lock:
            columns = self._ended()
        if self._failure is not None:
            raise self._failure
        self.unfinished = 0
        if len(inflight):
            # The table of what is in flight changes while it is read: a row may come twice.
            inflight = inflight[np.unique(inflight["seq_begin"], return_index=True)[1]]
            inflight = inflight[~np.isin(inflight["seq_begin"], columns["seq_begin"])]
            self.unfinished = len(inflight)
            columns = _joined([columns, in_columns(inflight)])
        self.dropped_by = self._newly_lost() if dropped else {}
        self.dropped = sum(self.dropped_by.values())
        _make_possible(columns)
        return columns

    def _newly_lost(self) -> dict[str, int]:
        """What was lost since this was asked the last time."""
        before, self._lost = self._lost, self._probes.dropped()
        return {reason: count - before[reason] for reason, count in self._lost.items()}

    def _run(self) -> None:
        """Empty the ring when submit() in bpf/eofrace.h finds it filled by a quarter: a take may come too late."""
        try:
            with select.epoll() as woken:
                # Edge-triggered: the ring is readable whenever something is in it.
                woken.register(self._probes.ring_fd, select.EPOLLIN | select.EPOLLET)
                woken.register(self._stop, select.EPOLLIN)
                wait = None
                while self._stop not in (descriptor for descriptor, _ in woken.poll(wait)):
                    with self._lock:
                        self._drain()
                        # One that is written for long holds up all behind it, and nobody is woken if no more fit in.
                        wait = _HELD_UP if self._waiting() * _SLOT.itemsize > self._probes.ring_bytes // 4 else None
        except BaseException as error:
            self._failure = error

    def _waiting(self) -> int:
        """How many records are in the ring, those that are not complete among them."""
        return (int(self._producer[0]) - int(self._consumer[0])) // _SLOT.itemsize

    def _ended(self) -> dict[str, npt.NDArray[Any]]:
        """All that is in the ring now, and was moved out of it, as columns."""
        left = self._waiting()
        while len(here := self._complete()) < left:
            left -= self._drain()
            time.sleep(0.0001)  # the next one is being written
        columns = _joined([in_columns(chunk["operation"]) for chunk in (*self._chunks, here)])
        self._chunks = []
        self._release(len(here))
        return columns

    def _drain(self) -> int:
        """Move what is complete from the ring to `_chunks`; returns how many records that were."""
        here = self._complete()
        if len(here):
            # As bytes, since of a structure numpy copies field by field.
            self._chunks.append(here.view(np.uint8).copy().view(_SLOT))
            self._release(len(here))
        return len(here)

    def _complete(self) -> npt.NDArray[np.void]:
        """The records in the ring up to the first that is not complete, (n,) of _SLOT, where they lie."""
        at = mmap.PAGESIZE + (int(self._consumer[0]) & self._mask)
        slots = np.ndarray((self._waiting(),), _SLOT, buffer=self._ring, offset=at)
        headers = slots["header"].copy()
        if (headers == RECORD_BYTES).all():
            return slots
        busy = np.flatnonzero(headers & _BUSY)
        count = int(busy[0]) if len(busy) else len(headers)
        if (headers[:count] != RECORD_BYTES).any():
            raise RuntimeError(f"a record in the ring has not {RECORD_BYTES} bytes: a bug of eofrace")
        return slots[:count]

    def _release(self, count: int) -> None:
        """Give the room of the first `count` records in the ring back to the kernel."""
        self._consumer[0] += np.uint64(count * _SLOT.itemsize)


def _joined(chunks: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
    """One behind the other, copied."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _make_possible(columns: Columns) -> None:
    """Ranges as a trace may have them: a call that the kernel refuses may have named any."""
    offset, length = columns["offset"], columns["length"]
    np.maximum(offset, 0, out=offset)
    np.clip(length, 0, _LAST_BYTE - offset, out=length)
