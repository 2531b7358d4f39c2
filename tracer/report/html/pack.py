"""Columns of numbers, packed so that a page can hold a hundred thousand operations, and a browser can unpack them.

A block is a JSON header and the columns behind it: each value as a zigzag number divided by what all values of its
column have in common, the columns byte by byte (all lowest bytes, then all second ones, ...), which deflate packs a
third better than whole numbers. Then base 85: of printable characters only, without those that HTML knows, and 6 %
shorter than base 64. `assets/unpack.js` is the other side.
"""

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

_PYTHONS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
ALPHABET = "".join(chr(code) for code in range(33, 127) if chr(code) not in "\"&'<>\\`{|")
"""The 85 characters that stand for 0 to 84: none ends a script element, begins a character reference or quotes."""

_TO_OURS = bytes.maketrans(_PYTHONS, ALPHABET.encode())


def block(header: Mapping[str, Any], columns: Mapping[str, I64]) -> str:
    """One block of columns (n,) of the same n, as text. The browser gets `header` and the columns back."""
    width_of: list[dict[str, Any]] = []
    planes: list[bytes] = []
    for name, values in columns.items():
        divisor = int(np.gcd.reduce(values)) or 1  # of what is left when all are 0
        divisor = divisor if 0 < divisor < 1 << 53 else 1
        halved = values // divisor
        zigzag = ((halved << 1) ^ (halved >> 63)).astype("<i8").view(np.uint8).reshape(-1, 8)
        used = [at for at in range(8) if zigzag[:, at].any()]
        width = used[-1] + 1 if used else 0
        width_of.append({"name": name, "bytes": width, "times": divisor})
        planes += [zigzag[:, at].tobytes() for at in range(width)]
    rows = len(next(iter(columns.values()))) if columns else 0
    described = json.dumps({**header, "rows": rows, "columns": width_of}).encode()
    return text([struct.pack("<I", len(described)) + described, *planes])


def text(pieces: list[bytes]) -> str:
    """Bytes as a browser unpacks them: raw deflate, as text. Each piece is packed in the way that suits it best."""
    packed = b"".join(_smallest(piece) for piece in pieces) + zlib.compressobj(wbits=-15).flush()
    padding = -len(packed) % 4  # told in front: a browser takes bytes behind the stream for damage
    return f"{padding}{base64.b85encode(packed + bytes(padding)).translate(_TO_OURS).decode()}"


def _smallest(piece: bytes) -> bytes:
    """A part of a deflate stream. Noise is packed best where nothing is searched for: the low bytes of times are."""
    strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)
    packers = [zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy) for strategy in strategies]
    return min((packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for packer in packers), key=len)
