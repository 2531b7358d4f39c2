"""`eofrace verify` on driver evidence, as somebody without any privilege runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest

from tests.tracer.verify.schema import VERIFY
from tracer import trace
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.errors import Status

EOFRACE = [sys.executable, "-c", "from tracer.commands import main; main()"]
PROTECTING = ("serialise-xfs-native", "skip-zero-xfs", "no-alloc-space", "serialise")


def eofrace(*words: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*EOFRACE, *words], capture_output=True, text=True, timeout=timeout, check=False)


def one_line(stderr: str) -> str:
    """The error message: a single line, and no traceback."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith(("eofrace:", "Error:"))]
    assert len(lines) == 1, stderr
    return lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]", Path]:
    """One full matrix on driver evidence: JSON, process, output directory."""
    output = tmp_path_factory.mktemp("verify")
    done = eofrace(
        *("verify", "--evidence", "driver", "--seed", "5", "--writes", "800"),
        *("--json", str(output / "out.json"), "-o", str(output / "kept")),
    )
    return json.loads((output / "out.json").read_text()), done, output / "kept"


def cells(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(cell["strategy"], cell["fallocate"]): cell for cell in report["cells"]}


def test_the_json_is_the_contracts(run: tuple[dict[str, Any], Any, Path]) -> None:
    jsonschema.validate(run[0], VERIFY)
    assert len(cells(run[0])) == 10


def test_the_controls_show_the_hazard_and_the_others_are_confirmed(run: tuple[dict[str, Any], Any, Path]) -> None:
    report, done, _ = run
    found = cells(report)
    legacy, kernel = found["none", "legacy-xfs"], found["none", "kernel"]
    assert (legacy["verdict"], kernel["verdict"]) == ("corrupt", "unsafe")
    assert legacy["lost_bytes"] == legacy["lost_bytes_traced"] > 0
    assert kernel["exposed"] > 0
    assert kernel["lost"] == kernel["lost_bytes"] == 0
    for strategy in PROTECTING:
        for fallocate in ("kernel", "legacy-xfs"):
            cell = found[strategy, fallocate]
            assert cell["verdict"] == "confirmed", cell["reason"]
            assert cell["conflicts"] >= 50
            assert cell["lost_events"] == cell["exposed"] == cell["lost"] == cell["lost_bytes"] == 0
    assert report["verdict"] == "confirmed"
    assert done.returncode == Status.OK


def test_driver_evidence_is_said_and_what_to_do_for_more(run: tuple[dict[str, Any], Any, Path]) -> None:
    report, done, _ = run
    assert {cell["evidence"] for cell in report["cells"]} == {"driver"}
    assert "evidence: driver" in done.stdout
    assert "eofrace doctor" in done.stdout


def test_the_strategies_differ_in_what_they_issue(run: tuple[dict[str, Any], Any, Path]) -> None:
    found = cells(run[0])
    for fallocate in ("kernel", "legacy-xfs"):
        for strategy in ("skip-zero-xfs", "no-alloc-space"):
            assert found[strategy, fallocate]["zero_writes"] == found[strategy, fallocate]["waits"] == 0
        for strategy in ("serialise", "serialise-xfs-native"):
            assert found[strategy, fallocate]["zero_writes"] == found["none", fallocate]["zero_writes"] > 0
            assert found[strategy, fallocate]["waits"] > 0


def test_every_trace_says_what_the_table_says(run: tuple[dict[str, Any], Any, Path]) -> None:
    report, _, kept = run
    for cell in report["cells"]:
        recorded = trace.read(cell["trace"])
        assert Path(cell["trace"]).parent == kept
        assert recorded.meta.seed == 5
        assert recorded.meta.strategy == cell["strategy"]
        assert len(RULE.pairs(recorded.ops).first) == cell["exposed"]
    assert json.loads((kept / "verify.json").read_text()) == report


def test_the_trace_opens_in_duckdb(run: tuple[dict[str, Any], Any, Path]) -> None:
    path = cells(run[0])["none", "legacy-xfs"]["trace"]
    query = "select count(*) from read_parquet(?) where op = 'aio_write' and result = length and t_end >= t_begin"
    (count,) = duckdb.execute(query, [path]).fetchall()[0]
    assert count >= 800


def test_the_control_always_runs(tmp_path: Path) -> None:
    words = ("--strategy", "serialise", "--fallocate", "legacy-xfs", "--writes", "500", "--json", "-")
    done = eofrace("verify", "--evidence", "driver", *words)
    report = json.loads(done.stdout)
    assert [cell["strategy"] for cell in report["cells"]] == ["none", "serialise"]
    assert done.returncode == Status.OK


