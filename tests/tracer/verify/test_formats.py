"""`eofrace verify --format`: the thread's claims on raw, filters, parallels and mirror, and that they can fail."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from blockstack.guest import Damage, Oracle
from blockstack.guest.mixed import Action, make_mixed_plan
from blockstack.guest.stamp import payload
from blockstack.strategies import STRATEGIES, Auto, Strategy
from tests.tracer.verify.runs import SILENT, options
from tests.tracer.verify.schema import VERIFY
from tests.tracer.verify.test_verify import eofrace, one_line
from tracer import trace
from tracer.analysis.hazards import Verdict
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.analysis.verdict import ENOUGH_CONFLICTS
from tracer.errors import Status
from tracer.lab.scratch import filesystem_of
from tracer.verify.formats import matrix as formats_matrix
from tracer.verify.formats.registry import SUBJECTS
from tracer.verify.matrix import Report


def verify(format_name: str, *words: str) -> tuple[dict[tuple[str | None, str | None, str], dict[str, Any]], int]:
    """Cells by case, variant and fallocate, and the exit status."""
    few = () if "--writes" in words else ("--writes", "600")
    done = eofrace(
        "verify", "--evidence", "driver", "--format", format_name, "--seed", "3", "--json", "-", *few, *words
    )
    report = json.loads(done.stdout)
    jsonschema.validate(report, VERIFY)
    return {(cell["case"], cell["variant"], cell["fallocate"]): cell for cell in report["cells"]}, done.returncode


def expect(cell: dict[str, Any], verdict: str) -> None:
    assert cell["verdict"] == verdict, cell["reason"]
    assert cell["unaccounted"] == cell["unfinished"] == cell["lost_events"] == 0
    assert cell["lost_bytes"] == cell["lost_bytes_traced"]
    assert (cell["exposed"] > 0) is (verdict != "confirmed")
    # Of a lost copy of zeroes nothing is missed.
    assert (cell["lost"] > 0) is (verdict == "corrupt")


@pytest.mark.parametrize(
    ("format_name", "case", "variant"), [("raw", None, "growing"), ("parallels", None, "unlocked")]
)
def test_a_format_is_confirmed_beside_a_control_that_is_not(format_name: str, case: None, variant: str) -> None:
    found, status = verify(format_name)
    expect(found[case, variant, "kernel"], "unsafe")
    if found[case, variant, "kernel"]["exposed"] < ENOUGH_CONFLICTS:
        # A real kernel beside other load: the verdict says what to do.
        assert "raise --writes" in found[case, None, "kernel"]["reason"]
        found, status = verify(format_name, "--writes", "3000")
    assert set(found) == {(case, which, how) for which in (variant, None) for how in ("kernel", "legacy-xfs")}
    expect(found[case, variant, "kernel"], "unsafe")
    expect(found[case, variant, "legacy-xfs"], "corrupt")
    for fallocate in ("kernel", "legacy-xfs"):
        cell = found[case, None, fallocate]
        expect(cell, "confirmed")
        assert (cell["format"], cell["strategy"]) == (format_name, "none")
        assert cell["conflicts"] >= 50
        assert cell["zero_writes"] > 50
        # Of raw the point is that there is none; of parallels that there are, and nobody behind them.
        assert (cell["post_eof_fallocates"] > 50) is (format_name == "parallels")
    assert status == Status.OK


def test_filters_start_no_zero_write_of_the_file() -> None:
    found, status = verify("filter", "--fallocate", "legacy-xfs")
    assert {(case, variant) for case, variant, _ in found} == {
        ("raw", "growing"), ("raw", None), ("overlay", "copies parts"), ("overlay", None)
    }  # fmt: skip
    for (_, variant, _), cell in found.items():
        expect(cell, "corrupt" if variant else "confirmed")
    # Through filters come the guest's own and no others. (Every one is aligned to 512 bytes.)
    raw, _ = verify("raw", "--fallocate", "legacy-xfs")
    assert found["raw", None, "legacy-xfs"]["zero_writes"] == raw[None, None, "legacy-xfs"]["zero_writes"] > 50
    assert found["overlay", None, "legacy-xfs"]["zero_writes"] == 0
    assert found["overlay", None, "legacy-xfs"]["conflicts"] >= 50
    assert status == Status.OK


@pytest.mark.long
def test_a_mirror_to_large_clusters_refutes_the_claim_and_a_strategy_protects_it() -> None:
    """Found by this: docs/findings/formats.md."""
    words = ("--fallocate", "legacy-xfs", "--writes", "800")
    done = eofrace(
        *("verify", "--evidence", "driver", "--format", "mirror", "--seed", "3", "--json", "-", *words),
        *("--strategy", "none", "--strategy", "serialise"),
    )
    found = json.loads(done.stdout)["cells"]
    for cell in found:
        refuted = cell["case"] == "qcow2-128k" and cell["strategy"] == "none"
        expect(cell, "corrupt" if cell["variant"] or refuted else "confirmed")
        if not cell["variant"]:
            assert (cell["zero_writes"] > 50) is (cell["case"] != "qcow2")
            assert (cell["post_eof_fallocates"] > 50) is (cell["case"] == "qcow2-128k")
    assert len(found) == 9
    assert done.returncode == Status.HAZARD


def run_format(directory: Path, format_name: str, strategy: Strategy, fallocate: str) -> Report:
    others = {"evidence": "driver", "directory": directory, "writes": 400, "format": format_name}
    return formats_matrix.run(options(strategy, fallocates=(fallocate,), **others), SILENT)


def test_auto_goes_by_what_it_was_told(tmp_path: Path) -> None:
    """It leaves the order to a kernel that is known to be safe, and is never confirmed for that."""
    auto = Auto(frozenset({filesystem_of(tmp_path)}))
    told = run_format(tmp_path, "raw", auto, "kernel").cells[-1]
    assert told.relies_on_kernel
    assert told.judgement.verdict is not Verdict.CONFIRMED
    assert "relies on the kernel" in told.judgement.reason


@pytest.mark.parametrize("format_name", list(SUBJECTS))
def test_a_broken_format_is_not_confirmed(format_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The controls in the place of what they are controls of."""
    monkeypatch.setitem(SUBJECTS, format_name, tuple((broken, broken) for broken, _ in SUBJECTS[format_name]))
    report = run_format(tmp_path, format_name, STRATEGIES["none"], "legacy-xfs")
    assert all(cell.judgement.verdict is Verdict.CORRUPT for cell in report.cells), report.cells


