"""Power failures: what the disk may hold when the power goes, at every flush of every schedule and at the end.

Between two flushes the disk may have written any of the data blocks, whatever the order in which they were asked for;
of sizes, which the file system logs in order, those up to some moment. There is most to choose from right before a
flush, so that looking there is looking everywhere. Of n changes since the last flush all 2^n combinations are looked at
for n up to `ALL_SUBSETS`; of more, each alone, all but each, none and all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from blockstack.guest.oracle import SECTOR
from blockstack.qcow2.header import MAGIC, OFFSET_MASK
from blockstack.sim.inode import Update
from blockstack.sim.world import World
from tracer.explore.guest import WRITES
from tracer.explore.image import Reader
from tracer.explore.search import Exhaustive
from tracer.explore.space import Runs, Space

ALL_SUBSETS = 6


@dataclass(frozen=True, slots=True)
class Loss:
    """A power failure that costs what was stable: in which schedule, before which step, and what is wrong then."""

    choices: tuple[int, ...]
    step: int
    what: str


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The time from one flush to the next: what was stable, what came, and when it ended."""

    blocks: dict[int, bytes]
    size: int
    updates: tuple[Update, ...]
    end: int


def crash_losses(space: Space, limit: int, stopped: Callable[[], bool]) -> tuple[int, list[Loss]]:
    """Cut the power in every schedule of a space, `limit` of them at most; how many states of the disk were looked at,
    and in which something was lost, each kind once.
    """
    runs, seen, losses = Runs(space), set[int](), dict[str, Loss]()
    searched = [choices for _, (choices, _) in zip(range(limit), Exhaustive(runs), strict=False)]
    for choices in searched:
        if stopped():
            break
        world = runs.begin()
        epochs = _epochs(runs, world, choices)
        for epoch in epochs:
            required = _stable(runs, world, epoch.end)
            for blocks, size in _disks(epoch):
                mark = hash((frozenset(blocks.items()), size, required))
                if mark in seen:
                    continue
                seen.add(mark)
                what = _wrong(Reader(blocks, size, space.guest.cluster_size), space, required)
                if what is not None:
                    losses.setdefault(what, Loss(tuple(choices), epoch.end, what))
    runs.end()
    return len(seen), list(losses.values())


def _epochs(runs: Runs, world: World, choices: Sequence[int]) -> list[_Epoch]:
    inode = world.inode
    inode.record_updates()
    epochs = []

    def take(number: int) -> None:
        process = world.processes[number]
        before = inode.stable_blocks, inode.stable_size, tuple(inode.updates or ())
        world.take(process)
        if inode.updates is not None and not inode.updates and before[2]:
            epochs.append(_Epoch(*before, world.clock.now))

    for number in choices:
        take(number)
    while enabled := world.enabled():
        take(enabled[0].number)
    epochs.append(_Epoch(inode.stable_blocks, inode.stable_size, tuple(inode.updates or ()), world.clock.now + 1))
    return epochs


def _stable(runs: Runs, world: World, end: int) -> tuple[tuple[int, bytes], ...]:
    """Sectors that a flush of the guest's had made stable before step `end`: those of requests that were acknowledged
    before it was sent, and that nobody has changed since.
    """
    actions = runs.space.guest.actions
    flushed: dict[int, bytes] = {}
    for flush in actions:
        if flush.verb != "flush" or world.ended_at.get(flush.number, end) >= end:
            continue
        sent = world.sent_at[flush.number]
        for action in actions:
            if action.verb in WRITES and world.ended_at.get(action.number, sent) < sent:
                for index in range(action.length // SECTOR):
                    number = action.offset // SECTOR + index
                    flushed[number] = action.data[index * SECTOR : (index + 1) * SECTOR]
    for action in actions:
        later = [other for other in actions if other.number > action.number and other.verb != "flush"]
        for other in later:
            if other.offset < action.offset + action.length and action.offset < other.offset + other.length:
                for number in range(other.offset // SECTOR, (other.offset + other.length) // SECTOR):
                    flushed.pop(number, None)
    return tuple(sorted(flushed.items()))


def _disks(epoch: _Epoch) -> Iterator[tuple[dict[int, bytes], int]]:
    """Every content and size that a power failure can leave."""
    data = [update.blocks for update in epoch.updates if update.size is None]
    sizes = [epoch.size, *(update.size for update in epoch.updates if update.size is not None)]
    for chosen in _subsets(len(data)):
        blocks = dict(epoch.blocks)
        for index in chosen:
            for block, content in data[index].items():
                if content is None:
                    blocks.pop(block, None)
                else:
                    blocks[block] = content
        for size in dict.fromkeys(sizes):
            yield blocks, size


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    if count <= ALL_SUBSETS:
        for bits in range(1 << count):
            yield tuple(index for index in range(count) if bits >> index & 1)
        return
    yield ()
    yield tuple(range(count))
    for index in range(count):
        yield (index,)
        yield tuple(other for other in range(count) if other != index)


def _wrong(reader: Reader, space: Space, required: tuple[tuple[int, bytes], ...]) -> str | None:
    """What is wrong with an image on which the power has failed; leaked clusters are not."""
    if reader.magic != MAGIC:
        return "it does not open: no header"
    for table in reader.tables():
        if table % space.guest.cluster_size:
            return "it does not open: an L2 table is not aligned"
        if not reader.refcount(table):
            return "an L2 table lies in a cluster that counts as free"
        for index in range(reader.entries):
            host = reader.word(table + 8 * index) & OFFSET_MASK
            if host and not reader.refcount(host):
                return "a guest cluster lies in a cluster that counts as free"
    lost = [number for number, data in required if reader.sector(number) != data]
    return f"flushed sectors are gone: {lost[0] * SECTOR} and {len(lost) - 1} more" if lost else None


__all__ = ["Loss", "crash_losses"]
