"""Clusters on their way into the image (QEMU: QCowL2Meta, block/qcow2.h)."""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from blockstack.qcow2.mapping import Run


@dataclass(slots=True, eq=False)
class Allocation:
    """Clusters that a write has to link, from allocation until they are linked (QEMU: QCowL2Meta). Offsets and lengths
    in bytes.
    """

    guest_cluster: int
    clusters: int
    host: int
    guest_offset: int
    length: int  # of the guest's data in it
    head: int  # bytes before the guest's data that have to come from elsewhere
    tail: int  # bytes behind it
    replaced: list[Run]  # what the guest clusters were before
    kept: bool = False  # the clusters were there, and read as zeroes (QEMU: keep_old_clusters)
    dependents: list["asyncio.Future[None]"] = field(default_factory=list)


class Part(NamedTuple):
    """A part of a guest write that is contiguous in the file: where it goes, and what has to be linked for it."""

    host: int
    length: int
    allocations: list[Allocation]
