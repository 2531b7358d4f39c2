"""blockstack, run turn by turn: told what the outside world has done, it says what it asks of the kernel next.

`LiveDriver` is the real thing in a `SimLoop`. It is deterministic: what it does in a turn depends on what it was told
so far and on nothing else. So `MemoDriver` remembers: only a sequence that nobody has seen yet takes a live driver, and
wherever one walks over known ground, what it asks is compared with what was remembered.
"""

import asyncio
import errno
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from blockstack.disk import Disk
from blockstack.file_posix import FilePosix
from blockstack.gate import Point
from blockstack.journal import Journal, guest_request
from blockstack.qcow2 import Header, driver
from blockstack.settled import Uncancellable
from blockstack.sim.calls import CallKind, Request
from blockstack.sim.inode import Inode
from blockstack.sim.loop import SimLoop
from blockstack.sim.models import FileSystem
from blockstack.sim.system import SimFile, SimulationError
from blockstack.strategies import Strategy
from blockstack.system import OpenFile

GuestRequest = Callable[[Disk], Awaitable[object]]
"""What a guest does with the disk, as one request."""


class Told(NamedTuple):
    """A turn: which process has ended, and how. `result` is in bytes or -errno; `data` is what was read."""

    process: int
    result: int = 0
    data: bytes = b""


class Reaction(NamedTuple):
    """What the driver did in a turn."""

    requests: tuple[Request, ...]
    """They are the next processes, in this order."""
    ended: tuple[tuple[int, int], ...]
    """Guest requests that have ended, each with 0 or -errno."""


class Driver(Protocol):
    """Processes 0 to n - 1 are the guest's requests, which arrive when they are told; those behind are system calls."""

    def tell(self, told: Told) -> Reaction:
        """One turn. Raises SimulationError."""
        ...

    def untell(self) -> None:
        """Go back to before the last turn. Raises SimulationError where that cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that a run begins with. `blocks` and `size` are the image's; nobody changes them."""

    strategy: Strategy
    model: FileSystem
    blocks: dict[int, bytes]
    size: int
    guest: tuple[GuestRequest, ...]
    failing: frozenset[bytes] = frozenset()
    """Data of writes that the device fails."""
    late: bool = False
    """Whether others may go first between a zero-write's allocation and itself (blockstack.gate: QEMU's coroutine may
    yield in is_zero_cow).
    """


