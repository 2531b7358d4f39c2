"""What the guest does: a few requests, each written as a word, and what the disk must hold when they have ended.

    sub@N      write 1 KiB within cluster N, which leaves the rest of a new cluster to be zeroed or copied
    tail@N     the same, at the cluster's end
    full@N     write all of cluster N: no copy-on-write, so it goes out by itself
    cross@N    write the second half of cluster N and the first half of N + 1
    bulk@N     write 40 clusters from N on
    bad@N      as full@N, but the device fails the write
    zero@N     write zeroes to cluster N       discard@N  give cluster N back
    flush      make stable what was acknowledged

A request may be sent at any time, and those of a guest in any order, unless it says after which of the others:
`flush>1,2` waits for the first and the second. One that touches the sectors of an earlier one waits for that by itself,
as a guest's would: the result would be undefined.
"""

import re
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass

from blockstack.disk import Disk
from blockstack.guest.oracle import SECTOR
from blockstack.guest.stamp import payload
from blockstack.sim.driver import GuestRequest
from tracer.errors import UsageError
from tracer.report.escape import printable

MAX_REQUESTS = 12
"""Requests of one guest; no search ends with more of them."""

BULK = 40
"""Clusters of a bulk write: further than a mutant of the strategies reaches."""

WRITES = ("sub", "tail", "full", "cross", "bulk", "bad")
_WORD = re.compile(r"(?P<verb>[a-z]+)(?:@(?P<cluster>\d{1,4}))?(?:>(?P<after>\d+(?:,\d+)*))?")


@dataclass(frozen=True, slots=True)
class Action:
    """One request; `number` counts from 0. Offset and length in bytes of the guest's disk."""

    number: int
    word: str
    verb: str
    offset: int
    length: int
    after: tuple[int, ...]

    @property
    def data(self) -> bytes:
        """What a write carries: every 8 bytes say by which request and where."""
        return payload(self.number + 1, self.offset, self.length)

    def request(self) -> GuestRequest:
        """As the simulated driver takes it."""
        return self._do

    def _do(self, disk: Disk) -> Awaitable[object]:
        if self.verb in WRITES:
            return disk.pwritev(self.offset, [self.data])
        if self.verb == "zero":
            return disk.pwrite_zeroes(self.offset, self.length)
        if self.verb == "discard":
            return disk.pdiscard(self.offset, self.length)
        return disk.flush()


@dataclass(frozen=True, slots=True)
class Guest:
    """Some requests on a disk with clusters of `cluster_size` bytes."""

    actions: tuple[Action, ...]
    cluster_size: int

    def __str__(self) -> str:
        return " ".join(action.word for action in self.actions)

    @property
    def writes(self) -> int:
        """Requests that carry data."""
        return sum(action.verb in WRITES for action in self.actions)

    def without(self, number: int) -> "Guest":
        """The same without one request, and without the wish to wait for it."""
        words = []
        for action in self.actions:
            if action.number == number:
                continue
            explicit = _WORD.fullmatch(action.word)
            assert explicit is not None
            after = [int(text) - 1 for text in (explicit["after"] or "").split(",") if text]
            kept = [str(one + 1 - (one > number)) for one in after if one != number]
            words.append(action.word.split(">")[0] + (">" + ",".join(kept) if kept else ""))
        return parse(" ".join(words), self.cluster_size)


def parse(text: str, cluster_size: int) -> Guest:
    """The guest that `text` describes. Raises UsageError."""
    words = text.split()
    if not 1 <= len(words) <= MAX_REQUESTS:
        raise UsageError(f"a guest has 1 to {MAX_REQUESTS} requests, not {len(words)}")
    actions: list[Action] = []
    for number, word in enumerate(words):
        action = _action(number, word, cluster_size, actions)
        actions.append(action)
    return Guest(tuple(actions), cluster_size)


