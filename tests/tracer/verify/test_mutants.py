"""Strategies broken on purpose are caught: the proof that `confirmed` is no matter of course."""

from pathlib import Path

import pytest

from blockstack.strategies import STRATEGIES
from tests.tracer.verify.mutants import MUTANTS
from tracer.analysis.hazards import Verdict
from tracer.verify import matrix
from tracer.verify.options import Options

SILENT = matrix.Progress(lambda *_: None, lambda _: None, lambda _: None)


def judge_mutants(evidence: str, seed: int, directory: Path | None = None) -> matrix.Report:
    """All mutants beside the strategy that they are mutants of."""
    options = Options(
        strategies=(*MUTANTS, STRATEGIES["serialise"]),
        fallocates=("kernel", "legacy-xfs"),
        fs=None,
        aio=None,
        evidence=evidence,
        directory=directory,
        writes=2000,
        seed=seed,
        cluster_size=65536,
    )
    return matrix.run(options, SILENT)


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


def test_on_the_drivers_evidence(tmp_path: Path) -> None:
    check(judge_mutants("driver", seed=1, directory=tmp_path))


@pytest.mark.root
@pytest.mark.slow
def test_on_the_kernels_evidence() -> None:
    check(judge_mutants("kernel", seed=2))
