"""A campaign that is killed at any moment ends as one left alone does, and does no finished cell again."""

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tracer.campaign.test_records import explored
from tracer.analysis import cluster
from tracer.campaign import status, table
from tracer.campaign.plan import load
from tracer.campaign.store import Store, opened
from tracer.errors import Status, UsageError

MARK = "EOFRACE_TEST_CAMPAIGN"

LOGGING = """
import os, sys
from tracer.campaign import cell, nursery, run, store

LOG = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def watched(start, job, real=cell.watched):
    os.write(LOG, " ".join(job.words).encode() + b"\\n")
    return real(start, job)

cell.watched = nursery.watched = watched
if sys.argv[1] == "forgetful":
    sys.argv.pop(1)
    remembered = store.Run.finished
    store.Run.finished = lambda self, key: remembered(self, key) if int(key, 16) % 2 else None
from tracer.commands import main
main()
"""
"""The command, which writes each cell that it starts into a file."""


def campaign(path: Path, seeds: int, **more: str) -> Path:
    lines = [f"{name} = {value}" for name, value in more.items()]
    text = f"""
        campaign = "proof"
        [explore]
        strategy = ["serialise", "no-alloc-space"]
        model = ["xfs-fixed", "xfs-pre-5.5"]
        guest = "sub@0"
        limit = 20
        seed = {{ first = 1, last = {seeds} }}
        """
    path.write_text("\n".join([text, *lines]))
    return path


def start(*words: str, log: Path, mark: str = "", how: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LOGGING, str(log), *how, "campaign", *words],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: str, log: Path, wanted: int = 0) -> str:
    process = start(*words, log=log)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == wanted, stdout + stderr
    return stdout


