"""The bench: ratios, the same offsets for both sides, and a run of one row."""

import json
import subprocess
import sys

import pytest

from bench.ratio import ratio
from bench.workload import WORKLOADS, Workload


def test_a_ratio_is_the_median_of_rounds() -> None:
    found = ratio([1.0, 2.0, 1.0], [2.0, 2.0, 4.0])
    assert (found.low, found.median, found.high) == (1.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="no rounds"):
        ratio([], [])


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_offsets_are_distinct_and_inside(workload: Workload) -> None:
    assert all(0 <= offset <= workload.size - workload.length for offset in workload.offsets)
    assert len(set(workload.offsets)) == workload.count


@pytest.mark.root
def test_a_row_is_measured_against_qemu_img() -> None:
    words = ["-m", "bench", "blockstack", "--row", "overwrite", "--part", "0.01", "--rounds", "2", "--json", "-"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["peer"], row["rounds"], row["requests"]) == ("qemu-img bench", 2, 500)
    assert row["low"] <= row["ratio"] <= row["high"]
    assert row["reached"] is (row["ratio"] >= row["at_least"])


def test_help_and_bad_input() -> None:
    for words, status in ((["--help"], 0), (["blockstack", "--help"], 0), (["blockstack", "--rounds", "0"], 2)):
        done = subprocess.run([sys.executable, "-m", "bench", *words], capture_output=True, timeout=60, check=False)
        assert done.returncode == status


def test_opening_a_large_image_is_measured() -> None:
    words = [sys.executable, "-m", "bench", "opening", "--json", "-"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    result = json.loads(done.stdout)
    assert result["mib"] < 50
    assert result["reached"] is (result["ms"] < 50)
    assert done.returncode == (not result["reached"])
