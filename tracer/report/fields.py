"""Fields of a cell of verify.json that are a name or a number: which there are, and how people call them.

What reads a cell checks these, and every output that has room for figures tells them, in this order.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One of them."""

    name: str
    """In verify.json, and in outputs for machines."""
    title: str
    """For people."""
    required: bool = False


def _name(name: str, *, required: bool = False) -> Field:
    return Field(name, name, required)


NAMES = (
    _name("strategy", required=True),
    _name("format"),
    _name("variant"),
    _name("fs", required=True),
    _name("aio", required=True),
    _name("fallocate", required=True),
    _name("case"),
    _name("kernel", required=True),
    _name("evidence", required=True),
    _name("driver"),
    _name("qemu"),
)
"""Texts."""

COUNTS = (
    Field("guest_writes", "guest writes", True),
    Field("zero_writes", "zero-writes", True),
    Field("post_eof_fallocates", "post-EOF fallocates", True),
    Field("conflicts", "conflicts", True),
    Field("exposed", "exposed", True),
    Field("kernel_serialised", "kernel-serialised", True),
    Field("lost", "lost", True),
    Field("lost_events", "dropped", True),
    Field("unfinished", "unfinished", True),
    Field("unaccounted", "unaccounted"),
    Field("lost_bytes", "lost bytes", True),
    Field("lost_bytes_traced", "lost bytes traced"),
    Field("corrupt_clusters", "corrupt clusters", True),
    Field("waits", "waited", True),
)
"""Numbers from 0."""

TIMES = (Field("min_gap_ns", "smallest gap"), Field("held_ms", "held ms"))
"""Numbers that may be null, the gap also below 0."""


def required(fields: tuple[Field, ...]) -> tuple[str, ...]:
    """Names of those that every cell has."""
    return tuple(field.name for field in fields if field.required)
