"""A file that is shorter than what was written to it and acknowledged, although nobody was seen to shorten it.

XFS' completions of direct writes once set the size one after the other from what each had read (b9d59846f737, v4.1).
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tracer.analysis.columns import Columns
from tracer.analysis.examples import ExampleTrace, K, operation
from tracer.analysis.overlaps import I64
from tracer.analysis.rules import Commit, Moments, Outcome, Scan, ScanRule, Severity, prose
from tracer.analysis.sides import acknowledged, data_writes, written_ends
from tracer.operations import FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_KEEP_SIZE, FALLOCATES, WRITES, Op, among


class SizeGoingBackwards(ScanRule):
    """first: the operation that found the file shorter; second: the write that lay beyond its end by then."""

    id = "size-going-backwards"
    severity = Severity.DATA_LOSS
    title = "a file is shorter than it was, and nothing has truncated it"
    explanation = prose("""
        A write was acknowledged, so the file reached at least to its end. A later operation found the file shorter, and
        no truncate, nor a fallocate together with the write, was seen that could have cut it: the data behind the end
        is gone. The kernel has done this to itself, when two direct writes ended at the same time and each set the size
        from what it had read before (XFS before Linux 4.1, b9d59846f737); so does every file system that sets a size
        computed earlier. The other explanation is somebody who is not in the trace: trace the file (--path) instead of
        a process to see him.
    """)
    argument = prose("""
        A size that falls is dangerous only if nobody wanted it to, so all that may want it explains it: a truncate, an
        O_TRUNC or a collapse range that was in flight at any time from the write's begin to the end of the operation
        that looked; and of the writes that a size-setting fallocate met, post-eof-fallocate tells. A file of size 0 is
        taken for a new one: inode numbers are used again, and logs are emptied by others. In a trace that lacks
        records, or a part, or truncates, or of some processes only, a pair is no more than exposed, as what explains it
        may be what was not seen.
    """)
    lost = prose("""
        The size was below the end of an acknowledged write when a later operation began, and the trace is complete: it
        shows nobody who has asked for that.
    """)
    serialised = ""
    watched = ""
    needs = frozenset({Op.TRUNCATE, Op.FALLOCATE, *WRITES})
    reads = frozenset({"t_begin", "t_end", "offset", "length", "result", "size_begin", "flags"})
    commits = (
        Commit("Linux", "b9d59846f737", "fixed in v4.1", "xfs: DIO write completion size updates race"),
        Commit("Linux", "249bd9087a52", "fixed in v5.5", "xfs: properly serialise fallocate against AIO+DIO"),
    )
    rests_on_absence = True
    example = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 2, 64 * K, 64 * K),
            operation(Op.AIO_WRITE, 3, 4, 0, 4 * K, size_begin=64 * K),
        ),
        "128 KiB had been acknowledged when the second write found a file of 64 KiB",
    )
    almost = ExampleTrace(
        (
            operation(Op.AIO_WRITE, 1, 2, 64 * K, 64 * K),
            operation(Op.TRUNCATE, 3, 4, 64 * K),
            operation(Op.AIO_WRITE, 5, 6, 0, 4 * K, size_begin=64 * K),
        ),
        "it was truncated between the two",
    )

    def wants(self, ops: Columns) -> npt.NDArray[np.bool_]:
        """Writes, fallocates and truncates: all that sees a size or sets one."""
        return np.asarray(among(ops["op"], (*WRITES, *FALLOCATES, Op.TRUNCATE)))

    def scan(self) -> Scan:
        """A fresh state."""
        return _Scan()


RULE = SizeGoingBackwards()

_NEVER = 0
"""Before all sequence numbers."""


def _truncating(ops: Columns) -> npt.NDArray[np.bool_]:
    """Which of ops (n,) may have made their file shorter on purpose, whatever came of it."""
    collapses = among(ops["op"], (Op.FALLOCATE,)) & ((ops["flags"] & FALLOC_FL_COLLAPSE_RANGE) != 0)
    return np.asarray(collapses | among(ops["op"], (Op.TRUNCATE, Op.MARK_FALLOCATE)))


def _extending(ops: Columns) -> npt.NDArray[np.bool_]:
    """Which of ops (n,) may have set their file's size, and had better not made it shorter.

    None that the file system does not have (ZERO_RANGE on OpenZFS before 2.2): it refuses before it looks at the file.
    """
    sets_size = ((ops["flags"] & FALLOC_FL_KEEP_SIZE) == 0) & (ops["result"] != -errno.EOPNOTSUPP)
    return np.asarray(among(ops["op"], (Op.FALLOCATE,)) & sets_size & ~_truncating(ops))


_Operation = int | Columns
"""A moment of the batch that is looked at, by its place there; or a copy of one of a batch before."""


@dataclass(slots=True)
class _File:
    """What is known of one file at a moment."""

    truncating: int = 0
    """Operations in flight that may make it shorter."""
    extending: int = 0
    """Fallocates in flight that set its size."""
    disturbed: int = _NEVER
    """When either was last in flight, or the file was seen to be new: writes that began before tell nothing."""
    reaches: int = 0
    """Bytes that it has for certain, by `proof`; 0: nothing is certain."""
    proof: "_Operation | None" = None
    """The acknowledged write that ends there."""
    found_short: "dict[int, tuple[_Operation, _Operation]]" = field(default_factory=dict)
    """Operations in flight that found the file shorter: `seq_end` -> the operation, the write that proves it."""

    def forget(self, now: int) -> None:
        """Anything may have become of its size."""
        self.disturbed, self.reaches, self.proof = now, 0, None
        self.found_short.clear()


class _Scan(Scan):
    """Looks at all files of a batch at once, and again, moment by moment, only at those where something is wrong."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], _File] = {}

    def feed(self, moments: Moments) -> Iterator[tuple[Columns, Columns, npt.NDArray[np.uint8]]]:
        """See `Scan.feed`."""
        if not len(moments.ended):
            return
        order = np.lexsort((moments.ops["ino"], moments.ops["dev"]))
        ops = moments.ops.take(order)
        dev, ino = ops["dev"], ops["ino"]
        starts = np.flatnonzero(np.concatenate([[True], (dev[1:] != dev[:-1]) | (ino[1:] != ino[:-1])]))
        names = zip(dev[starts].tolist(), ino[starts].tolist(), strict=True)
        files = [self._files.setdefault(name, _File()) for name in names]
        batch = _Batch(ops, moments.ended[order], starts, files)
        pairs = [pair for number in batch.settle() for pair in batch.step(number)]
        if pairs:
            first, second = (batch.gathered(side) for side in zip(*pairs, strict=True))
            yield first, second, np.full(len(pairs), Outcome.LOST, np.uint8)


