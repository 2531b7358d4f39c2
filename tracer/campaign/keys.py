"""What a campaign's file may say of a command: its keys, and which values they take.

A key is an option of the command without its dashes and with _ for -: `cluster_size` is --cluster-size. What it takes
is what click lets the option take, so that a file is refused for what the command would refuse, before anything runs.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from blockstack.strategies import CONTROL
from tracer.bench import workload
from tracer.errors import UsageError
from tracer.explore import guest
from tracer.report.escape import printable
from tracer.verify.options import refuse_with_held

Value = str | int | float | bool
"""What a key is in one cell."""

KERNEL = "kernel"
HOST = "host"
"""The kernel that is no VM's."""

BASELINE = "baseline"
"""Of bench: the strategy that the others are compared with. Not an option, as bench takes the first it is told."""

KEYS: dict[str, tuple[str, ...]] = {
    "explore": (
        *("strategy", "model", "guest", "writes", "cluster_size", "seed"),
        *("random", "limit", "crash", "late"),
    ),
    "verify": (
        *(KERNEL, "strategy", "fs", "aio", "cluster_size", "seed", "fallocate", "format", "writes"),
        *("evidence", "held"),
    ),
    "bench": (
        *(KERNEL, "strategy", "fs", "aio", "cluster_size", "seed", "workload", "count", "depth", "block_size"),
        *("step", "offset", "read_mix", "random", "delay", "budget", "precision", BASELINE),
    ),
}
"""Command -> its keys, in the order in which cells vary. Commands are in the order in which they run: bench is last."""

WORDS = (KERNEL, "strategy", "fs", "aio", "model", "guest", "workload", "fallocate")
NUMBERS = ("cluster_size", "seed", "writes")
"""Keys that have a column in the table: texts, and whole numbers."""

DEFAULTS: dict[str, dict[str, Value]] = {
    # Without one every run of a cell would draw another, and no two runs could be compared.
    "explore": {"seed": 1},
    "verify": {KERNEL: HOST, "seed": 1},
    "bench": {KERNEL: HOST, "seed": 1, BASELINE: CONTROL},
}

_KERNELS = (HOST, "debian", "racy", "stock")
_LONGEST = 1000  # characters of a value


@dataclass(frozen=True, slots=True)
class Key:
    """A key of one command."""

    command: str
    name: str
    option: click.Option | None
    """None: `kernel` and `baseline`, which are no options."""

    @property
    def path(self) -> str:
        """As messages call it."""
        return f"{self.command}.{self.name}"

    def value(self, given: object) -> Value:
        """`given` as the command takes it. Raises UsageError that names the key."""
        if isinstance(given, str) and (len(given) > _LONGEST or "\0" in given):
            raise UsageError(f"{self.path}: a value of more than {_LONGEST} characters, or with a NUL in it")
        if self.option is None:
            return self._special(given)
        kind = self.option.type
        if self.option.is_flag:
            if not isinstance(given, bool):
                raise UsageError(f"{self.path}: {_shown(given)} is not true or false")
            return given
        if isinstance(kind, click.types.IntParamType):
            wanted, what = isinstance(given, int), "an integer"
        elif isinstance(kind, click.types.FloatParamType):
            wanted, what = isinstance(given, (int, float)) and math.isfinite(given), "a number"
        elif isinstance(kind, click.Choice) and all(str(choice).isdigit() for choice in kind.choices):
            wanted, what = isinstance(given, int), "an integer"
        else:
            wanted, what = isinstance(given, str), "a string"
        if not wanted or isinstance(given, bool):
            raise UsageError(f"{self.path}: {_shown(given)} is not {what}")
        try:
            converted: Any = kind.convert(str(given) if isinstance(kind, click.Choice) else given, self.option, None)
        except click.BadParameter as error:
            raise UsageError(f"{self.path}: {printable(error.message.rstrip('.'))}") from None
        if isinstance(kind, click.Choice):
            return int(converted) if isinstance(given, int) else str(converted)
        assert isinstance(converted, (str, int, float))
        return converted

    def _special(self, given: object) -> str:
        if not isinstance(given, str):
            raise UsageError(f"{self.path}: {_shown(given)} is not a string")
        if self.name == BASELINE:
            return str(keys_of(self.command)["strategy"].value(given))
        if given not in _KERNELS and (not given.startswith("/") or ".." in given.split("/")):
            names = ", ".join(_KERNELS)
            raise UsageError(f"{self.path}: {_shown(given)} is none of {names} and not the full path of an image")
        return given


def keys_of(command: str) -> dict[str, Key]:
    """The keys of a command by name, in their order."""
    found = getattr(importlib.import_module(f"tracer.commands.{command}"), command)
    assert isinstance(found, click.Command)
    options = {name: one for one in found.params if isinstance(one, click.Option) for name in one.opts}
    return {
        name: Key(command, name, None if name in (KERNEL, BASELINE) else options[f"--{name.replace('_', '-')}"])
        for name in KEYS[command]
    }


def check(command: str, options: Mapping[str, Any]) -> None:
    """What a command would say of its options together. Raises UsageError, with the command's name."""
    try:
        _CHECKS[command](options)
    except UsageError as error:
        raise UsageError(f"{command}: {error}") from None


def _explore(options: Mapping[str, Any]) -> None:
    guest.chosen(options.get("guest", guest.NAMES[0]), options.get("writes", 2), options.get("cluster_size", 4096))


def _verify(options: Mapping[str, Any]) -> None:
    if options.get("held"):
        refuse_with_held(options.keys(), options.get("format", "qcow2"))


def _bench(options: Mapping[str, Any]) -> None:
    own = ("count", "depth", "block_size", "step", "offset", "read_mix")
    workload.chosen(
        [options["workload"]] if "workload" in options else [],
        options.get("cluster_size", workload.CLUSTER),
        shuffled=options.get("random", False),
        **{name: options[name] for name in own if name in options},
    )


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {"explore": _explore, "verify": _verify, "bench": _bench}


def _shown(given: object) -> str:
    """A value from a file in a message: short, and on one line."""
    text = printable(repr(given))
    return text if len(text) <= 60 else text[:57] + "..."
