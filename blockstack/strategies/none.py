"""`none`: QEMU 4.1, where zero-writes and AIO writes are unordered. The control of every run."""

from blockstack.strategies.base import Strategy


class Unordered(Strategy):
    """Leaves the order to the kernel."""

    name = "none"
