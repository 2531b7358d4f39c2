"""The packets of a Perfetto trace that are used here, by the numbers of their fields in perfetto_trace.proto."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from tracer.report.escape import printable
from tracer.report.wire import Parts, hole, joined, message, number, plain, text

BEGIN, END, INSTANT = 1, 2, 3
"""TrackEvent.Type."""

MONOTONIC = 3
"""BuiltinClock."""

_SEQUENCE = number(10, 1)  # trusted_packet_sequence_id: there is one writer
_CLEARED, _NEEDED = 1, 2  # sequence_flags
_STAMP = 8  # timestamp
_EVENT, _INTERNED, _TRACK, _SNAPSHOT, _DEFAULTS = 11, 12, 60, 6, 59

_MAX_TEXT = 4_000


def packet(*fields: Parts, flags: int = _NEEDED) -> Parts:
    """A packet of the trace."""
    return message(1, _SEQUENCE, number(13, flags), *fields)


def head(start: int) -> bytes:
    """What a trace begins with: every time is CLOCK_MONOTONIC; `start` (ns) is one of them."""
    clock = message(1, number(1, MONOTONIC), number(2, start))
    snapshot = packet(
        message(_SNAPSHOT, clock, number(2, MONOTONIC)), message(_DEFAULTS, number(58, MONOTONIC)), flags=_CLEARED
    )
    return plain(snapshot)


def names(events: Sequence[str], annotations: Sequence[str], categories: Sequence[str]) -> bytes:
    """The names that others refer to by their index, from 1."""
    interned = [
        message(field, number(1, at), text(2, name))
        for field, known in ((2, events), (3, annotations), (1, categories))
        for at, name in enumerate(known, 1)
    ]
    return plain(packet(message(_INTERNED, *interned)))


def uuid(*words: object) -> int:
    """Of a track, by what it is of; 63 bits, not 0."""
    return int.from_bytes(blake2b(repr(words).encode("utf-8", "replace"), digest_size=8).digest(), "little") >> 1 | 1


def track(track_uuid: int, name: str, parent: int = 0) -> bytes:
    """A track of that name, below another one."""
    below = number(5, parent) if parent else []
    return plain(packet(message(_TRACK, number(1, track_uuid), text(2, shown(name)), below)))


def process(track_uuid: int, pid: int, name: str) -> bytes:
    """The track of a process."""
    whom = message(3, number(1, pid & 0x7FFFFFFF), text(6, shown(name)))
    return plain(packet(message(_TRACK, number(1, track_uuid), whom)))


def thread(track_uuid: int, pid: int, tid: int, name: str) -> bytes:
    """The track of a thread."""
    whom = message(4, number(1, pid & 0x7FFFFFFF), number(2, tid & 0x7FFFFFFF), text(5, shown(name)))
    return plain(packet(message(_TRACK, number(1, track_uuid), whom)))


def event(kind: int, time: int, track_uuid: int, name: str = "", notes: Mapping[str, str | int] | None = None) -> bytes:
    """One event with names of its own; `notes` stand beside it."""
    annotations = [
        message(4, text(10, key), text(6, shown(value)) if isinstance(value, str) else number(4, value % (1 << 64)))
        for key, value in (notes or {}).items()
    ]
    fields = [number(9, kind), number(11, track_uuid), text(23, shown(name)) if name else [], joined(annotations)]
    return plain(packet(number(_STAMP, time), message(_EVENT, *fields)))


def begins(notes: Sequence[tuple[int, str]], flows: int) -> Parts:
    """Begins of slices: the holes `time`, `track`, `name` (its index), `flow0` and so on, and one for each note: the
    index of its name, and what its hole is called.
    """
    annotations = [message(4, number(1, at), hole(4, name)) for at, name in notes]
    flow_ids = [hole(47, f"flow{at}", fixed=True) for at in range(flows)]
    kind = joined([number(9, BEGIN), number(3, 1), hole(11, "track"), hole(10, "name")])
    return packet(hole(_STAMP, "time"), message(_EVENT, kind, *flow_ids, *annotations))


def ends() -> Parts:
    """Ends of slices: the holes `time` and `track`."""
    return packet(hole(_STAMP, "time"), message(_EVENT, number(9, END), hole(11, "track")))


def shown(value: str) -> str:
    """A text for the eyes of whoever opens the trace."""
    return printable(value[:_MAX_TEXT])
