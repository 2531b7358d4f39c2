"""What a report makes of every verdict; the exit status and JUnit's words say the same."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from tests.tracer.report.made import cell, control, exposed, run, stored
from tests.tracer.test_commands import eofrace
from tracer.report import junit
from tracer.report.source import load
from tracer.report.standing import Standing, assess_all, concluded

PASSED, FAILED, ERROR, SKIPPED = Standing

CASES: list[tuple[str, dict[str, Any], Standing, int]] = [
    # What the cell is, the cell (beside a good control), how it stands, the exit status if verify said confirmed.
    ("confirmed", cell("confirmed"), PASSED, 0),
    ("unsafe", cell("unsafe", exposed=3), FAILED, 1),
    ("corrupt", cell("corrupt", lost=3), FAILED, 1),
    ("inconclusive", cell("inconclusive"), ERROR, 3),
    ("a control that shows it", control("corrupt", fallocate="legacy-xfs", lost=1), PASSED, 0),
    ("a silent control", control("inconclusive", exposed=0), FAILED, 3),
    ("a control with too little", control("inconclusive", exposed=2), ERROR, 3),
    ("a control with drops", control("inconclusive", exposed=0, lost_events=2), ERROR, 3),
    ("a control that is confirmed", control("confirmed", exposed=0), FAILED, 3),
    ("left to the kernel", cell("unsafe", strategy="auto", exposed=1, relies_on_kernel=True), SKIPPED, 0),
    ("left to the kernel, lost", cell("corrupt", strategy="auto", lost=1, relies_on_kernel=True), FAILED, 1),
    ("left to the kernel, inconclusive", cell("inconclusive", strategy="auto", relies_on_kernel=True), ERROR, 3),
]


@pytest.mark.parametrize(("made", "standing", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_cell_stands_as_its_verdict_says(
    made: dict[str, Any], standing: Standing, status: int, tmp_path: Path
) -> None:
    source = load(run(tmp_path / "out", [control(), made]))
    assessed = assess_all(source)
    assert [one.standing for one in assessed] == [PASSED, standing]
    verdict, _ = concluded(source, assessed)
    assert verdict.status == status
    counts = _counts(junit.document(source))
    assert counts == (2, int(standing is FAILED), int(standing is ERROR), int(standing is SKIPPED))


@pytest.mark.parametrize(("verdict", "status"), [("confirmed", 0), ("inconclusive", 3), ("unsafe", 1), ("corrupt", 1)])
def test_a_verdict_of_the_run_that_no_cell_explains_is_a_case_of_its_own(
    verdict: str, status: int, tmp_path: Path
) -> None:
    source = load(run(tmp_path / "out", [control(), cell("confirmed")], verdict))
    assert concluded(source, assess_all(source))[0].status == status
    tests, failures, errors, _ = _counts(junit.document(source))
    assert (tests, failures + errors) == ((2, 0) if status == 0 else (3, 1))
    assert errors == (status == 3)


@pytest.mark.parametrize(
    "edited",
    [
        *({name: 1} for name in ("lost", "lost_bytes", "exposed", "lost_events", "unfinished", "corrupt_clusters")),
        {"unaccounted": 1},
        {"lost_bytes_traced": 1},
        {"qemu_img_check": {"corruptions": 1}},
        {"conflicts": 0},
        {"conflicts": 49},
        {"verdict": "unsafe"},
        {"verdict": "corrupt"},
        {"verdict": "unsafe", "exposed": 1, "lost_bytes": 1},
        {"verdict": "unsafe", "exposed": 1, "relies_on_kernel": True},
        {"verdict": "corrupt", "lost": 1, "control": True},
        {"verdict": "unsafe", "exposed": 1, "strategy": "none", "control": True, "fallocate": "legacy-xfs"},
    ],
    ids=str,
)
def test_a_verdict_that_the_cells_numbers_belie_is_an_error(edited: dict[str, Any], tmp_path: Path) -> None:
    source = load(run(tmp_path / "out", [control(), cell("confirmed") | edited]))
    assessed = assess_all(source)
    assert [one.standing for one in assessed] == [PASSED, ERROR]
    assert concluded(source, assessed)[0].status == 3
    assert _counts(junit.document(source))[2] == 1


@pytest.mark.parametrize(
    "cells",
    [
        [cell("confirmed")],
        [control(fallocate="legacy-xfs", verdict="corrupt", lost=1), cell("confirmed")],
        [control(), cell("confirmed"), cell("confirmed")],
    ],
    ids=["no control", "a control of another column", "twice"],
)
def test_a_run_with_cells_too_few_or_too_many_is_inconclusive(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    source = load(run(tmp_path / "out", cells))
    assert concluded(source, assess_all(source))[0].status == 3
    assert sum(_counts(junit.document(source))[1:3]) == 1
    whole = load(run(tmp_path / "out", [control(), cell("confirmed")]))
    assert concluded(whole, assess_all(whole))[0].status == 0


def test_nothing_is_claimed_by_controls_alone(tmp_path: Path) -> None:
    source = load(run(tmp_path / "out", [control()]))
    assert concluded(source, assess_all(source))[1] == "no protecting strategy was run, and nothing is claimed"


@pytest.mark.parametrize(
    ("meta", "rows", "standing"),
    [
        ({}, slice(1, 2), PASSED),
        ({"strategy": "serialise", "fs": "xfs", "evidence": "kernel"}, slice(1, 2), PASSED),
        ({"strategy": "none"}, slice(1, 2), ERROR),
        ({"fallocate": "legacy-xfs"}, slice(1, 2), ERROR),
        ({}, slice(0, 0), ERROR),
    ],
    ids=["nothing known", "its own", "another strategy's", "another column's", "empty"],
)
def test_a_trace_of_another_cell_is_an_error(
    meta: dict[str, Any], rows: slice, standing: Standing, tmp_path: Path
) -> None:
    directory = run(tmp_path / "out", [control(), cell("confirmed", trace="a.parquet", guest_writes=5)])
    stored(directory / "a.parquet", exposed()[rows], **meta)
    assert [one.standing for one in assess_all(load(directory))] == [PASSED, standing]


def test_a_control_whose_trace_shows_less_is_an_error(tmp_path: Path) -> None:
    directory = run(tmp_path / "out", [control(trace="a.parquet")])
    stored(directory / "a.parquet", exposed()[1:])
    assert [one.standing for one in assess_all(load(directory))] == [ERROR]


@pytest.mark.parametrize(("said", "standing"), [(0, ERROR), (1, PASSED)])
def test_a_trace_that_shows_more_than_its_cell_is_an_error(said: int, standing: Standing, tmp_path: Path) -> None:
    made = control(trace="a.parquet", exposed=said, lost=0)
    directory = run(tmp_path / "out", [made])
    stored(directory / "a.parquet", exposed())
    (one,) = assess_all(load(directory))
    assert one.standing is standing
    assert one.contradicted == (standing is ERROR)


@pytest.mark.parametrize(("dropped", "status"), [(0, 0), (1, 3)])
def test_what_was_dropped_is_told_in_every_format(dropped: int, status: int, tmp_path: Path) -> None:
    trace = stored(tmp_path / "a.parquet", exposed()[1:], dropped=dropped)
    for name in ("text", "junit", "json", "markdown"):
        done = eofrace("report", str(trace), "--format", name)
        assert (done.returncode, done.stderr) == (status, "")
        assert ("1 records were dropped" in done.stdout) == bool(dropped), name
        assert ("inconclusive" in done.stdout) == bool(dropped), name


def test_a_cell_that_kept_no_trace_says_so(tmp_path: Path) -> None:
    assert assess_all(load(run(tmp_path / "out", [cell("confirmed")])))[0].doubts == ("no trace was kept",)


def _counts(root: Xml.Element) -> tuple[int, int, int, int]:
    """Test cases, failures, errors, skipped: those that are there; what the attributes claim must be the same."""
    tags = ("testcase", "failure", "error", "skipped")
    tests, failures, errors, skipped = (len(list(root.iter(tag))) for tag in tags)
    claimed = {"tests": tests, "failures": failures, "errors": errors}
    assert {name: int(root.get(name, "")) for name in claimed} == claimed
    suites = list(root.iter("testsuite"))
    for name, count in {**claimed, "skipped": skipped}.items():
        assert sum(int(suite.get(name, "")) for suite in suites) == count
    return tests, failures, errors, skipped