class LiveDriver:
    """blockstack with an open image, in a loop of its own."""

    def __init__(self, setting: Setting, journal: Journal | None = None) -> None:
        self.loop = SimLoop()
        self._setting = setting
        self._journal = journal
        self._asked: list[tuple[Request, Callable[[int, bytes], None]]] = []
        self._ended: list[tuple[int, int]] = []
        self._waiting: dict[int, Callable[[int, bytes], None]] = {}
        self._next = len(setting.guest)
        self._tasks: list[asyncio.Task[None]] = []
        self._disk = self._open()

    def tell(self, told: Told, *too: Told) -> Reaction:
        """One turn. `too`: what arrives in the same iteration of the loop, before what the first has made ready."""
        for one in (told, *too):
            self.loop.call_soon(self._arrive, one)
        self.loop.run_ready()
        return self._reaction()

    def _arrive(self, told: Told) -> None:
        if told.process < len(self._setting.guest):
            self._tasks.append(self.loop.create_task(self._guest(told.process)))
        else:
            self._waiting.pop(told.process)(told.result, told.data)

    def untell(self) -> None:
        """Not with a real one: a coroutine has no way back."""
        raise SimulationError("a live driver cannot go back")

    def abandon(self) -> None:
        """Let everything in flight fail, so that no coroutine is left in the middle."""
        while self._waiting:
            deliver = self._waiting.pop(next(iter(self._waiting)))
            self.loop.run_now(lambda deliver=deliver: deliver(-errno.EIO, b""))  # type: ignore[misc]
            self._reaction()
        for task in self._tasks:
            if not task.done():
                self.loop.run_now(lambda task=task: _close(task))  # type: ignore[misc]

    # The system as file-posix sees it (blockstack.system)

    def open(self, path: Path, *, aio: str, read_only: bool, direct: bool, journal: Journal | None) -> OpenFile:
        """The file, whatever it is called."""
        return SimFile(self._setting, self)

    async def reached(self, point: Point) -> None:
        """A zero-write lets others go first (blockstack.gate)."""
        if point is Point.ZERO_WRITE:
            future: Uncancellable[None] = Uncancellable()
            self.ask(Request(CallKind.YIELD, 0, 0, 0, 0, b""), lambda result, data: future.set_result(None))
            await future

    def ask(self, request: Request, deliver: Callable[[int, bytes], None]) -> None:
        """The driver makes a system call in this turn; `deliver` is called in the turn in which its end is told."""
        self._asked.append((request, deliver))

    def _open(self) -> Disk:
        """Open the image; nothing else is in flight, so that there is nothing to choose."""
        setting = self._setting
        image = Inode(setting.blocks, setting.size)

        async def opened() -> Disk:
            file = FilePosix(
                Path("image"),
                aio="native",
                strategy=setting.strategy,
                journal=self._journal,
                discard=True,
                system=self,
                gate=self if setting.late else None,
            )
            header = Header.parse(await file.preadv(0, min(file.length, 65536)), file.length)
            node = await driver(header).open(header, file, None, read_only=False, discard=True)
            return Disk(node, file)

        task = self.loop.create_task(opened())
        self.loop.run_ready()
        while not task.done():
            asked, self._asked = self._asked, []
            if not asked:
                raise SimulationError(f"opening the image does not end: {self.loop.failures}")
            for request, deliver in asked:
                if request.kind is not CallKind.READ:
                    raise SimulationError(f"opening the image asks for {request}")
                data = image.get(request.offset, request.length)
                self.loop.run_now(lambda deliver=deliver, data=data: deliver(len(data), data))  # type: ignore[misc]
        disk: Disk = task.result()
        return disk

    async def _guest(self, number: int) -> None:
        guest_request.set(number + 1)
        result = 0
        try:
            await self._setting.guest[number](self._disk)
        except OSError as error:
            result = -(error.errno or errno.EIO)
        self._ended.append((number, result))

    def _reaction(self) -> Reaction:
        if self.loop.failures:
            raise SimulationError(f"the driver failed: {self.loop.failures[0]!r}") from self.loop.failures[0]
        asked, self._asked = self._asked, []
        ended, self._ended = self._ended, []
        for _, deliver in asked:
            self._waiting[self._next] = deliver
            self._next += 1
        return Reaction(tuple(request for request, _ in asked), tuple(ended))


def _close(task: "asyncio.Task[None]") -> None:
    """End a task of a deadlock. It has `finally` blocks that wait, and is closed again in each of them."""
    coroutine = cast(Coroutine[Any, Any, None], task.get_coro())
    while inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:
        with suppress(RuntimeError):
            coroutine.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


class _Node:
    """What the driver did in a turn, and what it did next, by what it was told."""

    __slots__ = ("next", "reaction", "tail")

    def __init__(self, reaction: Reaction) -> None:
        self.reaction = reaction
        self.tail: Any = None  # for whoever drives: what is known of all that can follow
        self.next: dict[Told, _Node] = {}


class Memory:
    """All that drivers of one setting have done, as a tree of turns. `turns` counts its nodes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.root = _Node(Reaction((), ()))
        self.turns = 0


class MemoDriver:
    """Walks over known turns, and has a live driver where they end."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._nodes = [memory.root]
        self._path: list[Told] = []
        self._live: LiveDriver | None = None

    def tell(self, told: Told) -> Reaction:
        """One turn."""
        node = self._nodes[-1]
        known = node.next.get(told)
        if known is None:
            live = self._live
            if live is None:
                live = self._live = _revived(self._memory, self._path)
            known = node.next[told] = _Node(live.tell(told))
            self._memory.turns += 1
        elif self._live is not None:
            _same(self._live.tell(told), known.reaction)
        self._nodes.append(known)
        self._path.append(told)
        return known.reaction

    def untell(self) -> None:
        """Go back; a live driver is of no more use."""
        self.abandon()
        self._nodes.pop()
        self._path.pop()

    @property
    def node(self) -> _Node:
        """Where it stands."""
        return self._nodes[-1]

    def abandon(self) -> None:
        """The run ends here."""
        if self._live is not None:
            self._live.abandon()
            self._live = None


def _revived(memory: Memory, path: Sequence[Told]) -> LiveDriver:
    live, node = LiveDriver(memory.setting), memory.root
    for told in path:
        node = node.next[told]
        _same(live.tell(told), node.reaction)
    return live


def _same(reaction: Reaction, known: Reaction) -> None:
    if reaction != known:
        raise SimulationError(f"the driver is not deterministic: {reaction} and {known} of the same turn")
