"""The matrix: its table and its exit status, out of made-up answers."""

from typing import Any

import pytest

from tracer.errors import Status
from tracer.vm.matrix import Column, Plan, status, table, to_json

PLAN = Plan(file_systems=("xfs",), strategies=(), writes=600, seed=7)


def column(name: str, probe: str, **verdicts: str) -> Column:
    """A kernel on which `probe` is the verdict of plain fallocate, and each strategy has the verdict given."""
    cells: list[dict[str, Any]] = [
        {"strategy": strategy.replace("_", "-"), "verdict": verdict, "lost": 4 if verdict == "corrupt" else 0}
        for strategy, verdict in verdicts.items()
    ]
    results = [{"fs": "xfs", "mode": "plain", "verdict": probe}]
    return Column(name, f"6.1-{name}", {"results": results}, {"xfs": {"cells": cells}})


def test_the_table_is_one_for_a_mail() -> None:
    columns = [column("debian", "safe", none="unsafe", serialise="confirmed"),
               column("racy", "racy", none="corrupt", serialise="confirmed")]  # fmt: skip
    assert table(PLAN, columns).splitlines() == [
        "                        debian     racy",
        "xfs",
        "  fallocate plain       safe       racy",
        "  fallocate zero-range  ?          ?",
        "  fallocate keep-size   ?          ?",
        "  none                  unsafe     corrupt (4)",
        "  serialise             confirmed  confirmed",
        "",
        "debian: Linux 6.1-debian",
        "racy: Linux 6.1-racy",
        "600 guest writes a cell, seed 7; (n): pairs of zero-write and write that lost data",
    ]


def test_a_kernel_that_was_not_watched_is_named() -> None:
    blind = column("debian", "safe", none="unsafe")
    blind.verify["xfs"]["cells"][0]["evidence"] = "driver"
    assert table(PLAN, [blind]).splitlines()[-1].startswith("debian on xfs: evidence by the driver's own clock")


def test_a_kernel_of_a_file_is_called_by_its_release() -> None:
    text = table(PLAN, [Column("bzImage", "7.3.0-mine", errors=["verify: exit 3: it hung"])])
    assert text.splitlines()[0].split() == ["7.3.0-mine"]
    assert text.splitlines()[-1] == "7.3.0-mine: verify: exit 3: it hung"


def test_a_kernel_that_died_has_its_reason_below() -> None:
    dead = Column("mine", "6.9", errors=["the VM's kernel panicked"])
    text = table(PLAN, [column("debian", "safe", none="unsafe", serialise="confirmed"), dead])
    assert "6.9: the VM's kernel panicked" in text.splitlines()[-1]
    assert status([dead]) == Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"none": "corrupt", "serialise": "confirmed"}, Status.OK),
        ({"none": "unsafe", "serialise": "unsafe"}, Status.HAZARD),
        ({"none": "corrupt", "serialise": "corrupt"}, Status.HAZARD),
        ({"none": "unsafe", "serialise": "inconclusive"}, Status.INCONCLUSIVE),
        ({"none": "corrupt"}, Status.INCONCLUSIVE),
        ({}, Status.INCONCLUSIVE),
    ],
)
def test_status_is_the_worst_of_the_protecting_strategies(verdicts: dict[str, str], expected: Status) -> None:
    assert status([column("k", "safe", **verdicts)]) == expected
    good = column("g", "safe", none="unsafe", serialise="confirmed")
    assert status([good, column("k", "safe", **verdicts)]) == expected


def test_json_names_every_kernel() -> None:
    data = to_json(PLAN, [column("debian", "safe", none="unsafe")])
    assert data["schema"] == "eofrace.matrix/1"
    assert [kernel["release"] for kernel in data["kernels"]] == ["6.1-debian"]
