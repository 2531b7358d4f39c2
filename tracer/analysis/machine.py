"""Whether this machine computes what it should. Seen: one that does not, and verdicts that were wrong for it."""

import functools

import numpy as np

from tracer.errors import UnsupportedError

_SIZES = range(40, 900, 43)


@functools.cache
def require_sound() -> None:
    """Sort numbers, and look whether they are sorted (a millisecond, once).

    QEMU 7.2's emulation of AVX2 breaks numpy's argsort: a third of the arrays came out in a wrong order, and operations
    apart by milliseconds looked exposed (Debian 6.1 under `-cpu max`, TCG; with -avx2 all was right). Raises
    `UnsupportedError`.
    """
    random = np.random.default_rng(3)
    for size in _SIZES:
        for dtype in (np.uint64, np.uint32, np.float64):
            values = random.integers(0, 5000, size).astype(dtype)
            order = np.argsort(values)
            if (np.sort(order) != np.arange(size)).any() or (np.diff(values[order].astype(np.int64)) < 0).any():
                raise UnsupportedError(
                    "this machine sorts numbers wrongly (numpy.argsort), and no verdict of it can be believed: an "
                    "emulated one needs a processor without AVX2 (QEMU: -cpu max,-avx,-avx2)"
                )
