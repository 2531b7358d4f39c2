"""Payloads in which every 8-byte word says which write of the guest put it where.

A word carries 56 bits: the number of the write (20 bits) and the word's place on the disk (36 bits, which reach to
512 GiB), 7 bits in each byte, and the top bit of every byte set. So no byte of a payload is zero, a lost byte is never
mistaken for a written one, and a stale or misplaced word names the write that it belongs to.
"""

import numpy as np
import numpy.typing as npt

WORD = 8
"""Bytes of one word."""

MAX_WRITES = (1 << 20) - 1
MAX_DISK = WORD << 36
"""Largest disk that stamps can address, in bytes."""

_SHIFTS = np.arange(0, 56, 7, dtype=np.uint64)
_PLACE_BITS = np.uint64(36)
_PLACE_MASK = np.uint64((1 << 36) - 1)


def stamp(owners: npt.NDArray[np.uint64], offset: int) -> npt.NDArray[np.uint8]:
    """Payload bytes at disk offset `offset` (a multiple of 8) for words owned by the writes `owners`, shape (n,).

    Returns shape (8 * n,). A word owned by 0 belongs to no write and is zero.
    """
    places = np.uint64(offset // WORD) + np.arange(len(owners), dtype=np.uint64)
    info = owners << _PLACE_BITS | places
    spread = (info[:, None] >> _SHIFTS).astype(np.uint8) | np.uint8(0x80)
    spread[owners == 0] = 0
    return spread.reshape(-1)


def payload(number: int, offset: int, length: int) -> bytes:
    """What write `number` carries to disk offset `offset`; both offset and length are multiples of 8 bytes."""
    return stamp(np.full(length // WORD, number, dtype=np.uint64), offset).tobytes()


def decode(data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Write numbers and disk offsets (bytes) in the words of `data`, each of shape (len(data) / 8,).

    The number is 0 where a word is no stamp.
    """
    words = data.reshape(-1, WORD)
    info = np.bitwise_or.reduce((words & np.uint8(0x7F)).astype(np.uint64) << _SHIFTS, axis=1)
    genuine = np.all(words & np.uint8(0x80), axis=1)
    numbers = np.where(genuine, info >> _PLACE_BITS, np.uint64(0))
    return numbers, (info & _PLACE_MASK) * np.uint64(WORD)
