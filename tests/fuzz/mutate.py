"""A spoilt image from some bytes: which seed, and what to change in it. Any bytes mean something.

The bytes are a program, not the image: coverage guidance and random bytes alike then change tables and fields instead
of the padding between them.
"""

from pathlib import Path

from tests.fuzz.layout import HEADER, Layout
from tests.fuzz.seeds import Seed
from tests.fuzz.sparse import Entry, Sparse

MAX_CHANGES = 6
COPIED, COMPRESSED = 1 << 63, 1 << 62

_HEADER_FIELDS = [(4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4)]
_HEADER_FIELDS += [(64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1)]
_NUMBERS = [0, 1, 2, 3, 7, 9, 12, 21, 63, 104, 511, 512, 4096, 65535, 65536, (1 << 31) - 1, (1 << 32) - 1]
_NUMBERS += [1 << bits for bits in (20, 31, 32, 40, 47, 55, 56, 61, 62, 63)]
_NUMBERS += [(1 << 56) - 512, (1 << 62) - 1, (1 << 63) - 1, (1 << 64) - 1]
_FLAGS = [0, COPIED, 1, COPIED | 1, COMPRESSED, COMPRESSED | 0x3FFF << 48, COPIED | COMPRESSED, 512, COPIED | 512]
_PER_AREA = 12


class Bytes:
    """Takes numbers from bytes; 0 when they have ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        part = self._data[self._at : self._at + count]
        self._at += count
        return int.from_bytes(part.ljust(count, b"\0"), "little")

    def choose(self, count: int) -> int:
        """From 0 to count - 1."""
        return self.take(1 if count <= 256 else 2) % count


def plant(name: str, entry: Entry, directory: Path) -> Seed:
    """A seed from an image: finds the fields worth changing."""
    path = entry.write(directory)
    areas = Layout(path).first(8)
    fields = list(_HEADER_FIELDS)
    with path.open("rb") as file:
        for area in areas:
            file.seek(area.start)
            data = file.read(min(area.end - area.start, 4096))
            first = 104 if area.what == HEADER else 0
            words = [at for at in range(first, len(data) - 7, 8)]
            used = [at for at in words if any(data[at : at + 8])]
            chosen = sorted({*used[:_PER_AREA], *used[-2:], *words[: _PER_AREA // 2]})
            fields += [(area.start + at, 8) for at in chosen]
            if area.what != HEADER:
                fields += [(area.start + at + half, 2) for at in chosen for half in (0, 2, 4, 6)]
    starts = sorted({area.start for area in areas})
    return Seed(name, entry, tuple(fields), tuple(starts))


def mutate(seeds: list[Seed], program: bytes) -> Entry:
    """What `program` makes of one of the seeds."""
    data = Bytes(program)
    seed = seeds[data.choose(len(seeds))]
    length = seed.entry.image.length
    patches: list[tuple[int, bytes]] = []
    for _ in range(1 + data.choose(MAX_CHANGES)):
        match data.choose(8):
            case 0:
                length = _length(data, seed, length)
            case 1:  # bits, in a field
                at, width = seed.fields[data.choose(len(seed.fields))]
                old = int.from_bytes(_old(seed, at, width), "big")
                patches.append((at, (old ^ 1 << data.choose(width * 8)).to_bytes(width, "big")))
            case 2:  # the bytes of the program themselves
                at, width = seed.fields[data.choose(len(seed.fields))]
                patches.append((at, bytes(data.take(1) for _ in range(width))))
            case 3:  # the header, whose fields are few among all
                at, width = _HEADER_FIELDS[data.choose(len(_HEADER_FIELDS))]
                patches.append((at, _value(data, seed).to_bytes(16, "big")[-width:]))
            case _:
                at, width = seed.fields[data.choose(len(seed.fields))]
                patches.append((at, _value(data, seed).to_bytes(16, "big")[-width:]))
    image = seed.entry.image
    return Entry(seed.name, Sparse(length, (*image.extents, *patches)), seed.entry.others)


def _length(data: Bytes, seed: Seed, length: int) -> int:
    match data.choose(4):
        case 0:
            return seed.areas[data.choose(len(seed.areas))] + data.choose(64) * 8
        case 1:
            return max(0, length - data.take(2))
        case 2:
            return length + (1 << data.choose(41))
    return length - length % 512 + data.choose(512)


def _value(data: Bytes, seed: Seed) -> int:
    """Where other things lie, numbers at the edges of types, or what another field holds; with flags of entries."""
    match data.choose(4):
        case 0:
            return _NUMBERS[data.choose(len(_NUMBERS))]
        case 1:
            at, width = seed.fields[data.choose(len(seed.fields))]
            return int.from_bytes(_old(seed, at, width), "big")
        case 2:
            value = (seed.entry.image.length & -512) + (data.choose(16) - 8) * 512
        case _:
            value = seed.areas[data.choose(len(seed.areas))]
    return max(0, value) | _FLAGS[data.choose(len(_FLAGS))]


def _old(seed: Seed, at: int, width: int) -> bytes:
    for offset, data in seed.entry.image.extents:
        if offset <= at < offset + len(data):
            return data[at - offset : at - offset + width].ljust(width, b"\0")
    return bytes(width)


def solid(entry: Entry) -> Entry:
    """The same with its patches merged into the extents, as a file holds them."""
    merged: dict[int, int] = {}
    for offset, data in entry.image.extents:
        for at, byte in enumerate(data, offset):
            merged[at] = byte
    extents: list[tuple[int, bytearray]] = []
    for at in sorted(merged):
        if at >= entry.image.length:
            break
        if not extents or at != extents[-1][0] + len(extents[-1][1]):
            extents.append((at, bytearray()))
        extents[-1][1].append(merged[at])
    return Entry(entry.why, Sparse(entry.image.length, tuple((at, bytes(data)) for at, data in extents)), entry.others)
