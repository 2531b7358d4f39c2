"""The file that describes a campaign, and the cells that it comes to.

    campaign = "nightly"
    [verify]                       # or [explore], [bench]: any of the three, each with what it takes
    kernel = ["host", "debian"]    # a list is an axis: the cells are the product of the axes
    seed = { first = 1, last = 20 }
    writes = 600                   # one value: the same in every cell
    at_once = 2                    # not of the cells, but of how they are run
    timeout = 900

The file is not trusted: it has a limit, whatever it says is checked before anything runs, and what is wrong is named.
"""

import hashlib
import itertools
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.campaign.keys import BASELINE, DEFAULTS, HOST, KERNEL, KEYS, Key, Value, check, keys_of
from tracer.errors import UsageError
from tracer.report.escape import printable

MOST_BYTES = 1 << 20
MOST_CELLS = 100_000

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of campaigns and runs: they become names of directories."""

TIMEOUTS = {"explore": 3600.0, "verify": 1800.0, "bench": 7200.0}
"""Seconds that a cell may take, by default."""

AT_ONCE: dict[str, int | None] = {"explore": None, "verify": 2, "bench": 1}
"""Cells at a time, by default; None: one for each core. bench takes times, and beside another cell wrong ones."""

_BOOT = 600.0
"""Seconds that a VM may take to boot and to end, beside what runs in it."""

_MEMORY = re.compile(r"[0-9]{1,6}[MG]")


@dataclass(frozen=True, slots=True)
class Vm:
    """How the VM is made for cells with another kernel than the host's."""

    memory: str = "5G"
    cpus: int = 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a command. What says what it is, and `key`, do not change with its place in the file."""

    command: str
    options: tuple[tuple[str, Value], ...]
    """Keys of the file and their values, in the order of `KEYS`, `kernel` among them."""
    timeout: float
    """Seconds. Not part of what the cell is."""
    vm: Vm = field(default_factory=Vm)

    @property
    def kernel(self) -> str:
        """The kernel that it runs on, HOST for ours."""
        return str(dict(self.options).get(KERNEL, HOST))

    @property
    def seed(self) -> int:
        """Of the workload, or the schedules."""
        return int(dict(self.options)["seed"])

    @property
    def name(self) -> str:
        """In messages; from the file, so print it with `printable`."""
        return " ".join([self.command, *(f"{name}={value}" for name, value in self.options)])

    @property
    def inner(self) -> list[str]:
        """The eofrace command that judges, without what boots its kernel."""
        values = dict(self.options)
        words = [self.command]
        if self.command == "bench":
            # Ratios are to the first; the baseline by itself is compared with qemu-img alone.
            both = dict.fromkeys([str(values[BASELINE]), str(values.get("strategy", values[BASELINE]))])
            words += [f"--strategy={name}" for name in both]
        for name, value in self.options:
            if name in (KERNEL, BASELINE) or (name == "strategy" and self.command == "bench"):
                continue
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                words += [option] * value
            else:
                words.append(f"{option}={value}")
        if self.command == "explore":
            words.append("--jobs=1")  # the cores are shared among cells
        return [*words, "-q", "--json=-"]

    @property
    def words(self) -> list[str]:
        """What is run, behind `eofrace`."""
        if self.kernel == HOST:
            return self.inner
        boot = [f"--kernel={self.kernel}", f"--memory={self.vm.memory}", f"--cpus={self.vm.cpus}"]
        return ["vm", "run", *boot, f"--timeout={self.timeout:g}", "--", *self.inner]

    @property
    def seconds(self) -> float:
        """After which it is held to hang."""
        return self.timeout if self.kernel == HOST else self.timeout + _BOOT

    @property
    def key(self) -> str:
        """Its name in a store: a hash of what it is and what it runs."""
        what: list[Any] = [self.kernel, self.inner]
        if self.kernel != HOST:
            what += [self.vm.memory, self.vm.cpus]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """For a store."""
        return {"key": self.key, "command": self.command, "options": dict(self.options)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign."""

    name: str
    cells: tuple[Cell, ...]
    at_once: Mapping[str, int | None]
    """Command -> how many of its cells run at a time, None: one for each core."""


def load(path: Path) -> Plan:
    """The plan in a file. Raises UsageError that names the key that is wrong."""
    shown = printable(str(path))
    try:
        # Neither waiting for somebody who opens a pipe's other end, nor reading a device for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{shown}: is no regular file: name a campaign's file")
            text = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown}: {getattr(error, 'strerror', error)}: name a campaign's file") from error
    if len(text) > MOST_BYTES:
        raise UsageError(f"{shown}: larger than {MOST_BYTES} bytes: no campaign's file")
    try:
        data = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"{shown}: not TOML: {printable(str(error))[:200]}") from error
    try:
        return parse(data)
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None


