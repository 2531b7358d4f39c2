"""Protocol buffers' wire format, for many messages of one shape at once: what differs between them is holes.

A hole for an integer is as wide as the largest one takes: a varint may be padded (its last byte is the first without
the continuation bit, and zeroes count nothing), as perfetto's own writer pads the lengths of nested messages. So all
messages of a shape are rows of one array, made without a loop over them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

VARINT, FIXED64, LENGTH = 0, 1, 2
"""Wire types."""

WIDE = 10
"""Bytes of a varint that holds any 64 bits."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Where a number goes: `name` says which."""

    name: str
    fixed: bool = False
    """Eight bytes as they are, not a varint."""

    @property
    def width(self) -> int:
        """Bytes that it takes."""
        return 8 if self.fixed else WIDE


Part = bytes | Hole
Parts = list[Part]


def varint(value: int) -> bytes:
    """An unsigned integer, as short as possible."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> Parts:
    """A field that is an integer, 0 <= value < 2^64."""
    return [varint(field << 3 | VARINT) + varint(value)]


def hole(field: int, name: str, *, fixed: bool = False) -> Parts:
    """A field that is an integer and differs between messages."""
    return [varint(field << 3 | (FIXED64 if fixed else VARINT)), Hole(name, fixed)]


def text(field: int, value: str) -> Parts:
    """A field that is a text."""
    raw = value.encode("utf-8", "replace")
    return [varint(field << 3 | LENGTH) + varint(len(raw)) + raw]


def message(field: int, *parts: Parts) -> Parts:
    """A field that is a message of these fields."""
    inner = [piece for part in parts for piece in part]
    length = sum(len(piece) if isinstance(piece, bytes) else piece.width for piece in inner)
    return [varint(field << 3 | LENGTH) + varint(length), *inner]


def plain(parts: Parts) -> bytes:
    """A message without holes."""
    return b"".join(piece for piece in parts if isinstance(piece, bytes))


class Shape:
    """Messages that are alike but for their holes."""

    def __init__(self, parts: Parts) -> None:
        template = bytearray()
        self._holes: list[tuple[int, Hole]] = []
        for piece in parts:
            if isinstance(piece, Hole):
                self._holes.append((len(template), piece))
                template += bytes(piece.width)
            else:
                template += piece
        self._template = np.frombuffer(bytes(template), np.uint8)

    def filled(self, count: int, values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
        """`count` messages, one after the other (bytes); each hole takes values (count,), negative ones as int64."""
        rows = np.tile(self._template, (count, 1))
        for at, piece in self._holes:
            value = np.ascontiguousarray(values[piece.name]).astype(np.uint64)
            if piece.fixed:
                rows[:, at : at + 8] = value.view(np.uint8).reshape(count, 8)
            else:
                _padded(rows[:, at : at + WIDE], value)
        return rows.reshape(-1)


def _padded(target: npt.NDArray[np.uint8], value: npt.NDArray[np.uint64]) -> None:
    """Write varints (n,) to target (n, WIDE)."""
    for place in range(WIDE):
        more = 0x80 if place < WIDE - 1 else 0
        target[:, place] = (value >> np.uint64(7 * place)).astype(np.uint8) & 0x7F | more


def joined(fields: Sequence[Parts]) -> Parts:
    """Several fields, one after the other."""
    return [piece for field in fields for piece in field]
