"""Images whose tables are as large as their limits allow, or point to each other in circles: made, not kept."""

import struct
from collections.abc import Callable

import numpy as np

from blockstack.qcow2.header import OFLAG_COPIED, Header
from tests.fuzz.sparse import Entry, Sparse

_BITS = 21
_CLUSTER = 1 << _BITS
_L1_ENTRIES = (32 << 20) // 8
_FIRST = 64 * _CLUSTER  # what is mapped lies behind all tables


def _pointers(first: int, count: int, flags: int = 0) -> bytes:
    """Table entries that point to so many neighbouring clusters."""
    return (np.arange(count, dtype=np.uint64) * np.uint64(_CLUSTER) + np.uint64(first | flags)).astype(">u8").tobytes()


def _image(header: Header, *parts: tuple[int, bytes], length: int = 1 << 40) -> Sparse:
    extents = [(0, header.pack()), (header.refcount_table_offset, struct.pack(">Q", 2 * _CLUSTER)), *parts]
    return Sparse(length, tuple(extents))


def _header(l1_entries: int) -> Header:
    return Header(3, _BITS, l1_entries << 2 * _BITS - 3, l1_entries, 16 * _CLUSTER, _CLUSTER, 1)


def _l1() -> Entry:
    """4 Mi L2 tables, each at a place of its own."""
    table = (16 * _CLUSTER, _pointers(_FIRST, _L1_ENTRIES, OFLAG_COPIED))
    return Entry("an L1 table of 32 MiB without a hole", _image(_header(_L1_ENTRIES), table, length=12 << 40))


def _reftable() -> Entry:
    """1 Mi refcount blocks."""
    header = _header(2)
    header.refcount_table_clusters = 4
    table = (_CLUSTER, _pointers(_FIRST, 1 << 20))
    return Entry("a refcount table of 8 MiB without a hole", _image(header, table, length=3 << 40))


def _both() -> Entry:
    header = _header(_L1_ENTRIES)
    header.refcount_table_clusters = 4
    tables = ((_CLUSTER, _pointers(_FIRST, 1 << 20)), (16 * _CLUSTER, _pointers(4 << 40, _L1_ENTRIES, OFLAG_COPIED)))
    return Entry("both", _image(header, *tables, length=14 << 40))


def _snapshots(count: int, l1: int, name: bytes) -> Sparse:
    """`l1`: bytes from one snapshot's L1 table to the next one's."""
    entries = [
        struct.pack(">QIHHIIQII", _FIRST + index * l1, 1 if l1 else 0, len(name), len(name), 0, 0, 0, 0, 0) + name * 2
        for index in range(count)
    ]
    table = b"".join(entry + bytes(-len(entry) % 8) for entry in entries)
    header = _header(2)
    patch = struct.pack(">IQ", count, 32 * _CLUSTER)
    image = _image(header, (32 * _CLUSTER, table))
    return Sparse(image.length, (*image.extents, (60, patch)))


def _many_snapshots() -> Entry:
    return Entry("65,536 snapshots, each with an L1 table", _snapshots(65536, _CLUSTER, b"n"))


def _same_snapshots() -> Entry:
    return Entry("65,536 snapshots, which share one L1 table", _snapshots(65536, 0, b""))


def _long_names() -> Entry:
    return Entry("names of snapshots, 60 MiB of them, that are no UTF-8", _snapshots(480, _CLUSTER, b"\xff" * 65535))


def _backed(header: Header, name: str) -> Header:
    header.backing_file, header.backing_format = name, "qcow2"
    return header


def _chain(length: int, l1_entries: int) -> Entry:
    others = {str(index): _image(_backed(_header(l1_entries), str(index + 1))) for index in range(length)}
    others[str(length)] = _image(_header(l1_entries))
    return Entry("a long chain", _image(_backed(_header(l1_entries), "0")), others)


def _circle() -> Entry:
    others = {"a": _image(_backed(_header(_L1_ENTRIES), "b")), "b": _image(_backed(_header(_L1_ENTRIES), "a"))}
    return Entry("a chain that bites its tail", _image(_backed(_header(_L1_ENTRIES), "a")), others)


EXTREMES: dict[str, Callable[[], Entry]] = {
    "l1": _l1,
    "reftable": _reftable,
    "both": _both,
    "many-snapshots": _many_snapshots,
    "same-snapshots": _same_snapshots,
    "long-names": _long_names,
    "chain-of-12-large": lambda: _chain(12, _L1_ENTRIES),
    "chain-of-63": lambda: _chain(62, 2),
    "chain-of-70": lambda: _chain(70, 2),
    "circle": _circle,
}
"""By name; each is made only when it is its turn, as some are large."""
