"""What a cell has shown: its JSON, checked against its exit status and against what was asked, and made rows of.

A cell counts as finished only if all of that fits together. Whatever does not is an error: it is kept to be looked at,
it is never green, and the next run of the campaign does the cell again.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blockstack.strategies import CONTROL
from tracer.analysis.hazards import Verdict
from tracer.bench import stored
from tracer.bench.sides import QEMU
from tracer.bench.statistics import ROUNDS, estimate
from tracer.bench.stored import seconds_of
from tracer.campaign.cell import Outcome
from tracer.campaign.keys import BASELINE
from tracer.campaign.plan import Cell
from tracer.campaign.shapes import RESULTS
from tracer.documents import NumberError, misfit, parse
from tracer.errors import Status
from tracer.explore.verdict import verdict_of
from tracer.report.source import Recording, Source
from tracer.report.standing import assess_all, concluded

Row = dict[str, Any]
"""Columns of tracer/campaign/table.py that a cell's JSON fills."""

MEASURED = "measured"
ERROR = "error"
"""Verdicts of a campaign beside those of `Verdict`: enough rounds of bench, and a cell that came to nothing."""

COUNTS = (
    *("conflicts", "exposed", "kernel_serialised", "lost", "lost_bytes", "corrupt_clusters", "waits"),
    *("lost_events", "unfinished", "schedules", "states", "deadlock", "crash_losses"),
)
"""Columns of numbers: those of verify as it names them, those of explore likewise."""

VERDICTS = (MEASURED, ERROR, *(verdict.value for verdict in Verdict))
"""All that a row can have."""


class UnfitError(Exception):
    """A cell that has not shown anything; the message says why."""