def test_the_control_alone_claims_nothing_of_others() -> None:
    words = ("--strategy", "none", "--fallocate", "legacy-xfs", "--writes", "300", "--json", "-")
    done = eofrace("verify", "--evidence", "driver", *words)
    report = json.loads(done.stdout)
    assert done.returncode == Status.OK
    assert [cell["verdict"] for cell in report["cells"]] == ["corrupt"]
    assert "no protecting strategy was run" in report["reason"]


def test_too_few_conflicts_confirm_nothing() -> None:
    done = eofrace("verify", "--evidence", "driver", "--strategy", "serialise", "--writes", "4", "--json", "-")
    report = json.loads(done.stdout)
    assert done.returncode == Status.INCONCLUSIVE
    assert report["verdict"] == "inconclusive"


def test_small_clusters_grow_refcount_blocks_as_well() -> None:
    words = ("--cluster-size", "4096", "--fallocate", "legacy-xfs", "--writes", "800", "--json", "-")
    done = eofrace("verify", "--evidence", "driver", *words)
    report = json.loads(done.stdout)
    assert report["verdict"] == "confirmed", report["reason"]


def test_a_strategy_for_xfs_alone_protects_nothing_elsewhere(tmp_path: Path) -> None:
    """On a directory that was asked for, nothing stands in for XFS: the thread's last question, answered."""
    if fs_of(tmp_path) == "xfs":
        pytest.skip("the temporary directory lies on XFS")
    words = ("--strategy", "serialise-xfs-native", "--fallocate", "kernel", "--dir", str(tmp_path))
    done = eofrace("verify", "--evidence", "driver", *words, "--writes", "500", "--json", "-")
    found = cells(json.loads(done.stdout))
    assert found["serialise-xfs-native", "kernel"]["verdict"] == "unsafe"
    assert done.returncode == Status.HAZARD


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--strategy", "nonsense"), Status.USAGE, "nonsense"),
        (("--fs", "fat12"), Status.USAGE, "fat12"),
        (("--writes", "-5"), Status.USAGE, "-5"),
        (("--writes", "1000000000"), Status.USAGE, "1000000000"),
        (("--seed", "x"), Status.USAGE, "x"),
        (("--aio", "posix"), Status.USAGE, "posix"),
        (("--dir", "/nonexistent"), Status.USAGE, "/nonexistent"),
        (("--dir", "/etc/passwd"), Status.USAGE, "/etc/passwd"),
        (("--dir", "/proc"), Status.USAGE, "/proc"),
        (("--json", "/nonexistent/out.json"), Status.USAGE, "/nonexistent"),
        (("-o", "/proc/nothing"), Status.USAGE, "/proc/nothing"),
        (("--no-such-option",), Status.USAGE, "no-such-option"),
        (("superfluous",), Status.USAGE, "superfluous"),
    ],
)
def test_trouble_is_one_line(words: tuple[str, ...], status: Status, says: str) -> None:
    done = eofrace("verify", "--evidence", "driver", *words, timeout=60)
    assert done.returncode == status, done.stderr
    assert says in one_line(done.stderr)
    assert done.stdout == ""


def test_a_directory_on_another_file_system_is_refused(tmp_path: Path) -> None:
    other = "btrfs" if fs_of(tmp_path) != "btrfs" else "ext4"
    done = eofrace("verify", "--evidence", "driver", "--fs", other, "--dir", str(tmp_path))
    assert done.returncode == Status.USAGE
    assert fs_of(tmp_path) in one_line(done.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    output.mkdir()
    earlier = {"none-kernel.parquet": "of an earlier run", "verify.json": "its own"}
    for name, text in earlier.items():
        (output / name).write_text(text)
    words = [
        "verify",
        "--evidence",
        "driver",
        "--dir",
        str(images),
        "-o",
        str(output),
        "--json",
        str(tmp_path / "out.json"),
    ]
    with subprocess.Popen([*EOFRACE, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first cell is done: the second is running
        time.sleep(0.2)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in stderr
    assert os.listdir(images) == []
    assert not (tmp_path / "out.json").exists()
    assert {path.name: path.read_text() for path in output.iterdir()} == earlier


def fs_of(path: Path) -> str:
    from tracer.lab.scratch import filesystem_of

    return filesystem_of(path)