def _action(number: int, word: str, size: int, earlier: list[Action]) -> Action:
    match = _WORD.fullmatch(word)
    if match is None:
        raise _wrong(word, "such as sub@0, full@1, zero@2, discard@2, or flush>1")
    verb, after = match["verb"], {int(text) - 1 for text in (match["after"] or "").split(",") if text}
    if any(not 0 <= one < number for one in after):
        raise _wrong(word, "it can wait for requests before it, which are numbered from 1")
    half = size // 2
    extents = {
        "sub": (half // 2, half // 2),
        "tail": (half, half),
        "full": (0, size),
        "cross": (half, size),
        "bulk": (0, BULK * size),
        "bad": (0, size),
        "zero": (0, size),
        "discard": (0, size),
    }
    if verb == "flush" and match["cluster"] is None:
        return Action(number, word, verb, 0, 0, tuple(sorted(after)))
    if verb not in extents or match["cluster"] is None:
        raise _wrong(word, f"{', '.join(extents)} of a cluster, or flush")
    start, length = extents[verb]
    offset = int(match["cluster"]) * size + start
    after |= {one.number for one in earlier if one.offset < offset + length and offset < one.offset + one.length}
    return Action(number, word, verb, offset, length, tuple(sorted(after)))


def _wrong(word: str, hint: str) -> UsageError:
    return UsageError(f"{printable(word)!r} is no request of a guest: {hint}")


def expected(guest: Guest, ended: dict[int, int]) -> Iterator[tuple[int, bytes | None]]:
    """Sectors that the guest knows, by number, with what each must hold; None: anything will do.

    Known is what requests that have ended without an error have left; one that failed, or has not ended, makes its
    sectors unknown.
    """
    known: dict[int, bytes | None] = {}
    for action in guest.actions:
        first, count = action.offset // SECTOR, action.length // SECTOR
        done = ended.get(action.number) == 0
        if action.verb in WRITES:
            data = action.data
            for index in range(count):
                known[first + index] = data[index * SECTOR : (index + 1) * SECTOR] if done else None
        elif action.verb in ("zero", "discard"):
            content = bytes(SECTOR) if done and action.verb == "zero" else None
            known.update(dict.fromkeys(range(first, first + count), content))
    yield from known.items()


def standard(name: str, writes: int, cluster_size: int, region: int) -> Guest:
    """The guest of that name with so many writes; `region` is the number of clusters that one L2 table maps.

    Raises UsageError, with the names there are.
    """
    patterns = {
        # The race's own pair, over and over: a cluster to be zeroed, and one behind it that is not.
        "neighbours": ["sub@0", "full@1", "sub@2", "full@3", "sub@4", "full@5"],
        "sub-cluster": [f"sub@{n}" for n in range(6)],
        "same-cluster": ["sub@0", "tail@0", "sub@1", "tail@1", "sub@2", "tail@2"],
        "crossing": ["cross@0", "full@2", "cross@3", "full@5", "sub@4", "full@0"],
        # The second write needs an L2 table of its own; of an image made for it also a refcount block.
        "growth": ["sub@0", f"sub@{region}", "full@1", f"full@{region + 1}", "sub@2", f"sub@{region + 2}"],
    }
    words = patterns.get(name)
    if words is None:
        raise UsageError(f"no guest is called {printable(name)!r}; there are: {', '.join(patterns)}")
    if writes > len(words):
        raise UsageError(f"the guest {name} has {len(words)} writes at most")
    return parse(" ".join(words[:writes]), cluster_size)


def chosen(text: str, writes: int, cluster_size: int) -> tuple[Guest, bool]:
    """The guest that a name or words mean, and whether its image is about to need a refcount block.

    `writes` are those of a guest by name; `cluster_size` in bytes. Raises UsageError.
    """
    if text in NAMES:
        return standard(text, writes, cluster_size, cluster_size // 8), text == "growth"
    return parse(text, cluster_size), False


NAMES = ("neighbours", "sub-cluster", "same-cluster", "crossing", "growth")
"""Guests that have a name."""
