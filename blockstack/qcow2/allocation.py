"""Clusters on their way into the image (QEMU: QCowL2Meta, block/qcow2.h)."""

import asyncio
from dataclasses import dataclass, field

from blockstack.qcow2.mapping import Run


@dataclass(slots=True, eq=False)
class Allocation:
    """Newly allocated clusters from allocation until they are linked (QEMU: QCowL2Meta). Offsets and lengths in
    bytes.
    """

    guest_cluster: int
    clusters: int
    host: int
    guest_offset: int
    head: int  # bytes of the first cluster before the guest's data
    tail: int  # bytes of the last cluster behind it
    replaced: Run  # what the guest clusters were before
    dependents: list["asyncio.Future[None]"] = field(default_factory=list)
