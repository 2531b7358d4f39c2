"""Kernels x strategies x file systems: a boot for each kernel, probe and verify inside, one table out of their JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracer.errors import EofraceError, Status
from tracer.vm import kvm, machine
from tracer.vm.build import VARIANTS
from tracer.vm.image import Kernel

SCHEMA = "eofrace.matrix/1"

PROBE_SECONDS = 1800.0
VERIFY_SECONDS = 3600.0

_CONTROL = "none"
_MODES = ("plain", "zero-range", "keep-size")

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every kernel. `strategies` may be empty: all of them."""

    file_systems: tuple[str, ...]
    strategies: tuple[str, ...]
    writes: int
    seed: int
    memory: str = "5G"
    cpus: int = 2


@dataclass(slots=True)
class Column:
    """What one kernel showed: the JSON of `probe`, and of `verify` by file system; or why it could not."""

    name: str
    release: str
    probe: dict[str, Any] | None = None
    verify: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """What the table calls it: a file by what it holds."""
        return self.name if self.name in ("debian", *VARIANTS) else self.release

    def to_json(self) -> dict[str, Any]:
        """As `vm matrix --json` shows it."""
        return {
            "name": self.name,
            "release": self.release,
            "probe": self.probe,
            "verify": self.verify,
            "errors": self.errors,
        }


def run(kernel: Kernel, plan: Plan, note: Note) -> Column:
    """Boot one kernel, and run all of the plan in it. What goes wrong is in the column, not an exception."""
    column = Column(kernel.name, kernel.release)
    try:
        accelerated = bool(kvm.prove(kernel).works)
        with machine.boot(kernel, memory=plan.memory, cpus=plan.cpus, kvm=accelerated) as guest:
            column.release = guest.release
            note(f"{kernel.name} ({guest.release}): probe")
            words = [word for fs in plan.file_systems for word in ("--fs", fs)]
            column.probe = _json_of(guest, ["probe", *words, "-q", "--json", "-"], PROBE_SECONDS, column)
            for fs in plan.file_systems:
                note(f"{kernel.name} ({guest.release}): verify on {fs}")
                words = [word for strategy in plan.strategies for word in ("--strategy", strategy)]
                words += ["--fs", fs, "--fallocate", "kernel", "--writes", str(plan.writes), "--seed", str(plan.seed)]
                found = _json_of(guest, ["verify", *words, "-q", "--json", "-"], VERIFY_SECONDS, column)
                if found is not None:
                    column.verify[fs] = found
    except EofraceError as error:
        column.errors.append(str(error))
    return column


def _json_of(guest: machine.Machine, words: Sequence[str], seconds: float, column: Column) -> dict[str, Any] | None:
    done = guest.eofrace(words, timeout=seconds)
    try:
        data = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        column.errors.append(f"{words[0]}: exit {done.status}: {said[-1].removeprefix('eofrace: ')}")
        return None
    return data if isinstance(data, dict) else None


def status(columns: Sequence[Column]) -> Status:
    """1 if a protecting strategy is unsafe or corrupt anywhere, 3 if something is missing or inconclusive, else 0."""
    worst = Status.OK if columns else Status.INCONCLUSIVE
    for column in columns:
        cells = [cell for found in column.verify.values() for cell in found["cells"]]
        verdicts = [str(cell["verdict"]) for cell in cells if cell["strategy"] != _CONTROL]
        if any(verdict in ("unsafe", "corrupt") for verdict in verdicts):
            return Status.HAZARD
        if column.errors or not verdicts or any(verdict != "confirmed" for verdict in verdicts):
            worst = Status.INCONCLUSIVE
    return worst


def to_json(plan: Plan, columns: Sequence[Column]) -> dict[str, Any]:
    """The whole matrix."""
    return {
        "schema": SCHEMA,
        "seed": plan.seed,
        "writes": plan.writes,
        "file_systems": list(plan.file_systems),
        "kernels": [column.to_json() for column in columns],
    }


def table(plan: Plan, columns: Sequence[Column]) -> str:
    """Plain text for a mail: a column for each kernel, a block of rows for each file system."""
    rows: list[tuple[str, ...]] = [("", *(column.heading for column in columns))]
    for fs in plan.file_systems:
        rows.append((fs, *("" for _ in columns)))
        rows += [(f"  fallocate {mode}", *(_probed(column, fs, mode) for column in columns)) for mode in _MODES]
        rows += [
            (f"  {name}", *(_verified(column, fs, name) for column in columns)) for name in _strategies(columns, fs)
        ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    lines += [f"{column.name}: Linux {column.release}" for column in columns if column.heading == column.name]
    lines.append(
        f"{plan.writes} guest writes a cell, seed {plan.seed}; (n): pairs of zero-write and write that lost data"
    )
    lines += [
        f"{column.heading} on {fs}: evidence by the driver's own clock, the kernel was not watched"
        for column in columns
        for fs, found in column.verify.items()
        if any(cell.get("evidence") == "driver" for cell in found["cells"])
    ]
    lines += [f"{column.heading}: {error}" for column in columns for error in column.errors]
    return "\n".join(lines) + "\n"


def _strategies(columns: Sequence[Column], fs: str) -> list[str]:
    found = (cell["strategy"] for column in columns for cell in column.verify.get(fs, {}).get("cells", []))
    return list(dict.fromkeys(str(name) for name in found))


def _probed(column: Column, fs: str, mode: str) -> str:
    for each in (column.probe or {}).get("results", []):
        if (each["fs"], each["mode"]) == (fs, mode):
            return str(each["verdict"])
    return "?"


def _verified(column: Column, fs: str, strategy: str) -> str:
    for cell in column.verify.get(fs, {}).get("cells", []):
        if cell["strategy"] == strategy:
            return f"{cell['verdict']} ({cell['lost']})" if cell["lost"] else str(cell["verdict"])
    return "?"
