"""A guest of other formats than qcow2: writes, zero-writes, discards and reads in flight together, its disk filled
from the front.

Each burst takes fresh clusters, and what is meant to be zeroed or half written gets the lower ones: where the file
grows, data is then written behind what is zeroed. Other requests of the burst go to clusters of long ago.
"""

import asyncio
import enum
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from blockstack.disk import Disk
from blockstack.guest.oracle import SECTOR, Oracle
from blockstack.guest.stamp import payload
from blockstack.guest.workload import DEPTH, FLUSH_EVERY
from blockstack.journal import GUEST_SHIFT, Journal, Kind, RequestFlag, guest_request

_STRETCH = 4
"""As workload.py's: bursts for three quarters of the plan, a steady stream for one."""

_FRESH = 10
"""Requests of a burst to fresh clusters; the others go to old ones."""


class Action(enum.Enum):
    """What a request asks for."""

    READ = enum.auto()
    WRITE = enum.auto()
    ZERO = enum.auto()
    DISCARD = enum.auto()


@dataclass(frozen=True, slots=True)
class Choice:
    """One kind of request and how often it is drawn; `whole` clusters, or a part of one."""

    action: Action
    whole: bool
    weight: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What a guest does. Of `fresh`, what comes first gets the lower clusters of a burst."""

    fresh: tuple[Choice, ...]
    old: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class GuestRequest:
    """One request; `number` counts from 1, offset and length in bytes are multiples of SECTOR."""

    number: int
    action: Action
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class MixedPlan:
    """Everything the guest will do. `size` is the disk's, in bytes."""

    seed: int
    cluster_size: int
    size: int
    requests: tuple[GuestRequest, ...]

    @property
    def bytes_allocated(self) -> int:
        """Bytes that the disk takes, and another one of the same content (a mirror's)."""
        return 2 * self.size

    @property
    def past(self) -> int:
        """Number of a write that no request has: what was on the disk before."""
        return len(self.requests) + 1


def make_mixed_plan(seed: int, count: int, profile: Profile, cluster_size: int = 65536) -> MixedPlan:
    """The plan for a seed: the same on every host."""
    chosen = random.Random(seed)
    requests: list[GuestRequest] = []
    cursor, settled = 0, 0  # fresh clusters taken; those of them that no burst near this one has to do with
    history = [0, 0]
    while len(requests) < count:
        fresh = sorted(_draw(chosen, profile.fresh) for _ in range(_FRESH))
        burst = []
        for index in fresh:
            choice = profile.fresh[index]
            clusters = chosen.choice((1, 1, 2)) if choice.whole else 1
            burst.append(_request(chosen, choice, cursor, clusters, cluster_size))
            cursor += clusters
        for _ in range(DEPTH - _FRESH if settled else 0):
            choice = profile.old[_draw(chosen, profile.old)]
            burst.append(_request(chosen, choice, chosen.randrange(settled), 1, cluster_size))
        history.append(cursor)
        settled = history[-3]
        requests += [GuestRequest(len(requests) + i, *what) for i, what in enumerate(burst, start=1)]
    return MixedPlan(seed, cluster_size, cursor * cluster_size, tuple(requests[:count]))


def _draw(chosen: random.Random, choices: Sequence[Choice]) -> int:
    return chosen.choices(range(len(choices)), [choice.weight for choice in choices])[0]


def _request(
    chosen: random.Random, choice: Choice, cluster: int, clusters: int, cluster_size: int
) -> tuple[Action, int, int]:
    if choice.whole:
        return choice.action, cluster * cluster_size, clusters * cluster_size
    unit = 4096 if cluster_size >= 8192 and chosen.random() < 0.9 else SECTOR
    length = unit * chosen.randint(1, max(1, cluster_size // unit // 2))
    start = unit * chosen.randint(0, (cluster_size - length) // unit)
    return choice.action, cluster * cluster_size + start, length


async def run_mixed(
    disk: Disk,
    plan: MixedPlan,
    oracle: Oracle,
    *,
    journal: Journal | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Play the plan, DEPTH requests at once or in flight. `oracle` knows what is on the disk, and is told all the rest.

    One that overlaps a request in flight waits for it. `journal` gets a mark of each, and `progress` the number of
    those that were acknowledged. Raises what a request raises.
    """
    guest = _Guest(disk, oracle, journal, progress)
    for start in range(0, len(plan.requests), _STRETCH * DEPTH):
        stretch = plan.requests[start : start + _STRETCH * DEPTH]
        step = DEPTH if start // (_STRETCH * DEPTH) % 4 != 3 else len(stretch)
        for part in range(0, len(stretch), step):
            await guest.play(stretch[part : part + step])


class _Guest:
    """The state that the workers share."""

    def __init__(self, disk: Disk, oracle: Oracle, journal: Journal | None, progress: Callable[[int], None]) -> None:
        self._disk = disk
        self._oracle = oracle
        self._journal = journal
        self._progress = progress
        self._payloads: dict[int, bytes] = {}
        self._in_flight: dict[int, tuple[GuestRequest, asyncio.Event]] = {}
        self._acknowledged = 0

    async def play(self, requests: Sequence[GuestRequest]) -> None:
        """Keep up to DEPTH in flight until all are acknowledged."""
        self._payloads = {
            request.number: payload(request.number, request.offset, request.length)
            for request in requests
            if request.action is Action.WRITE
        }
        todo = iter(requests)
        async with asyncio.TaskGroup() as group:
            for _ in range(DEPTH):
                group.create_task(self._work(todo))

    async def _work(self, todo: Iterator[GuestRequest]) -> None:
        for request in todo:
            while (blocker := self._overlapping(request)) is not None:
                await blocker.wait()
            await self._send(request)
            self._acknowledged += 1
            self._progress(self._acknowledged)
            if request.number % FLUSH_EVERY == 0:
                await self._disk.flush()

    async def _send(self, request: GuestRequest) -> None:
        done = asyncio.Event()
        self._in_flight[request.number] = request, done
        guest_request.set(request.number)
        entry = None
        if self._journal is not None:
            flags = RequestFlag.READ if request.action is Action.READ else 0
            number = request.number << GUEST_SHIFT
            entry = self._journal.begin(Kind.GUEST_WRITE, request.offset, request.length, request=number, flags=flags)
        try:
            await self._ask(request)
            if self._journal is not None and entry is not None:
                self._journal.end(entry, request.length)
        finally:
            guest_request.set(0)
            del self._in_flight[request.number]
            done.set()

    async def _ask(self, request: GuestRequest) -> None:
        number, offset, length = request.number, request.offset, request.length
        if request.action is Action.READ:
            await self._disk.preadv(offset, length)
        elif request.action is Action.WRITE:
            await self._disk.pwritev(offset, [self._payloads.pop(number)])
            self._oracle.acknowledge(number, offset, length)
        elif request.action is Action.ZERO:
            await self._disk.pwrite_zeroes(offset, length)
            self._oracle.acknowledge(0, offset, length)
        else:
            await self._disk.pdiscard(offset, length)
            self._oracle.forget(offset, length)

    def _overlapping(self, request: GuestRequest) -> asyncio.Event | None:
        for other, done in self._in_flight.values():
            if other.offset < request.offset + request.length and request.offset < other.offset + other.length:
                return done
        return None
