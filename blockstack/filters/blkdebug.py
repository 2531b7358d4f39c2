"""`blkdebug`: fails chosen requests with a chosen error (QEMU: block/blkdebug.c, inject-error)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from blockstack.filters.base import Filter
from blockstack.node import Node
from blockstack.requests import RequestType

SECTOR = 512
"""Bytes of what `InjectError.sector` counts."""


@dataclass(frozen=True, slots=True)
class InjectError:
    """One rule (QEMU: inject-error with errno, iotype, sector and once; `number` stands for its states).

    Of the requests that match, the `number`th fails, counted from 1; without `once` all later ones do as well.
    """

    errno: int
    kind: RequestType | None = None
    """None: any request."""
    sector: int | None = None
    """Only requests that touch this one, in units of SECTOR; never a flush, which touches none. None: any."""
    number: int = 1
    once: bool = True

    def matches(self, kind: RequestType, offset: int, length: int) -> bool:
        """Whether a request is counted."""
        if self.kind not in (None, kind):
            return False
        return self.sector is None or (offset < (self.sector + 1) * SECTOR and self.sector * SECTOR < offset + length)


class BlkDebug(Filter):
    """Fails requests by `rules`, before anything of them reaches the child."""

    def __init__(self, child: Node, rules: Sequence[InjectError] = ()) -> None:
        super().__init__(child)
        self.injected = 0  # errors so far
        self._rules = tuple(rules)
        self._seen = [0] * len(self._rules)

    async def _admit(self, kind: RequestType, offset: int, length: int) -> None:
        failed = None
        for index, rule in enumerate(self._rules):
            if rule.matches(kind, offset, length):
                self._seen[index] += 1
                seen = self._seen[index]
                if seen == rule.number or (seen > rule.number and not rule.once):
                    failed = failed or rule
        if failed is not None:
            self.injected += 1
            raise OSError(failed.errno, f"injected: {os.strerror(failed.errno)}")
