"""Tracks for operations that overlap: slices of one track have to nest, so those in flight together take several."""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")


class Lanes(Generic[K]):
    """For every key as many tracks as operations of it are in flight together."""

    def __init__(self, opened: Callable[[K, int], int]) -> None:
        """`opened(key, number)` makes a new track and returns its uuid."""
        self._opened = opened
        self._lanes: dict[K, tuple[list[float], list[int]]] = {}

    def take(self, key: K, begin: int, end: float) -> int:
        """The uuid of a track of `key` on which nothing is at `begin` or later. It is taken until after `end`."""
        try:
            ends, uuids = self._lanes[key]
        except KeyError:
            ends, uuids = self._lanes[key] = [], []
        for number, last in enumerate(ends):
            # Not at the same moment: a begin would come before the end that it stands behind.
            if last < begin:
                ends[number] = end
                return uuids[number]
        uuids.append(self._opened(key, len(ends)))
        ends.append(end)
        return uuids[-1]