def parse(data: Mapping[str, Any]) -> Plan:
    """The plan in a TOML document. Raises UsageError that names the key that is wrong."""
    _only(data, ("campaign", "vm", *KEYS), "")
    name = data.get("campaign")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError("campaign: give it a name of letters, digits, dots, dashes and underscores, 64 at most")
    commands = [command for command in KEYS if command in data]
    if not commands:
        raise UsageError(f"nothing to run: add a table {', '.join(f'[{command}]' for command in KEYS)}")
    vm = _vm(_table(data, "vm"))
    cells: list[Cell] = []
    for command in commands:
        cells += _cells(command, _table(data, command), vm, MOST_CELLS - len(cells))
    return Plan(name, tuple(cells), {command: _at_once(command, data[command]) for command in commands})


def _cells(command: str, table: Mapping[str, Any], vm: Vm, room: int) -> list[Cell]:
    known = keys_of(command)
    if command == "bench" and "at_once" in table:
        raise UsageError("bench.at_once: cells that take times run one at a time, and nothing beside them")
    _only(table, (*known, "at_once", "timeout"), f"{command}.")
    timeout = table.get("timeout", TIMEOUTS[command])
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 1 <= timeout <= 86400:
        raise UsageError(f"{command}.timeout: seconds, from 1 to 86400")
    given = {**DEFAULTS[command], **table}
    axes = [_axis(known[name], given[name]) for name in known if name in given]
    names = [name for name in known if name in given]
    if math.prod(len(axis) for axis in axes) > room:
        lengths = " x ".join(f"{len(axis)} {name}" for name, axis in zip(names, axes, strict=True) if len(axis) > 1)
        raise UsageError(f"{command}: {lengths}: more than the {MOST_CELLS} cells that a campaign may have")
    cells = [
        Cell(command, tuple(zip(names, values, strict=True)), float(timeout), vm) for values in itertools.product(*axes)
    ]
    for cell in cells:
        check(command, {name: value for name, value in cell.options if name in table})
    return cells


def _axis(key: Key, given: object) -> Sequence[Value]:
    """The values of a key."""
    if isinstance(given, dict):
        return _range(key, given)
    if not isinstance(given, list):
        return (key.value(given),)
    if not given:
        raise UsageError(f"{key.path}: an empty list makes no cell: leave it out, or give it values")
    if len(given) > MOST_CELLS:
        raise UsageError(f"{key.path}: more than the {MOST_CELLS} cells that a campaign may have")
    values = [key.value(one) for one in given]
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            raise UsageError(f"{key.path}: the same value twice, {printable(repr(value))[:60]}")
        seen.add(value)
    return values


def _range(key: Key, given: Mapping[str, Any]) -> Sequence[Value]:
    _only(given, ("first", "last"), f"{key.path}.")
    ends = [given.get("first"), given.get("last")]
    first, last = (key.value(end) for end in ends)
    if not isinstance(first, int) or not isinstance(last, int) or key.name != "seed":
        raise UsageError(f"{key.path}: only seeds can be given as first and last")
    if last < first:
        raise UsageError(f"{key.path}: last is less than first: that makes no cell")
    if last - first >= MOST_CELLS:
        raise UsageError(f"{key.path}: more than the {MOST_CELLS} cells that a campaign may have")
    return range(first, last + 1)


def _at_once(command: str, table: Mapping[str, Any]) -> int | None:
    given = table.get("at_once", AT_ONCE[command])
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 1024):
        raise UsageError(f"{command}.at_once: how many cells run at a time, from 1 to 1024")
    return given


def _vm(table: Mapping[str, Any]) -> Vm:
    _only(table, ("memory", "cpus"), "vm.")
    memory, cpus = table.get("memory", "5G"), table.get("cpus", 2)
    if not isinstance(memory, str) or not _MEMORY.fullmatch(memory):
        raise UsageError('vm.memory: an amount of memory such as "5G" or "3000M"')
    if isinstance(cpus, bool) or not isinstance(cpus, int) or not 1 <= cpus <= 64:
        raise UsageError("vm.cpus: from 1 to 64")
    return Vm(memory, cpus)


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{name}: must be a table, [{name}]")
    return table


def _only(table: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for name in table:
        if name not in known:
            raise UsageError(f"{prefix}{printable(name)[:60]}: no such key: there are {', '.join(known)}")
