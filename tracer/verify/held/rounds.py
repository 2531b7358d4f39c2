"""One round: a zero-write F and a write W behind it, in an order that is chosen. Nothing in it rests on timing.

Each step waits until the one before is seen: F at the gate, W at the disk, a request of the file node that waits for
another one, fallocate(2) asleep in the kernel. A step that is not seen within `SECONDS` ends the round, and it proves
nothing then.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import blockstack
from blockstack.gate import Point
from blockstack.journal import GUEST_SHIFT, Entry, Journal, Kind
from blockstack.strategies import Strategy
from tracer.lab import waiting
from tracer.lab.held import HeldDisk, Hold
from tracer.verify.held.cases import Case, Order, Rule, Script
from tracer.verify.held.gate import ChosenGate
from tracer.verify.held.guest import Guest, Sent, prefix

SECONDS = 10.0
"""Limit of each step. An emulated machine takes some tenths of one."""
_POLL = 0.001


class _NotBuiltError(Exception):
    """The schedule could not be had."""


@dataclass(slots=True)
class Round:
    """What became of one round, as the driver saw it."""

    order: Order
    pair: tuple[int, int] = (0, 0)  # guest requests: the zero-write's, the write's
    course: str = ""  # in words
    held_ns: int = 0  # how long W was held
    problem: str | None = None  # why it proves nothing

    def to_json(self) -> dict[str, Any]:
        """For `verify --json`."""
        return {
            "order": self.order.value,
            "course": self.course,
            "held_ms": round(self.held_ns / 1e6, 3) if self.held_ns else None,
            "problem": self.problem,
        }


@dataclass(slots=True)
class Stage:
    """What a round is played on."""

    disk: blockstack.Disk
    held: HeldDisk
    gate: ChosenGate
    guest: Guest
    journal: Journal
    strategy: Strategy
    over: threading.Event = field(default_factory=threading.Event)
    holds: list[Hold] = field(default_factory=list)

    def waits(self, one: Sent, other: Sent) -> bool:
        """Whether a request of `one` to the file node waits for one of `other`."""
        return any(
            request.waiting_for is not None
            and request.id >> GUEST_SHIFT == one.number
            and request.waiting_for.id >> GUEST_SHIFT == other.number
            for request in self.disk.file.tracker.in_flight
        )

    def fallocate(self, sent: Sent) -> Entry | None:
        """The (emulated) fallocate of that guest request, once it has begun."""
        for entry in self.journal.entries:
            if entry.kind in (Kind.EMULATED_FALLOCATE, Kind.FALLOCATE) and entry.request >> GUEST_SHIFT == sent.number:
                return entry
        return None

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Raises _NotBuiltError if the condition does not come true, or a guest write fails that must not."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise _NotBuiltError(f"{what} was not seen within {SECONDS:g} s")
            await asyncio.sleep(_POLL)


async def play_round(stage: Stage, case: Case, order: Order, into: Round) -> None:
    """Play one round of `case`; nothing is in flight or held when it returns. Raises OSError, HeldDiskError."""
    script = case.script(stage.guest)
    into.pair = (script.zero.number, script.write.number)
    done = len(stage.guest.sent)
    expected_to_fail: list[Sent] = []
    try:
        if not stage.strategy.uses_alloc_space(stage.disk.file):
            await _together(stage, script, into)
        else:
            with _watchdog(stage):
                await _ORDERS[order](stage, script, into, expected_to_fail)
    except _NotBuiltError as error:
        into.problem = str(error)
    finally:
        await _finish(stage, script, stage.guest.sent[done:])
    for sent in stage.guest.sent[done:]:
        if sent.failure is not None and sent not in expected_to_fail:
            raise sent.failure


async def _zero_write_first(stage: Stage, script: Script, into: Round, _: list[Sent]) -> None:
    """F has been ordered and stands before fallocate(2); then W comes."""
    with _hold(stage, script.rule, into) as hold:
        zero = await _keep_back(stage, Point.FALLOCATE, script)
        write = stage.guest.send(script.write)
        await stage.until(
            lambda: bool(hold.writes) or stage.waits(write, zero), "the write, neither at the disk nor held off,"
        )
        if hold.writes:
            into.course = await _enter(stage, zero)
            return
    into.course = "the write waited for the zero-write"


async def _write_first(stage: Stage, script: Script, into: Round, _: list[Sent]) -> None:
    """W is in flight; then F comes, whose clusters were allocated before W's."""
    with _hold(stage, script.rule, into) as hold:
        zero = await _keep_back(stage, Point.ZERO_WRITE, script)
        write = stage.guest.send(script.write)
        await stage.until(lambda: bool(hold.writes), "the write at the disk")
        into.course = await _meet(stage, zero, write)


