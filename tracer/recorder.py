"""Drain the kernel's ring in bulk and hand out what happened as arrays of `OPERATION`.

The ring (BPF_MAP_TYPE_RINGBUF, 457f44363a88, v5.8) is mapped, not read: a page with the consumer's position, a
page with the producer's, and the data twice in a row, so that what wraps around is still in one piece. All
records have one size, so a stretch of the ring *is* a structured array: one copy of it, one store of the
consumer's position, and the kernel may use the room again. bcc's callback for each record would be the limit
of a run; this is not.

A record that was reserved but not yet submitted carries a busy bit; nothing behind it is taken.

Memory order: the kernel stores a record and then clears its busy bit (xchg() in bpf_ringbuf_commit()). The
reader loads the bits first and the records afterwards, which x86 keeps in order; `tracer.attach` refuses other
machines.
"""

import mmap
import threading
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tracer.attach import RECORD_BYTES, Probes
from tracer.operations import OPERATION, Operations

_BUSY, _DISCARD = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT

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
_IDLE = 0.02
"""Seconds between two looks at the ring: 3,000 records at 150,000 a second, of the 100,000 that 16 MiB hold."""


class Recorder:
    """Records everything on the watched inodes of `probes` while the block lasts.

    One recorder at a time for one `Probes`: the ring has one consumer. Watch the inodes before the work starts;
    what is in the kernel already is not seen.

    `dropped` (and `dropped_by`, with the reasons) and `unfinished` describe the last `take()`: how many
    operations were lost in the kernel since the one before it, and how many rows it returned with seq_end 0.
    An operation that was unfinished in one take comes again, finished, in a later one, with the same seq_begin.

    `idle` is the time between two looks at the ring, in seconds.
    """

    def __init__(self, probes: Probes, idle: float = _IDLE) -> None:
        self._idle = idle
        self.dropped = 0
        self.dropped_by: dict[str, int] = {}
        self.unfinished = 0
        self._probes = probes
        self._chunks: list[npt.NDArray[np.void]] = []
        """Stretches of the ring, of _SLOT."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="eofrace-drain", daemon=True)

    def __enter__(self) -> Self:
        size = self._probes.ring_bytes
        self._capacity = size // _SLOT.itemsize
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
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        del self._consumer, self._producer
        self._pages.close()
        self._ring.close()

    def take(self, *, in_flight: bool = True) -> Operations:
        """All operations that ended since the last take, and those in flight now (seq_end 0), in one array.

        Without `in_flight` only the former: to look for the others costs some microseconds each. Sets `dropped`,
        `dropped_by` and `unfinished`.
        """
        # In this order an operation that ends meanwhile is in both, never in neither.
        inflight = self._probes.inflight() if in_flight else np.empty(0, OPERATION)
        with self._lock:
            while self._drain():
                pass
            chunks, self._chunks = self._chunks, []
        if self._failure is not None:
            raise self._failure
        finished: Operations = (chunks[0] if len(chunks) == 1 else _joined(chunks))["operation"]
        # The table of what is in flight changes while it is read: a row may come twice.
        inflight = inflight[np.unique(inflight["seq_begin"], return_index=True)[1]]
        inflight = inflight[~np.isin(inflight["seq_begin"], finished["seq_begin"])]
        self.unfinished = len(inflight)
        lost = self._probes.dropped()
        self.dropped_by = {reason: count - self._lost[reason] for reason, count in lost.items()}
        self.dropped = sum(self.dropped_by.values())
        self._lost = lost
        return _possible(np.concatenate([finished, inflight]) if len(inflight) else finished)

    def _run(self) -> None:
        wait = self._idle
        while not self._stop.wait(wait):
            try:
                with self._lock:
                    count = self._drain()
            except BaseException as error:
                self._failure = error
                return
            # Behind by a quarter of the ring: look again at once.
            wait = 0.0 if count > self._capacity // 4 else self._idle

    def _drain(self) -> int:
        """Move what is complete from the ring to `_chunks`; returns how many records that were."""
        consumer = int(self._consumer[0])
        count = (int(self._producer[0]) - consumer) // _SLOT.itemsize
        if count <= 0:
            return 0
        at = mmap.PAGESIZE + (consumer & self._mask)
        headers = np.ndarray((count,), _SLOT, buffer=self._ring, offset=at)["header"].copy()
        busy = np.flatnonzero(headers & _BUSY)
        if len(busy):
            count = int(busy[0])
            headers = headers[:count]
        lengths = headers & ~np.uint32(_DISCARD)
        if (lengths != RECORD_BYTES).any():
            raise RuntimeError(f"a record in the ring has not {RECORD_BYTES} bytes: a bug of eofrace")
        if count:
            slots = _copied(self._ring, count, at)
            discarded = headers & _DISCARD != 0
            self._chunks.append(slots[~discarded] if discarded.any() else slots)
            self._consumer[0] = consumer + count * _SLOT.itemsize
        return count


def _copied(ring: mmap.mmap, count: int, at: int) -> npt.NDArray[np.void]:
    """That many records of the ring, (count,) of _SLOT: as bytes, since of a structure numpy copies field by field."""
    return np.frombuffer(ring, np.uint8, count * _SLOT.itemsize, at).copy().view(_SLOT)


def _joined(chunks: list[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """Chunks (n,) of _SLOT, one behind the other; as bytes, too."""
    whole = [np.empty(0, np.uint8), *(chunk.view(np.uint8) for chunk in chunks)]
    return np.concatenate(whole).view(_SLOT)


def _possible(ops: Operations) -> Operations:
    """Ranges as a trace may have them: a call that the kernel refuses may have named any."""
    ops["offset"] = np.maximum(ops["offset"], 0)
    ops["length"] = np.clip(ops["length"], 0, _LAST_BYTE - ops["offset"])
    return ops
