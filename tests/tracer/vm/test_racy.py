"""The proof that the real bug is there on a real kernel, and that our patch and nothing else makes it."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tracer.vm import build, kvm, machine

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.racy]

TRIES = 20


@pytest.fixture(scope="module", params=["racy", "stock"])
def vm(request: pytest.FixtureRequest) -> Iterator[machine.Machine]:
    kernel = build.make(request.param)
    with machine.boot(kernel, kvm=bool(kvm.prove(kernel).works)) as guest:
        yield guest


def test_probe_tells_the_kernels_apart_every_time(vm: machine.Machine) -> None:
    done = vm.eofrace(["probe", "--fs", "xfs", "--tries", str(TRIES), "--json", "-"], timeout=1800)
    verdicts = {each["mode"]: each["verdict"] for each in json.loads(done.stdout)["results"]}
    bad = "racy" if vm.kernel.name == "racy" else "safe"
    assert {mode: verdicts[mode] for mode in ("plain", "zero-range", "keep-size")} == {
        "plain": bad,
        "zero-range": bad,
        "keep-size": "safe",
    }
    assert done.status == (1 if bad == "racy" else 0), done.stderr


def test_the_real_kernel_loses_data_and_the_strategies_keep_it(vm: machine.Machine) -> None:
    words = ["verify", "--fallocate", "kernel", "--writes", "300", "--seed", "11", "-q", "--json", "-"]
    done = vm.eofrace(words, timeout=1800)
    data = json.loads(done.stdout)
    cells = {cell["strategy"]: cell for cell in data["cells"]}
    if vm.kernel.name == "racy":
        assert cells["none"]["verdict"] == "corrupt", cells["none"]["reason"]
        assert cells["none"]["lost"] > 0
        assert cells["none"]["corrupt_clusters"] > 0
    else:
        assert cells["none"]["lost"] == 0
    protecting = Counter(cell["verdict"] for name, cell in cells.items() if name != "none")
    assert protecting == {"confirmed": len(cells) - 1}