async def _write_fails_first(stage: Stage, script: Script, into: Round, expected_to_fail: list[Sent]) -> None:
    """F waits for a write that fails, and so does not make the file longer; meanwhile W gets past F, which is asleep.

    A request does not wait for one that is itself waiting (bdrv_find_conflicting_request): F has to look again.
    XFS has the second write wait for the first one inside of io_submit(2), since 3136e8bb305 (v4.4), which blocks the
    event loop: the first one is made to fail by a thread.
    """
    first = stage.guest.fresh(script.write.length)
    with contextlib.ExitStack() as stack:
        hold = stack.enter_context(_hold(stage, Rule(prefix(first)), None))
        zero = await _keep_back(stage, Point.ZERO_WRITE, script)
        failing = stage.guest.send(first)
        expected_to_fail.append(failing)
        await stage.until(lambda: bool(hold.writes), "the write at the disk")
        stage.gate.close(Point.FALLOCATE, zero.number)
        stage.gate.open(Point.ZERO_WRITE, zero.number)
        await stage.until(
            lambda: stage.waits(zero, failing) or stage.gate.arrived(Point.FALLOCATE, zero.number), "the zero-write"
        )
        second = stack.enter_context(_hold(stage, script.rule, into))
        with _failing(stage, hold, script):
            write = stage.guest.send(script.write)
            await stage.until(
                lambda: bool(second.writes) or stage.waits(write, zero), "the write, neither at the disk nor held off,"
            )
        hold.fail()
        if second.writes:
            await stage.until(lambda: failing.task.done(), "the end of the write that fails")
            into.course = await _meet(stage, zero, write)
        else:
            into.course = "the write waited for the zero-write"


async def _meet(stage: Stage, zero: Sent, write: Sent) -> str:
    """W is held in flight: let F come, up to fallocate(2) or to waiting for W."""
    stage.gate.close(Point.FALLOCATE, zero.number)
    stage.gate.open(Point.ZERO_WRITE, zero.number)
    await stage.until(
        lambda: stage.waits(zero, write) or stage.gate.arrived(Point.FALLOCATE, zero.number), "the zero-write"
    )
    if stage.waits(zero, write):
        return "the zero-write waited for the write"
    return await _enter(stage, zero)


async def _enter(stage: Stage, zero: Sent) -> str:
    """W is held in flight, F stands before fallocate(2): let it in, and see what it does there."""
    stage.gate.open(Point.FALLOCATE, zero.number)
    await stage.until(lambda: stage.fallocate(zero) is not None, "fallocate")
    entry = stage.fallocate(zero)
    assert entry is not None
    if entry.offset + entry.length <= entry.size_begin:
        # A write through the page cache does that (btrfs, where data has checksums).
        return f"the file system had raised i_size to {entry.size_begin} before the write was on the disk"
    if entry.kind is Kind.EMULATED_FALLOCATE:
        return "the emulated fallocate waited for the write"
    found, returned = await asyncio.to_thread(
        waiting.wait_blocked,
        entry.tid,
        "fallocate",
        SECONDS,
        lambda: bool(entry.seq_end) or stage.over.is_set(),
    )
    if returned:
        return "fallocate returned while the write was in flight"
    if found is None:
        raise _NotBuiltError(f"fallocate, waiting or back, was not seen within {SECONDS:g} s")
    return f"fallocate waited in {found.place} for the write"


