"""`eofrace explore` as a user has it: JSON, exit status, replays, checkpoints, early ends."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tracer.analysis import cluster
from tracer.errors import Status, UsageError
from tracer.explore import image
from tracer.explore.guest import parse
from tracer.explore.replay import load, run_again, write_trace
from tracer.explore.workers import executor
from tracer.trace import read

EOFRACE = [sys.executable, "-c", "from tracer.commands import main; main()"]
REPLAYS = sorted((Path(__file__).parent / "replays").glob("*.json"))

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["schema", "results"],
    "properties": {
        "schema": {"const": "eofrace.explore/1"},
        "results": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": [
                    "strategy",
                    "model",
                    "writes",
                    "schedules",
                    "states",
                    "exhaustive",
                    "outcomes",
                    "counterexample",
                    "verdict",
                ],
                "properties": {
                    "schedules": {"type": "integer", "minimum": 1},
                    "states": {"type": "integer", "minimum": 1},
                    "exhaustive": {"type": "boolean"},
                    "outcomes": {
                        "type": "object",
                        "required": ["safe", "exposed", "lost", "deadlock"],
                        "additionalProperties": {"type": "integer"},
                    },
                    "counterexample": {"type": ["string", "null"]},
                    "verdict": {"enum": ["confirmed", "unsafe", "corrupt", "inconclusive"]},
                },
            },
        },
    },
}


def explore(*words: str) -> "tuple[int, dict[str, Any], str]":
    done = subprocess.run(
        [*EOFRACE, "explore", "--json", "-", *words], capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.fixture(scope="module")
def two_writes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """All strategies on all models, two writes."""
    output = tmp_path_factory.mktemp("kept")
    status, result, _ = explore("-o", str(output))
    assert status == Status.HAZARD
    jsonschema.validate(result, SCHEMA)
    return {(cell["strategy"], cell["model"]): cell for cell in result["results"]}


def test_the_table(two_writes: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert all(cell["exhaustive"] for cell in two_writes.values())
    for strategy in ("serialise", "no-alloc-space"):
        for (name, _), cell in two_writes.items():
            if name == strategy:
                assert cell["verdict"] == "confirmed", cell
    for model, verdict in (("xfs-fixed", "unsafe"), ("xfs-pre-5.5", "corrupt"), ("xfs-pre-4.4", "corrupt")):
        assert two_writes["none", model]["verdict"] == verdict
    for model in ("zfs-11797", "posix-weakest"):
        for strategy in ("none", "serialise-xfs-native", "skip-zero-xfs"):
            assert two_writes[strategy, model]["verdict"] == "corrupt"


def test_rules_and_oracle_agree(two_writes: dict[tuple[str, str], dict[str, Any]]) -> None:
    """On every schedule, also where a punch at the end of ZFS' file frees what lies behind (docs/findings/zfs.md)."""
    assert not {key for key, cell in two_writes.items() if cell["disagreements"]}
    assert two_writes["none", "zfs-11797"]["rules"]["size-going-backwards"] > 0


def test_the_counterexample_is_small_and_kept(two_writes: dict[tuple[str, str], dict[str, Any]]) -> None:
    saved = load(Path(two_writes["none", "xfs-pre-5.5"]["counterexample"]))
    assert saved.outcome == "lost"
    assert parse(saved.guest, saved.cluster_size).writes <= 2


@pytest.mark.parametrize("path", REPLAYS, ids=lambda path: path.stem)
def test_each_kept_schedule_runs_again_bit_by_bit(path: Path, tmp_path: Path) -> None:
    saved = load(path)
    for _ in range(2):
        _, schedule, same = run_again(saved)
        assert same
        assert schedule.outcome == saved.outcome
        assert schedule.wrong == list(saved.wrong_sectors)
    write_trace(tmp_path / "trace.parquet", saved)
    assert len(read(tmp_path / "trace.parquet").ops) >= 2


def test_every_racy_model_has_one() -> None:
    lost = {saved.model for path in REPLAYS if (saved := load(path)).outcome == "lost"}
    assert lost == {"xfs-pre-5.5", "xfs-pre-4.4", "zfs-11797", "posix-weakest"}


@pytest.mark.parametrize("strategy", ["none", "serialise"])
def test_the_zeroing_of_a_gap_is_no_matter_of_strategy(strategy: str) -> None:
    """Every zero-write of that schedule lies before the writes in flight, or within the file: the same under both."""
    (path,) = (path for path in REPLAYS if load(path).outcome == "exposed")
    saved = dataclasses.replace(load(path), strategy=strategy)
    _, schedule, same = run_again(saved)
    assert same
    assert schedule.rules == {"eof-block-zeroing": (1, 0)}


