"""A schedule told as a numbered story, for people."""

from collections.abc import Iterator, Sequence

from blockstack.fallocate.calls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from blockstack.sim.calls import Call, CallKind
from blockstack.sim.world import Process
from tracer.explore.space import Runs

_MODES = (
    (FALLOC_FL_ZERO_RANGE, "ZERO_RANGE"),
    (FALLOC_FL_PUNCH_HOLE, "PUNCH_HOLE"),
    (FALLOC_FL_KEEP_SIZE, "KEEP_SIZE"),
)


def tell(runs: Runs, choices: Sequence[int]) -> Iterator[str]:
    """A line for each step of a schedule that can be run, until the guest's last request but the final flush ends."""
    world = runs.live()
    guest = runs.space.guest
    names: dict[int, str] = {}
    for step, number in enumerate(choices, 1):
        process = world.processes[number]
        if number == len(guest.actions):
            yield f"{step:3}  the guest's requests have all ended; it flushes (and nothing is left to choose)"
            break
        name = names.setdefault(
            number, _name(process, names, guest.actions[number].word if process.call is None else "")
        )
        what, size, known = process.step_name, world.inode.size, set(world.ended)
        calls = len(world.calls)
        world.take(process)
        line = f"{step:3}  {name}: {what}"
        if world.inode.size != size:
            line += f"; i_size {size} -> {world.inode.size}"
            line += " (it falls)" if world.inode.size < size else ""
        for new in world.processes[len(world.processes) - (len(world.calls) - calls) :]:
            names[new.number] = _name(new, names, "")
            line += f"; asks for {names[new.number]}"
        for ended in sorted(set(world.ended) - known):
            result = world.ended[ended]
            line += f"; {guest.actions[ended].word} is acknowledged" if result == 0 else f"; it fails ({result})"
        yield line
    runs.end()


def _name(process: Process, names: dict[int, str], word: str) -> str:
    if process.call is None:
        return f"guest's {word}"
    if process.call.kind is CallKind.YIELD:
        return "a zero-write, which is late,"
    letters = {
        CallKind.FALLOCATE: "F",
        CallKind.WRITE: "W",
        CallKind.READ: "R",
        CallKind.SYNC: "S",
        CallKind.TRUNCATE: "T",
    }
    letter = letters[process.call.kind]
    number = 1 + sum(name.startswith(letter) for name in names.values())
    return f"{letter}{number} ({_describe(process.call)})"


def _describe(call: Call) -> str:
    span = f"[{call.offset}, {call.behind})"
    match call.kind:
        case CallKind.FALLOCATE:
            mode = "|".join(name for bit, name in _MODES if call.flags & bit) or "plain"
            return f"fallocate {mode} {span}"
        case CallKind.TRUNCATE:
            return f"ftruncate to {call.offset}"
        case CallKind.SYNC | CallKind.YIELD:
            return "fdatasync"
        case CallKind.READ:
            return f"read {span}"
        case CallKind.WRITE:
            return f"write {span}"
