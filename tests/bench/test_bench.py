"""The bench: ratios, the same offsets for both sides, and a run of one row."""

import json
import subprocess
import sys

import pytest

from bench.command import ROWS
from tracer.bench.workload import CLUSTER, Kind


@pytest.mark.parametrize("name", ROWS)
def test_offsets_are_distinct_and_inside(name: str) -> None:
    workload, _ = ROWS[name]
    requests = list(workload.requests(1, CLUSTER))
    offsets = {request.offset for request in requests}
    assert workload.qemu_can
    assert len(offsets) == len(requests) == workload.count
    assert min(offsets) >= 0
    assert max(offsets) <= workload.size - workload.length
    assert {request.kind for request in requests} == {Kind.READ if name == "random-read" else Kind.WRITE}


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
