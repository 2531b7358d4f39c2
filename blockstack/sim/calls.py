"""A system call on its way through a simulated kernel, and the steps that it takes."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from blockstack.sim.footprint import Footprint, footprint
from blockstack.sim.inode import Inode

NOT_SEEN = -1


class CallKind(enum.Enum):
    """What the driver asks the kernel for."""

    READ = enum.auto()
    WRITE = enum.auto()
    FALLOCATE = enum.auto()
    TRUNCATE = enum.auto()
    SYNC = enum.auto()
    YIELD = enum.auto()  # nothing: a coroutine lets others go first


class Request(NamedTuple):
    """A system call that the driver asks for. Offsets and lengths in bytes."""

    kind: CallKind
    offset: int
    length: int
    flags: int
    request: int
    """Id of the tracked request on whose behalf it is (blockstack.journal); 0: nobody's, or nobody keeps a journal."""
    data: bytes


class Clock:
    """Numbers the steps of a run from 1: the only time there is."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class Call:
    """One system call. Offsets and sizes in bytes; steps by number, 0 where it has not come to that."""

    __slots__ = (
        "applied",
        "begin",
        "clock",
        "data",
        "end",
        "flags",
        "kind",
        "length",
        "offset",
        "request",
        "result",
        "size_applied",
        "size_begin",
        "size_end",
    )

    def __init__(self, request: Request, clock: Clock) -> None:
        self.kind, self.offset, self.length, self.flags, self.request, self.data = request
        self.clock = clock
        self.begin = self.end = self.applied = 0
        self.size_begin = self.size_end = self.size_applied = NOT_SEEN
        self.result = 0

    def begins(self, inode: Inode) -> None:
        """The kernel has begun with it, in this step."""
        self.begin = self.clock.now
        self.size_begin = inode.size

    def applies(self, inode: Inode) -> None:
        """In this step it sets the size; called just before."""
        self.applied = self.clock.now
        self.size_applied = inode.size

    def ends(self, inode: Inode, result: int) -> None:
        """The kernel has done with it, in this step: bytes or 0, or -errno."""
        self.end = self.clock.now
        self.size_end = inode.size
        self.result = result

    @property
    def reads(self) -> bool:
        """Whether `data` is what it has read."""
        return self.kind is CallKind.READ

    @property
    def behind(self) -> int:
        """First byte behind its range."""
        return self.offset + self.length

    @property
    def state(self) -> tuple[Any, ...]:
        """What steps change, to be put back."""
        return (
            self.begin,
            self.end,
            self.applied,
            self.size_begin,
            self.size_end,
            self.size_applied,
            self.result,
            self.data,
        )

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        (
            self.begin,
            self.end,
            self.applied,
            self.size_begin,
            self.size_end,
            self.size_applied,
            self.result,
            self.data,
        ) = state


class Step:
    """What comes next of a call: what it is called in the kernel, what it touches, when it can be taken, what it does.

    `act` does it and returns the step behind it, or the call's result in bytes (0, or -errno). `touch` is a function
    where the state decides; what that looks at must be among the bits itself.
    """

    __slots__ = ("_fixed", "_touch", "act", "name", "ready")

    def __init__(
        self,
        name: str,
        touch: int | Callable[[], int],
        act: "Callable[[Inode, Call], Next]",
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.ready = ready
        self.act = act
        self._fixed = footprint(touch) if isinstance(touch, int) else None
        self._touch = touch

    @property
    def footprint(self) -> Footprint:
        """In this state."""
        if self._fixed is not None:
            return self._fixed
        assert callable(self._touch)
        return footprint(self._touch())


Next: TypeAlias = Step | int