class _Batch:
    """Moments (n,) of some files (m,), file by file, each in the order in which they happened."""

    def __init__(self, ops: Columns, ended: npt.NDArray[np.bool_], starts: I64, files: list[_File]) -> None:
        self._ops = ops
        self._ended = ended
        self._starts, self._stops = starts, np.append(starts[1:], len(ended))
        self._files = files
        self._file = np.repeat(np.arange(len(starts)), self._stops - starts)
        self._now: npt.NDArray[np.uint64] = np.where(ended, ops["seq_end"], ops["seq_begin"])
        self._truncating, self._extending = _truncating(ops), _extending(ops)
        self._size: I64 = np.where(ended | self._truncating, -1, ops["size_begin"])
        self._forgets = self._truncating | (self._size == 0)
        self._written: I64 = np.where(data_writes(ops) & acknowledged(ops) & ended, written_ends(ops), 0)

    def settle(self) -> list[int]:
        """Bring all files up to the end of the batch but those that this returns, which need `step`."""
        truncating = self._in_flight(self._truncating, [file.truncating for file in self._files])
        extending = self._in_flight(self._extending, [file.extending for file in self._files])
        disturbed = self._disturbed()
        proves = (self._written > 0) & (truncating + extending == 0) & (self._ops["seq_begin"] >= disturbed)
        proof = self._furthest(proves)
        reaches = np.where(proof >= 0, self._written[proof], 0)
        known = np.array([file.reaches for file in self._files], np.int64)[self._file]
        still_known = ~self._count(self._forgets).astype(np.bool_)
        older = still_known & (known >= reaches)
        reaches = np.where(older, known, reaches)
        # All that `step` would find, and perhaps more: it never thinks that a file reaches further.
        short = (self._size > 0) & (self._size < reaches) & (truncating == 0)
        wrong = set(self._file[short].tolist()) | {i for i, file in enumerate(self._files) if file.found_short}
        lasts = self._stops - 1
        news = self._ops.take(proof[lasts[~older[lasts] & (proof[lasts] >= 0)]]).each()
        for number, (file, last) in enumerate(zip(self._files, lasts.tolist(), strict=True)):
            new = next(news) if not older[last] and proof[last] >= 0 else None
            if number in wrong:
                continue
            file.truncating, file.extending = int(truncating[last]), int(extending[last])
            file.disturbed, file.reaches = int(disturbed[last]), int(reaches[last])
            if not older[last]:
                file.proof = new
        return sorted(wrong)

    def step(self, number: int) -> Iterator[tuple[_Operation, _Operation]]:
        """Bring one file up to the end of the batch, moment by moment; yields the pairs that are found."""
        file = self._files[number]
        low, high = int(self._starts[number]), int(self._stops[number])
        ended, nows = self._ended[low:high].tolist(), self._now[low:high].tolist()
        forgets, truncating = self._forgets[low:high].tolist(), self._truncating[low:high].tolist()
        extending = self._extending[low:high].tolist()
        begins, times = self._ops["seq_begin"][low:high].tolist(), self._ops["t_begin"][low:high].tolist()
        ends = self._ops["seq_end"][low:high].tolist()
        written, sizes = self._written[low:high].tolist(), self._size[low:high].tolist()
        for at in range(high - low):
            now, change = nows[at], -1 if ended[at] else 1
            if forgets[at]:
                file.forget(now)
            if truncating[at]:
                file.truncating += change
            elif extending[at]:
                file.extending += change
                file.disturbed = now
            if written[at] > file.reaches:
                if begins[at] >= file.disturbed and not file.truncating and not file.extending:
                    file.reaches, file.proof = written[at], low + at
            elif sizes[at] in range(1, file.reaches) and not file.truncating:
                proof = file.proof
                # The size may have been read before the number was taken, but not before the time was (bpf/io_uring.c).
                if proof is not None and ends[at] and self._t_end(proof) < times[at]:
                    file.found_short[ends[at]] = low + at, proof
                    file.reaches, file.proof = 0, None  # told once
            if now in file.found_short:
                yield file.found_short.pop(now)
        file.proof = None if file.proof is None else self._kept(file.proof)
        file.found_short = {end: (self._kept(one), self._kept(other)) for end, (one, other) in file.found_short.items()}

    def gathered(self, chosen: Sequence[_Operation]) -> Columns:
        """Operations, one or more, in that order."""
        here = [one for one in chosen if isinstance(one, int)]
        known = [one for one in chosen if not isinstance(one, int)]
        joined = Columns.join([self._ops.take(np.array(here, np.int64)), *known])
        is_known = np.array([not isinstance(one, int) for one in chosen])
        return joined.take(np.where(is_known, len(here) + np.cumsum(is_known) - 1, np.cumsum(~is_known) - 1))

    def _t_end(self, one: _Operation) -> int:
        return int(self._ops["t_end"][one]) if isinstance(one, int) else int(one["t_end"][0])

    def _kept(self, one: _Operation) -> Columns:
        return self._ops.take(np.array([one])).kept() if isinstance(one, int) else one

    def _count(self, mask: npt.NDArray[np.bool_] | I64) -> I64:
        """How many moments of the same file, up to and with each (n,), are in the mask; or the sum of numbers."""
        total = np.cumsum(mask, dtype=np.int64)
        return np.asarray(total - (total[self._starts] - mask[self._starts])[self._file])

    def _in_flight(self, mask: npt.NDArray[np.bool_], before: list[int]) -> I64:
        """How many operations of a kind are in flight right after each moment (n,)."""
        change = np.where(mask, np.where(self._ended, -1, 1), 0)
        return np.asarray(self._count(change) + np.array(before, np.int64)[self._file])

    def _disturbed(self) -> npt.NDArray[np.uint64]:
        """`_File.disturbed` right after each moment (n,)."""
        disturbs = self._forgets | self._extending
        last = np.maximum.accumulate(np.where(disturbs, np.arange(len(disturbs)), -1))
        before = np.array([file.disturbed for file in self._files], np.uint64)[self._file]
        return np.where(self._count(disturbs), self._now[last], before)

    def _furthest(self, proves: npt.NDArray[np.bool_]) -> I64:
        """Which moment that proves a size proves the largest, of those since the file was last forgotten; -1: none.

        Of several the first. Up to and with each moment (n,).
        """
        n = len(proves)
        number = np.arange(n)
        by_size = np.lexsort((-number, self._written))
        rank = np.empty(n, np.int64)
        rank[by_size] = number + 1
        new = self._forgets.copy()
        new[self._starts] = True
        since = np.cumsum(new, dtype=np.int64) * (n + 1)
        best = np.maximum.accumulate(since + np.where(proves, rank, 0)) - since
        return np.where(best, by_size[best - 1], -1)