def test_a_schedule_that_was_changed_is_noticed(tmp_path: Path) -> None:
    values = json.loads(REPLAYS[0].read_text())
    values["digest"] = "0" * 64
    other = tmp_path / "other.json"
    other.write_text(json.dumps(values))
    assert not run_again(load(other))[2]
    status, _, complaint = explore("--replay", str(other))
    assert status == Status.USAGE
    assert "another version" in complaint


@pytest.mark.parametrize(
    "change",
    [
        {"choices": [999999]},
        {"choices": [-1]},
        {"choices": ["0"]},
        {"model": "ntfs"},
        {"guest": "rm -rf"},
        {"cluster_size": 3},
        {"strategy": "\x1b[31m"},
        {"more": 1},
    ],
)
def test_a_hostile_schedule_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps({**json.loads(REPLAYS[0].read_text()), **change}))
    with pytest.raises(UsageError):
        run_again(load(path))


@pytest.mark.parametrize("words", ["", "sub", "sub@0>1", "flush@1", "sub@-1", "sub@0 " * 13, "full@0>2 sub@1"])
def test_a_guest_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        parse(words, 4096)


def test_a_limit_is_said(tmp_path: Path) -> None:
    status, result, said = explore("--strategy", "serialise", "--model", "xfs-fixed", "--limit", "20")
    cells = {cell["strategy"]: cell for cell in result["results"]}
    assert not cells["serialise"]["exhaustive"]
    assert cells["serialise"]["verdict"] == "inconclusive"
    assert "stopped early" in cells["serialise"]["reason"]
    assert "stopped early" in said
    assert status == Status.INCONCLUSIVE


def test_random_schedules_come_with_their_bound() -> None:
    words = ("--strategy", "serialise", "--model", "xfs-pre-5.5", "--random", "50", "--seed", "3")
    results = [explore(*words)[1]["results"] for _ in range(2)]
    assert results[0] == results[1]
    cell = next(cell for cell in results[0] if cell["strategy"] == "serialise")
    assert cell["schedules"] == 50
    assert 0.9 < cell["missed_probability"] < 1
    assert cell["verdict"] == "inconclusive"
    assert not cell["exhaustive"]


def test_flushed_data_survives_a_power_failure() -> None:
    words = ("--strategy", "serialise", "--model", "xfs-fixed", "--guest", "sub@0 flush>1 full@1", "--crash")
    cells = {cell["strategy"]: cell for cell in explore(*words)[1]["results"]}
    assert cells["serialise"]["crash_points"] > 20
    assert cells["serialise"]["crash_losses"] == 0


def test_the_first_image_has_no_name_that_a_killed_worker_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        tempfile.mkdtemp()
    assert image.prepared.__wrapped__(512, tight=False) == image.prepared(512, tight=False)


TASKS_AT_ONCE = "from tracer.explore import run; run.SMALL = 1; from tracer.commands import main; main()"
"""Others are asked from the second schedule on, so that a small space is cut into tasks as a large one is."""


def found(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What must not depend on who has searched, nor on how often it was interrupted."""
    names = ("strategy", "model", "schedules", "exhaustive", "outcomes", "rules", "disagreements", "verdict", "reason")
    return [tuple(cell[name] for name in names) for cell in result["results"]]


def test_an_interrupted_search_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    words = ["explore", "--json", "-", "--strategy", "serialise", "--model", "zfs-11797", "--jobs", "1"]
    command = [sys.executable, "-c", TASKS_AT_ONCE, *words, "--checkpoint", str(tmp_path / "c")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while child.poll() is None and not (tmp_path / "c").exists():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGINT
    done = (tmp_path / "c").read_text().splitlines()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    tasks = (tmp_path / "c").read_text().splitlines()
    assert 1 <= len(done) < len(tasks)
    assert tasks[: len(done)] == done
    assert len({json.loads(line)["task"] for line in tasks}) == len(tasks), "nothing was done twice"
    status, whole, _ = explore(*words[3:])
    assert again.returncode == status
    assert found(json.loads(again.stdout)) == found(whole)
    assert all(cell["exhaustive"] for cell in whole["results"])


def test_dask_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'eofrace[dask]'")
    words = ["explore", "--json", "-", "--model", "zfs-11797", "--strategy", "serialise"]
    with cluster.local(2) as workers:
        address = workers._client.scheduler.address
        command = [sys.executable, "-c", TASKS_AT_ONCE, *words, "--scheduler", address]
        spread = subprocess.run(
            [*command, "--checkpoint", str(tmp_path / "c")], capture_output=True, text=True, timeout=120, check=False
        )
    status, whole, _ = explore(*words[3:])
    assert spread.returncode == status, spread.stderr
    assert found(json.loads(spread.stdout)) == found(whole)
    assert len((tmp_path / "c").read_text().splitlines()) > 64, "it was done in parts"


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECTING", 0.5)
    with pytest.raises(UsageError, match="no Dask scheduler answers"), executor(1, "tcp://127.0.0.1:1"):
        pass
