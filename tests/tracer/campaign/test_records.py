"""What somebody has changed in a campaign's directory is named, with the file: it is never reported as it stands."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tracer.bench import made as bench
from tests.tracer.reference.documents import check
from tests.tracer.report import made
from tracer.campaign import compare, records, run, status, table
from tracer.campaign.cell import Outcome
from tracer.campaign.plan import Cell, parse
from tracer.campaign.store import Run, Store, opened
from tracer.commands import main
from tracer.errors import Status, UsageError
from tracer.explore import verdict

Json = dict[str, Any]
Change = Callable[[Json], object]

PLAN = {
    "campaign": "c",
    "verify": {"strategy": "serialise", "fs": "xfs"},
    "explore": {"strategy": "serialise", "model": "xfs-fixed"},
    "bench": {"strategy": "serialise", "workload": "random"},
}


def explored(strategy: str, outcome: str) -> Json:
    outcomes = dict.fromkeys(("safe", "exposed", "lost", "deadlock"), 0) | {outcome: 9}
    found = verdict.verdict_of(outcomes, 0, exhaustive=True).value
    return {
        **{"strategy": strategy, "model": "xfs-fixed", "guest": "sub@0", "schedules": 9, "states": 40},
        **{"exhaustive": True, "outcomes": outcomes, "crash_losses": 0, "verdict": found, "reason": "because"},
    }


RESULTS: dict[str, Json] = {
    "verify": {
        **{"schema": "eofrace.verify/1", "seed": 1, "verdict": "confirmed", "reason": "all is well"},
        "cells": [
            made.control(name="none x kernel"),
            made.cell("confirmed", name="serialise x kernel", control=False),
        ],
    },
    "explore": {
        **{"schema": "eofrace.explore/1", "seed": 1},
        "results": [explored("none", "exposed"), explored("serialise", "safe")],
    },
    "bench": bench.result(bench.measured("random", 12)),
}


@pytest.fixture
def kept(tmp_path: Path) -> Run:
    """A run of three cells, finished and fine, each kept as the campaign keeps it."""
    plan = parse(PLAN)
    with opened(tmp_path / "c.campaign", "c") as store:
        found = store.begin(None, plan, version="v", host_kernel="k", started="s")
        for cell in plan.cells:
            assert run.keep(found, cell, outcome(RESULTS[cell.command]))
        table.write(store)
    return found


def outcome(result: Json) -> Outcome:
    return Outcome(0, json.dumps(result).encode(), "", None, "2026-01-01T00:00:00", 1.5, "host", "6.1.0", "v")


def cell_of(command: str) -> Cell:
    return next(cell for cell in parse(PLAN).cells if cell.command == command)


def file_of(kept: Run, command: str) -> Path:
    return kept.path / "cells" / f"{cell_of(command).key}.json"


def changed(path: Path, change: Change, *, bound: bool) -> None:
    """Edit a record; `bound`: by somebody who knows of the digest."""
    record = json.loads(path.read_text())
    change(record)
    if bound:
        record["digest"] = records.digest(record)
    path.write_text(json.dumps(record))


def eofrace(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["campaign", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_what_nobody_touched_is_fine_and_as_documented(kept: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert status.of(kept).status is Status.OK
    directory = kept.path.parents[1]
    assert eofrace("status", str(directory), "--json", "-") == 0
    check("campaign-status", json.loads(capfd.readouterr().out))
    assert eofrace("compare", str(directory), str(directory), "--json", "-") == 0
    check("campaign-comparison", json.loads(capfd.readouterr().out))
    check("campaign-run", json.loads((kept.path / "run.json").read_text()))
    kept.put_error(cell_of("bench").key, {**failed(), "error": "no btrfs", "stderr": ""})
    for kind, name in (("cells", "campaign-cell"), ("errors", "campaign-error")):
        for path in (kept.path / kind).glob("*.json"):
            check(name, json.loads(path.read_text()))


def failed() -> Json:
    words = ("started", "host", "host_kernel", "version")
    return {**dict.fromkeys(words, "x"), "words": [], "exit": 4, "took": 1}


@pytest.mark.parametrize("command", RESULTS)
def test_one_that_was_edited_is_named(kept: Run, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = file_of(kept, command)
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text), indent=2))
    assert status.of(kept).status is Status.OK, "the same in another layout"
    changed(path, lambda record: record.update(took=3), bound=False)
    for words in (("status",), ("compare", str(kept.path.parents[1]))):
        assert eofrace(*words, str(kept.path.parents[1]), "-q") == Status.USAGE
        told = capfd.readouterr().err
        assert f"{path}: it is not as it was written" in told
        assert "delete it and run the campaign again" in told
    path.write_text(text)
    assert status.of(kept).status is Status.OK


def _cell(number: int, **more: Any) -> Change:
    return lambda record: record["result"]["cells"][number].update(more)


def _both(record: Json, **more: Any) -> None:
    for cell in record["result"]["cells"]:
        cell.update(more)


def _explored(number: int, **more: Any) -> Change:
    return lambda record: record["result"]["results"][number].update(more)


def _measured(change: Change) -> Change:
    return lambda record: change(record["result"]["workloads"][0])


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        # Types.
        ("verify", lambda record: record.update(took="x"), "took: 'x' is not of type 'number'"),
        ("verify", lambda record: record.update(exit=None), "exit: None is not of type 'integer'"),
        ("verify", lambda record: record.pop("version"), "'version' is a required property"),
        ("verify", lambda record: record.update(schema="eofrace.campaign.cell/1"), "its schema is"),
        ("verify", lambda record: record.update(result=[]), "result: .* is not of type 'object'"),
        ("verify", lambda record: record["result"].update(cells=[]), r"cells: \[\] should be non-empty"),
        ("verify", _cell(1, exposed="0"), r"cells\[1\].exposed: '0' is not of type 'integer'"),
        ("verify", _cell(1, verdict="fine"), r"cells\[1\].verdict: 'fine' is not one of"),
        ("verify", _cell(1, lost_bytes=1 << 70), "has more than 64 bits"),
        ("explore", _explored(1, outcomes={}), "'safe' is a required property"),
        ("bench", _measured(lambda one: one.update(rounds="12")), "rounds: '12' is not of type"),
        # Of another cell.
        ("verify", lambda record: record["options"].update(fs="ext4"), "it is of another cell"),
        ("verify", lambda record: record["result"].update(seed=2), "of another seed"),
        ("verify", _cell(1, fs="ext4"), "has no control beside it"),
        ("verify", lambda record: _both(record, fs="ext4"), "nothing in its result is of what it was asked for"),
        ("bench", _measured(lambda one: one["sides"].pop(1)), "is compared with .*, which has no times"),
        # A verdict that is not that of the numbers.
        ("verify", _cell(1, lost=1), "serialise x kernel: .* its numbers say otherwise: lost 1"),
        ("verify", _cell(1, conflicts=2), "confirmed by 2 conflicts"),
        ("verify", _cell(0, exposed=0), "none x kernel: it is said to be unsafe, and no pair was exposed"),
        ("verify", _cell(1, verdict="unsafe", exposed=3), "which its recordings do not bear out"),
        ("verify", lambda record: record["result"]["cells"].pop(0), "has no control beside it"),
        ("explore", _explored(1, exhaustive=False), "its numbers say inconclusive"),
        ("explore", _explored(1, crash_losses=1), "its numbers say corrupt"),
        ("explore", _explored(1, schedules=0), "0 schedules, and the outcomes of 9"),
        ("explore", lambda record: record["result"]["results"].pop(1), "nothing in its result is of what"),
        ("bench", _measured(lambda one: one.update(rounds=13)), "13 rounds, and its times are not of as many"),
        ("bench", _measured(lambda one: one["sides"][1]["seconds"].__setitem__(0, 0)), "are not of as many"),
        ("bench", _measured(lambda one: one["sides"][1]["compared"]["none"].update(ratio=0.5)), "said to take 0.5"),
        ("bench", lambda record: record["result"].update(baseline="serialise"), "its baseline is serialise"),
        ("explore", lambda record: record.update(exit=3), "its result means exit status 0, and it ended with 3"),
    ],
)
def test_one_that_does_not_bear_itself_out_is_named(kept: Run, command: str, change: Change, message: str) -> None:
    """Also if the digest is right."""
    path = file_of(kept, command)
    changed(path, change, bound=True)
    with pytest.raises(UsageError, match=message) as caught:
        status.of(kept)
    assert str(path) in str(caught.value)


def test_a_result_that_does_not_bear_itself_out_is_not_kept(kept: Run) -> None:
    result = copy.deepcopy(RESULTS["verify"])
    result["cells"][1]["exposed"] = 5
    assert not run.keep(kept, cell_of("verify"), outcome(result))
    told = kept.error(cell_of("verify").key)
    assert told is not None
    assert "exposed 5" in told["error"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "no record of a campaign"),
        ('{"took": NaN}', "NaN is no number of JSON"),
        ('{"took": 1e999}', "1e999 is no number of JSON"),
        ('{"took": ' + "9" * 5000 + "}", "more than 64 bits"),
        ("[]", "its schema is"),
        ('{"schema": "x\\u001b[2J"}', r"its schema is"),
    ],
)
def test_what_is_no_record_is_named(kept: Run, text: str, message: str) -> None:
    file_of(kept, "bench").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        status.of(kept)
    assert str(caught.value).isprintable()


def test_half_a_file_is_no_finished_cell(kept: Run) -> None:
    path = file_of(kept, "bench")
    path.write_bytes(path.read_bytes()[:300])
    assert status.of(kept).counts["bench"] == {"unfinished": 1}
    assert status.of(kept).status is Status.INCONCLUSIVE


def test_a_cell_under_another_name_is_named(kept: Run) -> None:
    file_of(kept, "verify").write_bytes(file_of(kept, "explore").read_bytes())
    with pytest.raises(UsageError, match="it is of another cell"):
        status.of(kept)


def replaced_by_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda path: path.unlink(), "there are cells of that run, and this cannot be read"),
        (lambda path: path.write_text("{"), "there are cells of that run, and this cannot be read"),
        (lambda path: changed(path, lambda data: data.update(number=0), bound=True), "number: 0 is less than"),
        (lambda path: changed(path, lambda data: data.update(started="later"), bound=False), "not as it was written"),
        (lambda path: changed(path, lambda data: data["cells"].pop(), bound=True), "run 1 has no such cell"),
        (lambda path: (path.unlink(), path.mkdir()), "a directory, not a regular file"),
        (replaced_by_a_fifo, "a FIFO, not a regular file"),
        (
            lambda path: changed(path, lambda data: data["cells"][0]["options"].clear(), bound=True),
            "'seed' is a required",
        ),
        (
            lambda path: changed(path, lambda data: data.update(schema="eofrace.campaign.run/1"), bound=True),
            "another version of eofrace made it",
        ),
    ],
)
def test_a_run_that_cannot_be_read_does_not_disappear(
    kept: Run, tmp_path: Path, how: Callable[[Path], object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    later = Store(tmp_path / "c.campaign").begin("later", parse(PLAN), version="v", host_kernel="k", started="s")
    assert [one.name for one in Store(tmp_path / "c.campaign").runs()] == ["1", "later"]
    how(kept.path / "run.json")
    for words in ("status", "compare"):
        assert eofrace(words, str(tmp_path / "c.campaign"), "-q") == Status.USAGE
        assert message in capfd.readouterr().err
    assert later.path.is_dir()


def test_what_is_no_run_is_passed_over(kept: Run, tmp_path: Path) -> None:
    (tmp_path / "c.campaign" / "runs" / "README").write_text("ours")
    assert [one.name for one in Store(tmp_path / "c.campaign").runs()] == ["1"]


@pytest.mark.parametrize("name", ["campaign.json", "results.parquet"])
def test_a_fifo_keeps_nobody_waiting(kept: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.campaign" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError):
        Store(path.parent) if name == "campaign.json" else table.read(path)


@pytest.mark.parametrize("command", ["verify", "explore"])
def test_a_result_of_something_else_is_not_kept(kept: Run, command: str) -> None:
    """Also if each word that was asked for is somewhere in it."""
    result = copy.deepcopy(RESULTS[command])
    cells = result["cells" if command == "verify" else "results"]
    key, value = ("fs", "ext4") if command == "verify" else ("model", "xfs-pre-5.5")
    cells[1:] = [{**cells[0], key: value, "name": "another"}, {**cells[1], key: value}]
    assert not run.keep(kept, cell_of(command), outcome(result))
    told = kept.error(cell_of(command).key)
    assert told is not None
    assert "nothing in its result is of what it was asked for" in told["error"]


@pytest.mark.parametrize("number", ["NaN", "1e999", "9" * 30])
def test_numbers_that_nobody_else_reads_end_the_cell_and_not_the_campaign(kept: Run, number: str) -> None:
    text = json.dumps({**RESULTS["explore"], "more": 12345}).replace("12345", number)
    end = Outcome(0, text.encode(), "", None, "2026-01-01T00:00:00", 1.5, "host", "6.1.0", "v")
    assert not run.keep(kept, cell_of("explore"), end)


def test_two_runs_of_one_number_are_named(kept: Run, tmp_path: Path) -> None:
    later = Store(tmp_path / "c.campaign").begin("later", parse(PLAN), version="v", host_kernel="k", started="s")
    changed(later.path / "run.json", lambda data: data.update(number=1), bound=True)
    with pytest.raises(UsageError, match="it has the number of run"):
        Store(tmp_path / "c.campaign").runs()


def test_a_campaign_stops_at_what_was_edited_before_it_runs_anything(kept: Run, tmp_path: Path) -> None:
    changed(file_of(kept, "verify"), lambda record: record.update(exit=1), bound=False)
    before = sorted(tmp_path.rglob("*"))
    plan = parse(PLAN)
    with pytest.raises(UsageError, match="not as it was written"):
        run.campaign(plan, run.Options(tmp_path / "c.campaign", new=True), lambda _: None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_table_tells_of_a_run_without_results(kept: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "c.campaign")
    store.begin("empty", parse(PLAN), version="v", host_kernel="k", started="s")
    path = table.write(store)
    for reference in (str(path), str(store.path)):
        name, rows = compare.load(reference)
        assert (name, rows) == (f"{reference}@empty", [])
        found = compare.compare(compare.load(reference, before=1), (name, rows))
        assert len(found.only_old) == 3
        assert found.status is Status.INCONCLUSIVE


def test_a_table_that_was_edited_is_named(kept: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.campaign" / "results.parquet"
    found, runs = table.read(path)
    assert runs == ["1"]
    there = pq.read_table(path)
    pq.write_table(there.slice(1), tmp_path / "less.parquet")
    with pytest.raises(UsageError, match="not as it was written"):
        table.read(tmp_path / "less.parquet")
    odd = [{**row, "verdict": "fine"} for row in found]
    pq.write_table(table.made(odd, runs), tmp_path / "odd.parquet")
    with pytest.raises(UsageError, match="a verdict that no campaign has"):
        table.read(tmp_path / "odd.parquet")
    pq.write_table(table.made(found, ["2"]), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="a run or a verdict that no campaign has"):
        table.read(tmp_path / "other.parquet")
    pq.write_table(there.replace_schema_metadata({**there.schema.metadata, b"eofrace.runs": b"{"}), tmp_path / "bad")
    with pytest.raises(UsageError, match="not the table of a campaign"):
        table.read(tmp_path / "bad")
