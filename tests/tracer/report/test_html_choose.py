"""What a page holds of a trace: all, or stretches and counts, and it says which."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import traces
from tests.tracer.report import html_made
from tracer import trace
from tracer.analysis.hazards import analyse
from tracer.operations import Op
from tracer.report.html.choose import choose, fair_shares
from tracer.report.html.view import _coverage
from tracer.stored import stored
from tracer.trace_meta import TraceMeta


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("choose") / "large.parquet"
    traces.record_growing(path, 20_000, 3)
    return path


def test_what_fits_is_held_whole(large: Path) -> None:
    shown = choose(stored(large), (), 20_000, 1000)
    (file,) = shown.files
    assert file.whole
    assert np.array_equal(file.ops, trace.read(large).ops)
    assert _coverage(shown) == ("All 20,000 operations are in this page, one by one.",)


def test_what_does_not_fit_is_counted_and_held_around_hazards(large: Path) -> None:
    read = trace.read(large)
    hazards = analyse(read.ops, read.meta).hazards
    shown = choose(stored(large), hazards, 3_000, 10_000)
    (file,) = shown.files
    assert file.grid is not None
    assert file.grid.counts.sum() == 20_000
    assert 0 < len(file.ops) <= 6_000
    held = set(file.ops["seq_begin"].tolist())
    for hazard in hazards:
        for pair in (hazard.earliest, hazard.worst, hazard.latest):
            assert {pair.first["seq_begin"], pair.second["seq_begin"]} <= held
    for stretch in file.stretches:
        inside = read.ops[(read.ops["seq_begin"] >= stretch.low) & (read.ops["seq_begin"] <= stretch.high)]
        assert set(inside["seq_begin"].tolist()) <= held
    (told,) = _coverage(shown)
    assert f"Only a part is in this page one by one: {len(held):,} of 20,000 operations" in told


def test_marks_and_other_files_are_counted(tmp_path: Path) -> None:
    parts = [html_made.pair(number) for number in range(40)]
    for number, part in enumerate(parts):
        part["ino"] = number + 1
    path = tmp_path / "files.parquet"
    trace.write(path, np.concatenate(parts), TraceMeta())
    shown = choose(stored(path), (), 10_000, 1000)
    assert len(shown.files) == 24
    assert (shown.other_files, shown.other_operations) == (16, 48)
    assert shown.not_drawn == {Op.MARK_GUEST_WRITE.label: 40, Op.MARK_REQUEST.label: 40}
    told = " ".join(_coverage(shown))
    assert "48 operations in 16 other files are not shown" in told
    assert "40 of mark_guest_write and 40 of mark_request" in told


def test_an_empty_trace_has_nothing_to_show(tmp_path: Path) -> None:
    trace.write(tmp_path / "empty.parquet", html_made.pair()[:0], TraceMeta())
    assert choose(stored(tmp_path / "empty.parquet"), (), 100, 100).files == []


def test_all_in_flight_at_once_is_cut_off(tmp_path: Path) -> None:
    ops = np.repeat(html_made.pair()[2:3], 5_000)
    ops["seq_begin"] = np.arange(5_000) + 1
    ops["seq_begin"][-1] = 10**9  # the others crowd where a stretch is taken to be sparse
    ops["seq_end"] = ops["t_end"] = 0
    ops["result"] = -(2**63)
    trace.write(tmp_path / "flying.parquet", ops, TraceMeta())
    (file,) = choose(stored(tmp_path / "flying.parquet"), (), 100, 1000).files
    assert len(file.ops) == 100
    assert file.stretches == []


@given(wants=st.lists(st.integers(0, 1000), max_size=20), budget=st.integers(0, 5000))
def test_shares_are_fair(wants: list[int], budget: int) -> None:
    shares = fair_shares(wants, budget)
    assert sum(shares) <= budget
    assert all(0 <= share <= want for share, want in zip(shares, wants, strict=True))
    if sum(wants) <= budget:
        assert shares == wants
    else:
        least = min((share for share, want in zip(shares, wants, strict=True) if share < want), default=0)
        assert all(share <= least + len(wants) for share in shares)