async def _together(stage: Stage, script: Script, into: Round) -> None:
    """Without zero-writes there is no F to be placed: both guest writes are sent at once."""
    stage.guest.send(script.zero)
    stage.guest.send(script.write)
    into.course = "both guest writes in flight together, no zero-write"


async def _keep_back(stage: Stage, point: Point, script: Script) -> Sent:
    """Send the write that needs F, and those in between, each when the one before has its clusters."""
    stage.gate.close(point, script.zero.number)
    zero = stage.guest.send(script.zero)
    await stage.until(lambda: stage.gate.arrived(point, zero.number), "the zero-write at the gate")
    for between in script.between:
        stage.gate.close(Point.ZERO_WRITE, between.number)
        number = stage.guest.send(between).number
        await stage.until(lambda n=number: stage.gate.arrived(Point.ZERO_WRITE, n), "an allocation")  # type: ignore[misc]
    return zero


async def _finish(stage: Stage, script: Script, sent: list[Sent]) -> None:
    """Let everything go on, and wait for its end: those in between one by one, so that they do not race themselves."""
    stage.over.set()
    between = {write.number for write in script.between}
    for one in sent:
        if one.number not in between:
            stage.gate.open(Point.ZERO_WRITE, one.number)
            stage.gate.open(Point.FALLOCATE, one.number)
    try:
        await asyncio.gather(*(one.task for one in sent if one.number not in between), return_exceptions=True)
        for one in sent:
            stage.gate.open(Point.ZERO_WRITE, one.number)
            await asyncio.gather(one.task, return_exceptions=True)
    finally:
        stage.gate.open_all()
        stage.over.clear()


@contextlib.contextmanager
def _hold(stage: Stage, rule: Rule, into: Round | None) -> Iterator[Hold]:
    """A rule for the block; how long it held is added to `into`."""
    with stage.held.hold(rule.prefix, length=rule.length, limit=rule.limit) as hold:
        stage.holds.append(hold)
        try:
            yield hold
        finally:
            stage.holds.remove(hold)
            if into is not None and hold.writes:
                into.held_ns += time.monotonic_ns() - hold.writes[0].t_held


@contextlib.contextmanager
def _failing(stage: Stage, hold: Hold, script: Script) -> Iterator[None]:
    """Have what is held fail as soon as the second write has been submitted, whatever the event loop does."""
    stop = threading.Event()

    def submitted() -> bool:
        return any(
            entry.kind is Kind.WRITE and entry.request >> GUEST_SHIFT == script.write.number
            for entry in list(stage.journal.entries)
        )

    def run() -> None:
        while not submitted():
            if stop.wait(_POLL):
                return
        hold.fail()

    with _beside("failing write", run, stop):
        yield


@contextlib.contextmanager
def _watchdog(stage: Stage) -> Iterator[None]:
    """Release everything if the event loop stands still for longer than any round may take."""
    stop = threading.Event()

    def run() -> None:
        if not stop.wait(3 * SECONDS):
            while not stop.wait(0.5):
                for hold in list(stage.holds):
                    hold.release()

    with _beside("held disk watchdog", run, stop):
        yield


@contextlib.contextmanager
def _beside(name: str, run: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """`run` in a thread of its own; it ends when `stop` is set, which leaving this does."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


_ORDERS: dict[Order, Callable[[Stage, Script, Round, list[Sent]], Awaitable[None]]] = {
    Order.ZERO_WRITE_FIRST: _zero_write_first,
    Order.WRITE_FIRST: _write_first,
    Order.WRITE_FAILS_FIRST: _write_fails_first,
}
