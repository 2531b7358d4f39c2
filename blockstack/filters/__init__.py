"""Filters: nodes that stand before another one and show the same disk. One filter a file, composed by
`blockstack.open(..., filters=[...])`, each a callable that takes the node below: `CopyOnRead`, or a
`functools.partial` of one with options.

A filter hands on zero-writes, discards and flushes as what they are. It starts none by itself, with one exception:
copy-on-read stores zeroes that it has read from a backing node by a zero-write (copy_on_read.py).
"""

from blockstack.filters.base import Filter
from blockstack.filters.blkdebug import BlkDebug, InjectError
from blockstack.filters.copy_on_read import CopyOnRead
from blockstack.filters.throttle import Throttle

__all__ = ["BlkDebug", "CopyOnRead", "Filter", "InjectError", "Throttle"]
