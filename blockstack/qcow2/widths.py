"""Refcounts of 1 to 64 bits: as arrays in memory, packed on disk (docs/interop/qcow2.rst, "Refcount blocks").

Widths of a byte and more are big-endian. Narrower ones share bytes, the first in the lowest bits (QEMU:
get_refcount_ro0 to get_refcount_ro6). `order` is log2 of the width in bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

RefcountArray = npt.NDArray[np.unsignedinteger[Any]]


def refcount_dtype(order: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The type of the array in memory: bytes for what is narrower."""
    return np.dtype(f"u{max(1, (1 << order) // 8)}")


def unpack(data: bytes, order: int) -> RefcountArray:
    """The refcounts of a block, or of any number of whole bytes; writable."""
    if order >= 3:
        dtype = refcount_dtype(order)
        return np.frombuffer(data, dtype=dtype.newbyteorder(">")).astype(dtype)
    width = 1 << order
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    packed = np.frombuffer(data, dtype=np.uint8)
    return ((packed[:, None] >> shifts) & np.uint8((1 << width) - 1)).reshape(-1)


def pack(refcounts: RefcountArray, order: int) -> bytes:
    """What `unpack` reads. The number of refcounts fills whole bytes."""
    if order >= 3:
        return refcounts.astype(refcount_dtype(order).newbyteorder(">")).tobytes()
    width = 1 << order
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    shared = refcounts.reshape(-1, 8 // width).astype(np.uint8) << shifts
    joined: npt.NDArray[np.uint8] = np.bitwise_or.reduce(shared, axis=1).astype(np.uint8)
    return joined.tobytes()
