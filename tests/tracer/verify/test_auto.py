"""`verify --strategy auto`: what it is told, and what a cell is worth that leaves the order to the kernel."""

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from blockstack.strategies import STRATEGIES, Auto, Strategy
from tests.tracer.verify.runs import SILENT, options
from tests.tracer.verify.schema import VERIFY
from tests.tracer.verify.test_verify import EOFRACE, eofrace
from tracer import host
from tracer.analysis.hazards import Verdict
from tracer.analysis.verdict import Judgement
from tracer.errors import Status
from tracer.lab.scratch import filesystem_of
from tracer.verify import matrix


def play(directory: Path, *strategies: Strategy) -> matrix.Report:
    return matrix.run(options(*strategies, evidence="driver", directory=directory, writes=500, seed=3), SILENT)


def test_a_cell_that_relies_on_the_kernel_is_unsafe_and_does_not_count(tmp_path: Path) -> None:
    fs = filesystem_of(tmp_path)
    report = play(tmp_path, Auto(frozenset({fs})))
    kernel, legacy = (next(cell for cell in report.cells[at:] if not cell.is_control) for at in (0, 2))
    assert (kernel.relies_on_kernel, legacy.relies_on_kernel) == (True, False)
    assert kernel.judgement.verdict is Verdict.UNSAFE
    assert "relies on the kernel, which the probe says is safe" in kernel.judgement.reason
    assert legacy.judgement.verdict is Verdict.CONFIRMED, legacy.judgement.reason
    assert report.overall.verdict is Verdict.CONFIRMED
    assert "left the order to the kernel" in report.overall.reason
    jsonschema.validate(matrix.to_json(report, host.to_json(host.Host(()))), VERIFY)
    kernel.judgement = Judgement(Verdict.CORRUPT, "something was lost")
    assert matrix.overall(report.cells).verdict is Verdict.CORRUPT


@pytest.mark.parametrize("known_safe", [set(), {"some other file system"}])
def test_where_it_serialises_it_is_judged_like_any_other(tmp_path: Path, known_safe: set[str]) -> None:
    report = play(tmp_path, Auto(frozenset(known_safe)))
    assert [cell.relies_on_kernel for cell in report.cells] == [False] * 4
    assert report.overall.verdict is Verdict.CONFIRMED, report.overall.reason
    assert all(cell.waits for cell in report.cells if not cell.is_control)


def test_it_is_not_among_the_defaults() -> None:
    from tracer.commands.verify import _default_strategies

    assert _default_strategies() == [name for name in STRATEGIES if name != "auto"]
    assert len(_default_strategies()) == 5


@pytest.mark.root
def test_without_a_probe_it_serialises_and_says_why() -> None:
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    words = [*drop, *EOFRACE, "verify", "--strategy", "auto", "--fallocate", "kernel"]
    words += ["--writes", "500", "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    report = json.loads(done.stdout)
    assert any(note.startswith("auto serialises: xfs could not be probed: ") for note in report["notes"])
    assert [(cell["strategy"], cell["relies_on_kernel"]) for cell in report["cells"]] == [
        ("none", False),
        ("auto", False),
    ]
    assert report["cells"][1]["verdict"] == "confirmed", report["cells"][1]["reason"]


@pytest.mark.root
@pytest.mark.slow
def test_it_is_told_what_a_probe_finds_out() -> None:
    done = eofrace("verify", "--held", "--strategy", "auto", "--json", "-", timeout=300)
    report = json.loads(done.stdout)
    jsonschema.validate(report, VERIFY)
    safe = any(note.startswith("auto relies on the kernel: the probe says of xfs") for note in report["notes"])
    for cell in report["cells"]:
        if cell["strategy"] == "auto":
            relies = safe and cell["fallocate"] == "kernel"
            assert cell["relies_on_kernel"] is relies
            assert cell["verdict"] == ("unsafe" if relies else "confirmed"), cell["reason"]
    assert report["verdict"] == "confirmed"
    assert done.returncode == Status.OK