def result(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """The JSON of a cell that is finished. Raises `UnfitError` for any other."""
    if outcome.error is not None:
        raise UnfitError(outcome.error)
    if outcome.exit not in (Status.OK, Status.HAZARD, Status.INCONCLUSIVE):
        ended = f"signal {-outcome.exit}" if outcome.exit < 0 else f"exit status {outcome.exit}"
        raise UnfitError(_last_line(outcome.stderr) or f"it ended with {ended} and said nothing")
    try:
        data = parse(outcome.stdout)
    except NumberError as error:
        raise UnfitError(f"its JSON is no result: {error}") from None
    except (ValueError, RecursionError):
        said = _last_line(outcome.stderr)
        raise UnfitError(f"it printed no JSON{f': {said}' if said else ''}") from None
    fit(cell.command, dict(cell.options), outcome.exit, data)
    assert isinstance(data, dict)
    return data


def fit(command: str, options: Mapping[str, Any], status: int, data: object) -> None:
    """Raise `UnfitError` for a result that is not of its schema, of something else than was asked for, or not of one
    piece: its verdict must be that of its own numbers, and the exit status that of its verdict.
    """
    wrong = misfit(data, RESULTS[command])
    if wrong:
        raise UnfitError(f"its result is not {RESULTS[command]['properties']['schema']['const']}: {wrong}")
    assert isinstance(data, Mapping)
    if data["seed"] != options["seed"]:
        raise UnfitError("its result is of another seed")
    wrong = _BELIED[command](options, data)
    if wrong:
        raise UnfitError(f"its result does not bear itself out: {wrong}")
    found = list(rows(command, options, data))
    asked = {name: options[name] for name in _ASKED[command] if name in options}.items()
    if not any(all(row.get(name) == value for name, value in asked) for row in _subjects(command, data)):
        raise UnfitError("nothing in its result is of what it was asked for")
    meant = _STATUS[command](data, found)
    if meant != status:
        raise UnfitError(f"its result means exit status {int(meant)}, and it ended with {status}")


def rows(command: str, options: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a result that is fit."""
    yield from _ROWS[command](options, data)


def _verify(options: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Row]:
    for cell in data["cells"]:
        yield {
            "row": str(cell["name"]),
            "subject": str(cell["strategy"]),
            "control": bool(cell["control"]),
            "kernel_release": str(cell["kernel"]),
            "verdict": Verdict(cell["verdict"]).value,
            "reason": str(cell["reason"]),
            **{name: int(cell[name]) for name in COUNTS if cell.get(name) is not None},
        }


def _explore(options: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Row]:
    for cell in data["results"]:
        numbers = {**cell, **cell["outcomes"]}
        yield {
            "row": f"{cell['strategy']} x {cell['model']}: {cell['guest']}",
            "subject": str(cell["strategy"]),
            "control": cell["strategy"] == CONTROL,
            "verdict": Verdict(cell["verdict"]).value,
            "reason": str(cell["reason"]),
            **{name: int(numbers[name]) for name in COUNTS if name in numbers},
        }


def _bench(options: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Row]:
    """Of each strategy beside the baseline, and of the baseline beside qemu-img bench."""
    baseline = options[BASELINE]
    for measured in data["workloads"]:
        seconds = seconds_of(measured)
        for side in measured["sides"]:
            name = str(side["side"])
            if name == QEMU:
                continue
            peer = QEMU if name == baseline else baseline
            row: Row = {
                "row": f"{measured['workload']['name']}: {name}",
                "subject": name,
                "control": False,
                "kernel_release": str(data["host"]["kernel"]),
                "verdict": MEASURED if measured["rounds"] >= ROUNDS else Verdict.INCONCLUSIVE.value,
                "reason": f"{measured['rounds']} rounds, {measured['stopped']}",
                "rounds": int(measured["rounds"]),
            }
            if peer in seconds:
                found = estimate(seconds[name], seconds[peer])
                ratios = [ours / theirs for ours, theirs in zip(seconds[name], seconds[peer], strict=True)]
                row |= {"ratio": found.ratio, "low": found.low, "high": found.high, "peer": peer, "ratios": ratios}
            yield row


_ASKED = {"verify": ("strategy", "fs", "aio", "fallocate"), "explore": ("strategy", "model"), "bench": ("strategy",)}
"""Command -> keys of which the result must have what was asked for."""


def _subjects(command: str, data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a result is of, each with the names of `_ASKED`."""
    if command == "bench":
        return [{"strategy": side["side"]} for measured in data["workloads"] for side in measured["sides"]]
    return list(data["cells" if command == "verify" else "results"])


def _verify_belied(options: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """As `report` looks at a verify.json, without traces; empty: it is borne out."""
    recordings = tuple(
        Recording(cell["name"], Verdict(cell["verdict"]), cell["reason"], cell["control"], cell, None, None)
        for cell in data["cells"]
    )
    source = Source(Path(), data, Verdict(data["verdict"]), data["reason"], recordings)
    assessed = assess_all(source)
    for recording, one in zip(recordings, assessed, strict=True):
        if one.contradicted:
            return f"{recording.name}: {one.reason}"
    verdict, reason = concluded(source, assessed)
    return "" if verdict is source.verdict else reason


def _explore_belied(options: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    for cell in data["results"]:
        outcomes = cell["outcomes"]
        verdict = verdict_of(outcomes, cell["crash_losses"], exhaustive=cell["exhaustive"])
        name = f"{cell['strategy']} x {cell['model']}"
        if verdict.value != cell["verdict"]:
            return f"{name}: it is said to be {cell['verdict']}, and its numbers say {verdict.value}"
        if sum(outcomes.values()) != cell["schedules"] or not cell["schedules"]:
            return f"{name}: {cell['schedules']} schedules, and the outcomes of {sum(outcomes.values())}"
    return ""


def _bench_belied(options: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    if data["baseline"] != options.get(BASELINE):
        return f"its baseline is {data['baseline']}, not {options.get(BASELINE)}"
    return stored.belied(data)


_BELIED: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]] = {
    "verify": _verify_belied,
    "explore": _explore_belied,
    "bench": _bench_belied,
}
"""Command -> where a result's numbers are not those of its verdict, in a phrase; empty: nowhere."""


def _verify_status(data: Mapping[str, Any], found: list[Row]) -> Status:
    return Verdict(data["verdict"]).status


def _explore_status(data: Mapping[str, Any], found: list[Row]) -> Status:
    """As tracer.explore.run.Report.status."""
    verdicts = [Verdict(row["verdict"]) for row in found if not row["control"]]
    silent = (Verdict.CONFIRMED, Verdict.INCONCLUSIVE)
    if any(row["control"] and row["verdict"] in silent for row in found):
        verdicts.append(Verdict.INCONCLUSIVE)
    return max(verdicts, key=lambda verdict: verdict.rank).status if verdicts else Status.OK


def _bench_status(data: Mapping[str, Any], found: list[Row]) -> Status:
    return Status.OK if all(row["verdict"] == MEASURED for row in found) else Status.INCONCLUSIVE


_ROWS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[Row]]] = {
    "verify": _verify,
    "explore": _explore,
    "bench": _bench,
}
_STATUS: dict[str, Callable[[Mapping[str, Any], list[Row]], Status]] = {
    "verify": _verify_status,
    "explore": _explore_status,
    "bench": _bench_status,
}


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("eofrace: ")[:500] if lines else ""
