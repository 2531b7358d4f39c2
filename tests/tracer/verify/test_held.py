"""`eofrace verify --held`: schedules that are chosen, on real XFS, ext4 and btrfs; and the mutants that they catch."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from blockstack.strategies import STRATEGIES
from tests.tracer.begun import wait_until_begun
from tests.tracer.left_behind import what_stays
from tests.tracer.verify.mutants import HELD_MUTANTS
from tests.tracer.verify.runs import SILENT, options
from tests.tracer.verify.schema import VERIFY
from tests.tracer.verify.test_verify import EOFRACE, PROTECTING, eofrace, one_line
from tracer import trace
from tracer.analysis.hazards import Verdict
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.errors import Status, UnsupportedError
from tracer.lab import children
from tracer.lab.held import HeldDiskError
from tracer.verify.held import matrix as held_matrix
from tracer.verify.held.cases import CASES, Order

NAMES = [case.name for case in CASES]

Cells = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(autouse=True)
def held_disk() -> None:
    """Skips where there is no held disk."""
    for command in ("nbdkit", "nbdfuse"):
        needs(command)


def cells(report: dict[str, Any]) -> Cells:
    return {(cell["strategy"], cell["fallocate"], cell["case"]): cell for cell in report["cells"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]", Path]:
    """One run with the defaults: JSON, process, output directory."""
    output = tmp_path_factory.mktemp("held")
    done = eofrace("verify", "--held", "--json", str(output / "out.json"), "-o", str(output / "kept"), timeout=600)
    assert done.returncode == Status.OK, done.stdout + done.stderr
    return json.loads((output / "out.json").read_text()), done, output / "kept"


@pytest.mark.root
@pytest.mark.slow
class TestRun:
    def test_the_json_is_the_contracts(self, run: tuple[dict[str, Any], Any, Path]) -> None:
        jsonschema.validate(run[0], VERIFY)
        assert len(cells(run[0])) == 5 * 2 * len(CASES)
        assert {cell["case"] for cell in run[0]["cells"]} == set(NAMES)
        assert json.loads((run[2] / "verify.json").read_text()) == run[0]

    def test_every_cell(self, run: tuple[dict[str, Any], Any, Path]) -> None:
        assert run[0]["verdict"] == "confirmed", run[0]["reason"]
        for (strategy, fallocate, _), cell in cells(run[0]).items():
            assert cell["unfinished"] == cell["unaccounted"] == cell["lost_events"] == 0
            if strategy == "none":
                assert cell["verdict"] == "corrupt" if fallocate == "legacy-xfs" else "unsafe"
                continue
            assert cell["verdict"] == "confirmed", cell["reason"]
            assert cell["exposed"] == cell["lost"] == cell["lost_bytes"] == 0
            assert cell["conflicts"] == len(cell["rounds"])

    @pytest.mark.parametrize("case", CASES, ids=NAMES)
    def test_the_control_exposes_and_loses_the_pair_of_every_round(
        self, run: tuple[dict[str, Any], Any, Path], case: Any
    ) -> None:
        found = cells(run[0])
        for fallocate in ("kernel", "legacy-xfs"):
            cell = found["none", fallocate, case.name]
            assert [one["order"] for one in cell["rounds"]] == [order.value for order in case.orders]
            assert cell["exposed"] >= cell["conflicts"] == len(case.orders)
            assert cell["held_ms"] > 0
            assert not [one for one in cell["rounds"] if one["problem"]]
        legacy, kernel = found["none", "legacy-xfs", case.name], found["none", "kernel", case.name]
        assert kernel["lost"] == kernel["lost_bytes"] == 0
        if kernel["evidence"] == "kernel":
            assert kernel["kernel_serialised"] == kernel["exposed"]
        assert legacy["lost"] >= len(case.orders)
        assert legacy["lost_bytes"] == legacy["lost_bytes_traced"]
        assert bool(legacy["lost_bytes"]) is case.guest_data

    def test_the_traces(self, run: tuple[dict[str, Any], Any, Path]) -> None:
        assert len(list(run[2].glob("*.parquet"))) == len(run[0]["cells"])
        for cell in run[0]["cells"]:
            assert Path(cell["trace"]).name == f"{cell['strategy']}-{cell['fallocate']}-{cell['case']}.parquet"
        for cell in run[0]["cells"][:5]:
            assert len(RULE.pairs(trace.read(cell["trace"]).ops).first) == cell["exposed"]

    def test_the_table_says_what_was_chosen(self, run: tuple[dict[str, Any], Any, Path]) -> None:
        text = run[1].stdout
        assert "on a held disk" in text
        assert "--seed" not in text
        assert "fallocate waited in inode_dio_wait" in text
        for name in NAMES:
            assert re.search(rf"^ *serialise +legacy-xfs +{name} .* confirmed", text, re.MULTILINE)


def judge_mutants(
    aio: str | None, evidence: str, fallocates: tuple[str, ...] = ("kernel", "legacy-xfs")
) -> dict[tuple[str, str, str], Verdict]:
    strategies = (*HELD_MUTANTS, STRATEGIES["serialise"])
    wanted = options(*strategies, fallocates=fallocates, aio=aio, evidence=evidence, writes=1, held=True)
    report = held_matrix.run(wanted, SILENT)
    return {(cell.strategy, cell.fallocate, cell.case or ""): cell.judgement.verdict for cell in report.cells}


MISSES = {
    "mutant-serialises-nothing": set(),
    "mutant-forgets-metadata": {"data", "far"},
    "mutant-stretches-one-cluster": {"l2-table", "refcount-block"},  # both in the next cluster
    "mutant-stretches-32-clusters": {"data", "l2-table", "refcount-block"},
    "mutant-waits-only": set(),
    "mutant-holds-off-only": set(),
    "mutant-waits-once": {"far", "l2-table", "refcount-block"},  # one write in flight each
}
"""Cases in which a mutant is as good as the right thing. In all others it is caught, for certain, in either column."""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("aio", "wrong"),
    [
        ("native", {"kernel": Verdict.UNSAFE, "legacy-xfs": Verdict.CORRUPT}),
        pytest.param("threads", {"kernel": Verdict.UNSAFE}, marks=pytest.mark.long),
    ],
)
def test_mutants_are_caught_where_they_are_wrong_and_nowhere_else(aio: str, wrong: dict[str, Verdict]) -> None:
    verdicts = judge_mutants(aio, "auto", tuple(wrong))
    expected = {
        (name, fallocate, case): Verdict.CONFIRMED if case in misses else wrong[fallocate]
        for name, misses in {**MISSES, "serialise": set(NAMES)}.items()
        for fallocate in wrong
        for case in NAMES
    }
    assert {key: verdict for key, verdict in verdicts.items() if key[0] != "none"} == expected


def needs(command: str) -> None:
    try:
        children.find(command)
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.mark.root
@pytest.mark.slow
def test_ext4() -> None:
    """An extending write is never asynchronous there: threads, and what has to be said about it."""
    needs("mkfs.ext4")
    words = ("verify", "--held", "--fs", "ext4", "--strategy", "serialise", "--strategy", "serialise-xfs-native")
    done = eofrace(*words, "--json", "-", timeout=300)
    report = json.loads(done.stdout)
    found = cells(report)
    assert {cell["aio"] for cell in report["cells"]} == {"threads"}
    assert any("io_submit(2) itself waited in" in note for note in report["notes"])
    for case in NAMES:
        assert found["serialise", "kernel", case]["verdict"] == "confirmed", found["serialise", "kernel", case]
        assert found["serialise", "legacy-xfs", case]["verdict"] == "confirmed"
        assert found["serialise-xfs-native", "kernel", case]["verdict"] == "unsafe"
    assert done.returncode == Status.HAZARD
    refused = eofrace("verify", "--held", "--fs", "ext4", "--aio", "native", timeout=120)
    assert refused.returncode == Status.UNSUPPORTED
    assert "--aio threads" in one_line(refused.stderr)


@pytest.mark.root
@pytest.mark.slow
def test_btrfs() -> None:
    """It raises i_size before the data is on the disk: no write is in flight beyond EOF, and nothing is claimed."""
    needs("mkfs.btrfs")
    words = ("verify", "--held", "--fs", "btrfs", "--strategy", "serialise", "--fallocate", "kernel")
    done = eofrace(*words, "--json", "-", timeout=300)
    found = cells(json.loads(done.stdout))
    for case in NAMES:
        cell = found["none", "kernel", case]
        if cell["verdict"] == "inconclusive":
            assert found["serialise", "kernel", case]["verdict"] == "inconclusive"
            assert any("had raised i_size" in one["course"] for one in cell["rounds"]), cell
        else:  # a btrfs that writes directly
            assert cell["verdict"] == "unsafe"
    assert done.returncode in (Status.OK, Status.INCONCLUSIVE)


@pytest.mark.parametrize("words", [("--dir", "/tmp"), ("--writes", "9"), ("--cluster-size", "4096")])
def test_what_a_held_run_chooses_itself_is_refused(words: tuple[str, ...]) -> None:
    done = eofrace("verify", "--held", *words, timeout=60)
    assert done.returncode == Status.USAGE
    assert words[0] in one_line(done.stderr)


@pytest.mark.root
def test_without_privileges_it_is_refused() -> None:
    words = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *EOFRACE, "verify", "--held"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Status.UNSUPPORTED
    assert one_line(done.stderr)


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("after", [0.1, 2.0, 4.5])
def test_a_run_that_is_ended_leaves_nothing(number: signal.Signals, after: float, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [*EOFRACE, "verify", "--held"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_until_begun(process.pid)
        time.sleep(after)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), stderr
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path) == []
    assert what_stays(tmp_path) == []


@pytest.mark.root
def test_a_disk_that_dies_ends_the_run(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [*EOFRACE, "verify", "--held", "--strategy", "none"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first cell is done
        for pid in children_of(process.pid, "nbdfuse"):
            os.kill(pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)
    assert "the held disk has ended" in one_line(stderr)
    assert process.returncode == HeldDiskError.status
    assert os.listdir(tmp_path) == []


def children_of(parent: int, name: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = entry.read_text().rpartition(")")
        except OSError:
            continue
        if name in head and int(rest.split()[1]) == parent:
            found.append(int(entry.parts[2]))
    assert found
    return found


def test_the_orders_have_names_that_say_who_comes_first() -> None:
    assert {order.value for order in Order} == {"zero-write-first", "write-first", "write-fails-first"}
    assert sys.modules["tracer.verify.held.rounds"]._ORDERS.keys() == set(Order)
    assert set(PROTECTING) <= set(STRATEGIES)
