"""`eofrace verify` on kernel evidence: real XFS, real eBPF."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest

from tests.tracer.begun import wait_until_begun
from tests.tracer.left_behind import what_stays
from tests.tracer.verify.schema import VERIFY
from tests.tracer.verify.test_verify import EOFRACE, PROTECTING, cells, eofrace
from tracer import trace
from tracer.analysis.losses import lost_ranges
from tracer.errors import Status
from tracer.operations import WRITES

pytestmark = pytest.mark.root

LEFT_BEHIND = """select count(*) from read_parquet(?) where seq_end is null"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]", Path]:
    """One full matrix on kernel evidence: JSON, process, output directory."""
    output = tmp_path_factory.mktemp("verify")
    where = ("--json", str(output / "out.json"), "-o", str(output / "kept"))
    done = eofrace("verify", "--evidence", "kernel", "--writes", "1000", *where, timeout=600)
    return json.loads((output / "out.json").read_text()), done, output / "kept"


def test_the_json_is_the_contracts(run: tuple[dict[str, Any], Any, Path]) -> None:
    jsonschema.validate(run[0], VERIFY)
    assert {(cell["fs"], cell["aio"], cell["evidence"]) for cell in run[0]["cells"]} == {("xfs", "native", "kernel")}
    assert run[0]["mechanisms"]


def test_the_controls_show_the_hazard_and_the_others_are_confirmed(run: tuple[dict[str, Any], Any, Path]) -> None:
    report, done, _ = run
    found = cells(report)
    legacy, kernel = found["none", "legacy-xfs"], found["none", "kernel"]
    assert legacy["verdict"] == "corrupt"
    assert legacy["lost_bytes"] == legacy["lost_bytes_traced"] > 0
    assert legacy["lost"] > 0
    assert kernel["verdict"] in ("unsafe", "corrupt")  # corrupt: this kernel is racy itself
    assert kernel["exposed"] > 0
    for strategy in PROTECTING:
        for fallocate in ("kernel", "legacy-xfs"):
            cell = found[strategy, fallocate]
            assert cell["verdict"] == "confirmed", cell["reason"]
            assert cell["conflicts"] >= 50
            assert cell["lost_events"] == cell["unfinished"] == cell["unaccounted"] == 0
            assert cell["exposed"] == cell["lost"] == cell["lost_bytes"] == 0
    assert done.returncode == Status.OK


def test_conflicts_were_kept_apart_in_the_kernel(run: tuple[dict[str, Any], Any, Path]) -> None:
    for (strategy, _), cell in cells(run[0]).items():
        if strategy in ("serialise", "serialise-xfs-native"):
            assert cell["min_gap_ns"] > 0
        elif strategy == "none":
            assert cell["min_gap_ns"] < 0
        else:
            assert cell["min_gap_ns"] is None


def test_the_traces_are_whole(run: tuple[dict[str, Any], Any, Path]) -> None:
    for cell in run[0]["cells"]:
        recorded = trace.read(cell["trace"])
        ops = recorded.ops
        assert not (ops["seq_end"] == 0).any()
        writes = ops[[op in WRITES for op in ops["op"]]]
        assert len(writes) >= cell["guest_writes"]
        assert (writes["request"] != 0).all()
        assert (writes["result"] == writes["length"]).all()
        lost = lost_ranges(ops, int(ops["dev"][0]), int(ops["ino"][0]))
        assert bool(len(lost)) == (cell["lost"] > 0)
        (unfinished,) = duckdb.execute(LEFT_BEHIND, [cell["trace"]]).fetchall()[0]
        assert unfinished == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("after", [0.05, 0.8, 3.5])
def test_a_run_that_is_ended_leaves_nothing(number: signal.Signals, after: float, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    environment = {**os.environ, "TMPDIR": str(images)}
    words = [*EOFRACE, "verify", "--evidence", "kernel", "-o", str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_until_begun(process.pid)
        time.sleep(after)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), stderr
    assert "Traceback" not in stderr
    assert os.listdir(images) == []
    assert what_stays(images) == []


def test_kernel_evidence_is_refused_without_bpf(tmp_path: Path) -> None:
    """Root without CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN: as in a container."""
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    words = [*drop, *EOFRACE, "verify", "--evidence", "kernel"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Status.UNSUPPORTED
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("eofrace:")]) == 1


def test_without_privileges_it_falls_back_and_says_so(tmp_path: Path) -> None:
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    words = [*drop, *EOFRACE, "verify", "--strategy", "serialise", "--fallocate", "legacy-xfs"]
    words += ["--writes", "500"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == Status.OK, done.stdout + done.stderr
    assert "evidence: driver" in done.stdout
    assert "note: " in done.stdout


def test_io_uring() -> None:
    """Writes are linked by their user_data. RFC option 1 acts on aio=native alone: here it is a second control."""
    done = eofrace("verify", "--evidence", "kernel", "--aio", "io_uring", "--writes", "500", "--json", "-", timeout=600)
    found = cells(json.loads(done.stdout))
    for strategy in set(PROTECTING) - {"serialise-xfs-native"}:
        for fallocate in ("kernel", "legacy-xfs"):
            cell = found[strategy, fallocate]
            assert (cell["verdict"], cell["unaccounted"], cell["aio"]) == ("confirmed", 0, "io_uring"), cell["reason"]
    for strategy in ("none", "serialise-xfs-native"):
        assert found[strategy, "legacy-xfs"]["verdict"] == "corrupt"
        assert found[strategy, "legacy-xfs"]["lost_bytes"] == found[strategy, "legacy-xfs"]["lost_bytes_traced"] > 0
        assert found[strategy, "kernel"]["exposed"] > 0
    assert done.returncode == Status.HAZARD