def test_the_format_is_named_in_the_text_and_in_the_traces(tmp_path: Path) -> None:
    words = ("--format", "raw", "--fallocate", "kernel", "--writes", "200", "-o", str(tmp_path))
    done = eofrace("verify", "--evidence", "driver", *words)
    assert "raw, growing" in done.stdout
    assert "a disk that is raw" in done.stdout
    names = {path.name for path in tmp_path.glob("*.parquet")}
    assert names == {"raw-none-kernel-growing.parquet", "raw-none-kernel.parquet"}
    recorded = trace.read(tmp_path / "raw-none-kernel-growing.parquet")
    report = json.loads((tmp_path / "verify.json").read_text())
    assert len(RULE.pairs(recorded.ops).first) == report["cells"][0]["exposed"]


def test_too_few_conflicts_confirm_nothing() -> None:
    found, status = verify("parallels", "--writes", "4", "--fallocate", "kernel")
    assert found[None, None, "kernel"]["verdict"] == "inconclusive"
    assert status == Status.INCONCLUSIVE


@pytest.mark.parametrize(("words", "says"), [(("--format", "vmdk"), "vmdk"), (("--format", "raw", "--held"), "--held")])
def test_trouble_is_one_line(words: tuple[str, ...], says: str) -> None:
    done = eofrace("verify", *words, timeout=60)
    assert done.returncode == Status.USAGE
    assert says in one_line(done.stderr)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["raw", "parallels"])
def test_on_the_kernels_evidence(format_name: str) -> None:
    words = ("--writes", "2000", "--format", format_name, "--json", "-")
    done = eofrace("verify", "--evidence", "kernel", *words, timeout=600)
    report = json.loads(done.stdout)
    assert {cell["evidence"] for cell in report["cells"]} == {"kernel"}
    assert report["verdict"] == "confirmed", report["reason"]
    for cell in report["cells"]:
        expect(cell, "confirmed" if cell["variant"] is None else {"kernel": "unsafe"}.get(cell["fallocate"], "corrupt"))


def test_a_plan_is_the_same_every_time_and_has_of_everything() -> None:
    for subject in {
        type(subject): subject for pairs in SUBJECTS.values() for pair in pairs for subject in pair
    }.values():
        plan = make_mixed_plan(7, 500, subject.profile)
        assert plan == make_mixed_plan(7, 500, subject.profile)
        asked = {choice.action for choice in (*subject.profile.fresh, *subject.profile.old)}
        assert {Action.WRITE, Action.ZERO, Action.READ} <= asked
        assert {request.action for request in plan.requests} == asked
        assert [request.number for request in plan.requests] == list(range(1, 501))
        assert all(r.offset >= 0 and r.offset + r.length <= plan.size for r in plan.requests)


def test_a_discarded_sector_may_hold_anything_and_no_other() -> None:
    oracle = Oracle(4096)
    oracle.acknowledge(1, 0, 4096)
    oracle.forget(512, 512)
    content = bytearray(payload(1, 0, 4096))
    content[512:1024] = b"?" * 512
    for spoilt, wrong in ((0, 0), (1024, 512)):
        damage = Damage()
        content[spoilt : spoilt + 512 if wrong else spoilt] = bytes(512 if wrong else 0)
        oracle.compare_cluster(0, bytes(content), damage)
        assert damage.bytes == wrong
    damage = Damage()
    oracle.predict(0, 0, 2048, damage)
    assert damage.bytes == 1536
