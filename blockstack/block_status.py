"""What a range of a node is, without reading it (QEMU: bdrv_co_block_status)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockStatus:
    """The first `length` bytes of a range, which are all alike."""

    length: int
    allocated: bool
    """This node itself answers for them, and not a backing node (QEMU: BDRV_BLOCK_ALLOCATED)."""
    zero: bool
    """Known to read as zeroes (QEMU: BDRV_BLOCK_ZERO). False means "not known"."""