def eofrace(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from tracer.commands import main; main()", "campaign", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def finished(directory: Path) -> set[str]:
    """Keys of the finished cells of all runs, by their files alone."""
    return {path.stem for path in directory.glob("runs/*/cells/*.json") if not path.name.startswith(".")}


def results(directory: Path) -> pa.Table:
    return pq.read_table(directory / "results.parquet").drop_columns(list(table.VOLATILE))


def marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def gone(mark: str) -> bool:
    """Whether all processes that inherited a mark end within some seconds."""
    deadline = time.monotonic() + 20
    while marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def killed_again_and_again(file: Path, directory: Path, log: Path, kills: int, how: tuple[str, ...] = ()) -> None:
    """Run a campaign, kill it at random moments, and see that no start in the log is of a cell that had finished."""
    keys = {" ".join(cell.words): cell.key for cell in load(file).cells}
    seed = secrets.randbelow(2**31)
    chosen = random.Random(seed)
    print(f"moments of seed {seed}")
    for left in reversed(range(kills + 1)):
        before, mark = finished(directory), secrets.token_hex(8)
        log.write_text("")
        process = start(str(file), "-o", str(directory), "-q", log=log, mark=mark, how=how)
        if left:
            enough = len(before) + chosen.randrange(max(1, (len(keys) - len(before)) // left))
            while len(finished(directory)) < enough and process.poll() is None:
                time.sleep(0.002)
            time.sleep(chosen.random() * 0.2)
            process.kill()
        _, stderr = process.communicate(timeout=300)
        assert gone(mark), "a process of the campaign's has outlived it"
        again = before & {keys[line] for line in log.read_text().splitlines()}
        assert not again, f"{len(again)} finished cells were run again"
        assert before <= finished(directory), "a finished cell is lost"
        if left:
            assert process.returncode == -signal.SIGKILL, "it was to be killed, and had ended"
        else:
            assert process.returncode == Status.INCONCLUSIVE, stderr
    assert finished(directory) == set(keys.values())


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_table(tmp_path: Path) -> None:
    file, alone, killed = campaign(tmp_path / "c.toml", 50), tmp_path / "alone", tmp_path / "killed"
    run(str(file), "-o", str(alone), "-q", log=tmp_path / "log", wanted=Status.INCONCLUSIVE)
    assert len((tmp_path / "log").read_text().splitlines()) == len(finished(alone)) == 200
    killed_again_and_again(file, killed, tmp_path / "killed.log", 5)
    assert results(killed).num_rows >= 200
    assert results(killed).equals(results(alone))
    times = [pq.read_table(one / "results.parquet", columns=["started"]) for one in (alone, killed)]
    assert not times[0].equals(times[1]), "they are not the same file"


def test_a_store_that_forgets_is_found_out(tmp_path: Path) -> None:
    file = campaign(tmp_path / "c.toml", 10)
    with pytest.raises(AssertionError, match="finished cells were run again"):
        killed_again_and_again(file, tmp_path / "killed", tmp_path / "log", 3, how=("forgetful",))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of eight cells, its file small.toml beside it, that has run once."""
    path = tmp_path_factory.mktemp("small")
    file = campaign(path / "small.toml", 2)
    run(str(file), "-q", log=path / "log", wanted=Status.INCONCLUSIVE)
    return path / "small.campaign"


def test_again_it_does_nothing_and_new_it_adds_to_the_history(small: Path, tmp_path: Path) -> None:
    file, log = small.with_suffix(".toml"), tmp_path / "log"
    log.write_text("")
    text = run(str(file), log=log, wanted=Status.INCONCLUSIVE)
    assert "8 of 8 cells finished" in text
    assert max(map(len, text.splitlines())) <= 80
    assert log.read_text() == ""
    before = pq.read_table(small / "results.parquet")
    run(str(file), "--run", "later", "-q", log=log, wanted=Status.INCONCLUSIVE)
    run(str(file), "--run", "later", "-q", log=log, wanted=Status.INCONCLUSIVE)
    after = pq.read_table(small / "results.parquet")
    assert len(log.read_text().splitlines()) == 8
    assert after.slice(0, before.num_rows).equals(before), "history is kept"
    assert sorted(set(after["run"].to_pylist())) == ["1", "later"]
    done = eofrace("compare", str(small), "--json", "-")
    found = json.loads(done.stdout)
    assert (found["worse"], found["old"], found["new"]) == (0, f"{small}@1", f"{small}@later")
    assert done.returncode == 0
    assert "nothing got worse" in done.stderr


def test_a_campaign_that_grows_does_what_is_new(small: Path, tmp_path: Path) -> None:
    log, directory = tmp_path / "log", tmp_path / "d"
    one, two = campaign(tmp_path / "1.toml", 1), campaign(tmp_path / "2.toml", 2)
    for file in (one, two):
        log.write_text("")
        run(str(file), "-o", str(directory), "-q", log=log, wanted=Status.INCONCLUSIVE)
        assert len(log.read_text().splitlines()) == 4
    assert results(directory).equals(results(small).slice(0, results(directory).num_rows))
    done = eofrace(str(one), "-o", str(directory))
    assert done.returncode == 2
    assert "4 cells of run 1 are not in the campaign's file any more" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: int) -> None:
    file, directory, mark = campaign(tmp_path / "c.toml", 400), tmp_path / "d", secrets.token_hex(8)
    process = start(str(file), "-o", str(directory), log=tmp_path / "log", mark=mark)
    while len(finished(directory)) < 3:
        time.sleep(0.01)
    refused = eofrace(str(file), "-o", str(directory))
    assert refused.returncode == 2
    assert "a campaign is running there" in refused.stderr
    assert json.loads(eofrace("status", str(directory), "--json", "-").stdout)["running"]
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stderr.count("\n") == 1, stderr
    assert gone(mark)
    assert len(set(pq.read_table(directory / "results.parquet")["cell"].to_pylist())) == len(finished(directory))
    done = eofrace("status", str(directory))
    assert done.returncode == Status.INCONCLUSIVE
    assert "the same command again does what is left" in done.stdout


def test_a_cell_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    file, directory, log = tmp_path / "c.toml", tmp_path / "d", tmp_path / "log"
    file.write_text(
        'campaign = "c"\n[explore]\nguest = "sub@0"\nstrategy = "none"\n[verify]\nkernel = "/no\\u001b[2J image"\n'
    )
    for _ in range(2):
        log.write_text("")
        text = run(str(file), "-o", str(directory), log=log, wanted=Status.INCONCLUSIVE)
        assert "error: verify kernel=/no\\x1b[2J image" in text.replace("\n  ", " ")
        assert "1 of 2 cells finished" in text
    assert len(log.read_text().splitlines()) == 1, "the one that is finished is not run again"
    verdicts = pq.read_table(directory / "results.parquet")["verdict"].to_pylist()
    assert verdicts.count("error") == 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "d", "proof") as store:
        yield store


def test_status(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run yet"):
        store.run(None)
    plan = load(campaign(tmp_path / "c.toml", 1))
    run = store.begin(None, plan, version="v", host_kernel="k", started="s")
    assert status.of(run).status is Status.INCONCLUSIVE
    keys = [cell.key for cell in plan.cells]
    for cell in plan.cells:
        run.put(cell.key, record("safe", **dict(cell.options)))
    assert status.of(run).status is Status.OK
    options = dict(plan.cells[0].options)
    run.put(keys[0], record("exposed", **options) | {"exit": 1})
    assert status.of(run).status is Status.HAZARD
    for half in (b"", b'{"schema": "eofra'):
        (run.path / "cells" / f"{keys[0]}.json").write_bytes(half)
        assert run.finished(keys[0]) is None, "half a file is no finished cell"
    failed = {name: value for name, value in record("safe", **options).items() if name != "result"}
    run.put_error(keys[0], {**failed, "exit": 4, "error": "no btrfs", "stderr": ""})
    assert status.of(run).status is Status.UNSUPPORTED
    assert status.of(run).counts["explore"] == {"fine": 3, "error": 1}


def record(outcome: str, *, strategy: Any, model: Any, **_: Any) -> dict[str, Any]:
    """Of a cell of explore in which the control shows the hazard, and the strategy that outcome."""
    result = {
        **{"schema": "eofrace.explore/1", "seed": 1},
        "results": [{**explored("none", "exposed"), "model": model}, {**explored(strategy, outcome), "model": model}],
    }
    words = dict.fromkeys(("started", "host", "host_kernel", "version"), "x")
    return {**words, "words": [], "took": 1.0, "exit": 0, "result": result}


def test_an_unfinished_run_of_another_eofrace_is_not_gone_on_with(tmp_path: Path) -> None:
    file = campaign(tmp_path / "c.toml", 1)
    with opened(tmp_path / "d", "proof") as store:
        store.begin("old", load(file), version="0.0", host_kernel="k", started="s")
    done = eofrace(str(file), "-o", str(tmp_path / "d"))
    assert done.returncode == 2
    assert "run old was begun with eofrace 0.0" in done.stderr
    assert "--new" in done.stderr


def test_a_run_that_was_killed_before_it_was_one_may_be_begun(tmp_path: Path) -> None:
    plan = load(campaign(tmp_path / "c.toml", 1))
    facts = {"version": "v", "host_kernel": "k", "started": "s"}
    with opened(tmp_path / "d", "proof") as store:
        (tmp_path / "d/runs/1/cells").mkdir(parents=True)
        assert store.runs() == []
        assert store.begin(None, plan, **facts).name == "1"
        assert store.begin(None, plan, **facts).name == "2"


def test_foreign_directories(tmp_path: Path) -> None:
    file, foreign = campaign(tmp_path / "c.toml", 1), tmp_path / "f"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with opened(tmp_path / "other", "other"):
        pass
    for words, message in (
        ((str(file), "-o", str(foreign)), "not empty, and not the directory of a campaign"),
        ((str(file), "-o", str(tmp_path / "other")), "the directory of the campaign other, not proof"),
        (("status", str(foreign)), "not the directory of a campaign"),
        (("status", str(tmp_path / "gone")), "no such campaign"),
        (("status", str(file)), "no such campaign"),
        (("compare", str(foreign), str(foreign)), "not the directory of a campaign"),
        ((str(file), "--run", "../x"), "--run: letters"),
        ((), "name a campaign's file"),
    ):
        done = eofrace(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_dask_has_the_same_table_and_ends_with_the_campaign(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'eofrace[dask]'")
    with cluster.local(2) as workers:
        address = ("--scheduler", workers._client.scheduler.address)
        run(str(small.with_suffix(".toml")), "-o", str(tmp_path / "d"), "-q", *address, log=tmp_path / "log",
            wanted=Status.INCONCLUSIVE)  # fmt: skip
        assert results(tmp_path / "d").equals(results(small).slice(0, results(tmp_path / "d").num_rows))
        assert len(finished(tmp_path / "d")) == 8

        mark = secrets.randbelow(2**60)
        endless = tmp_path / "endless.toml"
        endless.write_text(f'campaign = "e"\n[explore]\nguest = "growth"\nwrites = 6\nseed = {mark}\n')
        process = start(str(endless), *address, log=tmp_path / "log")
        while not seen(mark):
            time.sleep(0.05)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 30
        while seen(mark):
            assert time.monotonic() < deadline, "a worker goes on with what nobody wants"
            time.sleep(0.05)


def seen(seed: int) -> bool:
    """Whether a process runs a cell of this seed."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--seed={seed}\0".encode() in path.read_bytes():
                return True
    return False
