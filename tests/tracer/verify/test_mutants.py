"""Strategies broken on purpose are caught: the proof that `confirmed` is no matter of course."""

from pathlib import Path
from typing import Any

import pytest

from blockstack.strategies import STRATEGIES
from tests.tracer.verify.mutants import MUTANTS
from tests.tracer.verify.runs import SILENT, options
from tracer.analysis.hazards import Verdict
from tracer.verify import matrix


def judge_mutants(evidence: str, seed: int, **others: Any) -> matrix.Report:
    """All mutants beside the strategy that they are mutants of."""
    strategies = (*MUTANTS, STRATEGIES["serialise"])
    return matrix.run(options(*strategies, evidence=evidence, seed=seed, **others), SILENT)


def check(report: matrix.Report) -> None:
    verdicts = {(cell.strategy, cell.fallocate): cell.judgement.verdict for cell in report.cells}
    for mutant in MUTANTS:
        # In one column at least: the emulation holds new writes off by itself, which hides a missing hold-off.
        found = {verdicts[mutant.name, "kernel"], verdicts[mutant.name, "legacy-xfs"]}
        assert found & {Verdict.UNSAFE, Verdict.CORRUPT}, (mutant.name, verdicts)
    for mutant in MUTANTS[:2]:
        assert verdicts[mutant.name, "legacy-xfs"] is Verdict.CORRUPT, (mutant.name, verdicts)
    # The twin: what the mutants are made from is confirmed in the same run.
    assert verdicts["serialise", "kernel"] is Verdict.CONFIRMED
    assert verdicts["serialise", "legacy-xfs"] is Verdict.CONFIRMED
    assert report.overall.verdict in (Verdict.UNSAFE, Verdict.CORRUPT)


@pytest.mark.long
def test_on_the_drivers_evidence(tmp_path: Path) -> None:
    check(judge_mutants("driver", seed=1, directory=tmp_path))


@pytest.mark.root
@pytest.mark.long
def test_on_the_kernels_evidence() -> None:
    check(judge_mutants("kernel", seed=2))
