"""The proof that the real bug is there on a real kernel, and that our patch and nothing else makes it."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.vm import build, kvm, machine

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.racy]

TRIES, FEW = 20, 5
"""How often the probe has to tell, if the kernels are what is tested (--vm-racy), and with every change."""
INSIDE = Path(__file__).parents[1] / "vm_inside"


@pytest.fixture(scope="module", params=["racy", "stock"])
def vm(request: pytest.FixtureRequest) -> Iterator[machine.Machine]:
    kernel = build.make(request.param)
    with machine.boot(kernel, kvm=bool(kvm.prove(kernel).works)) as guest:
        yield guest


def test_probe_tells_the_kernels_apart_every_time(vm: machine.Machine, pytestconfig: pytest.Config) -> None:
    tries = TRIES if pytestconfig.getoption("--vm-racy") else FEW
    done = vm.eofrace(["probe", "--fs", "xfs", "--tries", str(tries), "--json", "-"], timeout=1800)
    verdicts = {each["mode"]: each["verdict"] for each in json.loads(done.stdout)["results"]}
    bad = "racy" if vm.kernel.name == "racy" else "safe"
    assert {mode: verdicts[mode] for mode in ("plain", "zero-range", "keep-size")} == {
        "plain": bad,
        "zero-range": bad,
        "keep-size": "safe",
    }
    assert done.status == (1 if bad == "racy" else 0), done.stderr


def test_the_model_of_each_kernel_does_what_it_does(vm: machine.Machine) -> None:
    """explore's, on random operations, and with a write held in flight while a fallocate comes."""
    name = "xfs-pre-5.5" if vm.kernel.name == "racy" else "xfs-fixed"
    done = vm.run([sys.executable, str(INSIDE / "models.py"), name, "10"], timeout=900)
    assert done.status == 0, done.stderr.decode(errors="replace")[-2000:]
    modes = json.loads(done.stdout)
    assert {mode: found["kernel"] for mode, found in modes.items()} == {
        mode: found["model"] for mode, found in modes.items()
    }
    assert (modes["plain"]["kernel"][1] < 196608) is (vm.kernel.name == "racy")


def test_the_real_kernel_loses_data_under_none(vm: machine.Machine) -> None:
    """On a schedule that is chosen: with one that is hoped for, nothing was lost in one run of some thirty."""
    if vm.kernel.name != "racy":
        pytest.skip("the probe shows on both kernels that the patch makes the difference")
    words = ["verify", "--held", "--fallocate", "kernel", "--strategy", "none", "-q", "--json", "-"]
    cells = json.loads(vm.eofrace(words, timeout=1800).stdout)["cells"]
    assert {cell["case"] for cell in cells} == {"data", "far", "l2-table", "refcount-block"}
    for cell in cells:
        assert cell["verdict"] == "corrupt", cell["reason"]
        assert cell["lost"] > 0
        assert cell["lost_bytes"] == cell["lost_bytes_traced"]
        assert (cell["corrupt_clusters"] > 0) is (cell["case"] in ("data", "far"))


def test_the_strategies_protect_on_the_real_kernel(vm: machine.Machine) -> None:
    if vm.kernel.name != "racy":
        pytest.skip("it keeps the data of any strategy")
    words = ["verify", "--fallocate", "kernel", "--writes", "300", "--seed", "11", "-q", "--json", "-"]
    cells = {cell["strategy"]: cell for cell in json.loads(vm.eofrace(words, timeout=1800).stdout)["cells"]}
    assert cells.pop("none")["exposed"] > 0
    assert Counter(cell["verdict"] for cell in cells.values()) == {"confirmed": 4}
