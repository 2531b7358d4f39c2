"""A buffered and a direct write to the same page of a file in the kernel together.

open(2) warns against it. A direct write drops the pages that it has gone around (asynchronous ones since 332391a9935d,
v4.14). One that was made dirty meanwhile cannot be dropped (5a9d929d6e13, v4.15).
"""

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.rules import Commit, Outcome, PairRule, Severity, prose
from tracer.analysis.sides import data_writes, direct_data_writes, ends
from tracer.operations import WRITES, Op

PAGE = 4096
"""Bytes. The smallest page there is: a larger one can only have more in common."""


class BufferedAndDirect(PairRule):
    """first: the buffered write; second: the direct one."""

    id = "buffered-and-direct"
    severity = Severity.STALE_DATA
    title = "buffered and direct write to the same page in flight together"
    explanation = prose("""
        A buffered write changes a page in the page cache, a direct write the disk below it, and then it drops the page.
        If the page is made dirty between, it cannot be dropped: from then on the cache and the disk differ, readers get
        what is stale, and when the page is written back it takes the direct write's data with it, also where the two
        did not write to the same bytes of the page. The kernel knows ("Page cache invalidation failure on direct I/O",
        since Linux 4.15, 5a9d929d6e13) and can only say so, by an error of the next fsync. open(2) asks applications
        not to mix the two on one file.
    """)
    argument = prose("""
        It takes both kinds in flight at once on one page of 4 KiB. One after the other is no pair: Linux writes dirty
        pages back and drops them before each direct write, and many programs write an aligned body with O_DIRECT and
        then its tail without. Neither are different pages of one file, nor a direct write that the file system itself
        finishes through the page cache: that is one operation of a trace.
    """)
    lost = ""
    serialised = ""
    watched = ""
    needs = frozenset(WRITES)
    reads = frozenset({"offset", "length", "result"})
    commits = (
        Commit(
            "Linux",
            "5a9d929d6e13",
            "told of since v4.15",
            "iomap: report collisions between directio and buffered writes to userspace",
        ),
        Commit(
            "Linux",
            "332391a9935d",
            "fixed in v4.14",
            "fs: Fix page cache inconsistency when mixing buffered and AIO DIO",
        ),
    )
    example = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 0, 4 * K),
            operation(Op.BUFFERED_WRITE, 2, 4, 4 * K - 10, 10),
        ),
        "the buffered write makes the page dirty that the direct one is about to replace on the disk",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 3, 0, 4 * K),
            operation(Op.BUFFERED_WRITE, 2, 4, 4 * K, 10),
        ),
        "the buffered write goes to the next page",
    )

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Buffered writes."""
        return np.asarray(data_writes(ops) & (ops["op"] == Op.BUFFERED_WRITE))

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Direct writes."""
        return direct_data_writes(ops)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        """Pairs that have a page in common."""
        before = first["offset"] // PAGE <= (ends(second) - 1) // PAGE
        behind = second["offset"] // PAGE <= (ends(first) - 1) // PAGE
        return np.where(before & behind, Outcome.EXPOSED, 0).astype(np.uint8)


RULE = BufferedAndDirect()
