"""The facts about a host: complete, honest, quick, and without a trace."""

import json
import os
import time
from pathlib import Path

import pytest

from tracer import host, taskstats, trials


def test_every_fact_that_is_missing_has_a_remedy(tmp_path: Path) -> None:
    namespace = os.readlink("/proc/self/ns/mnt")
    found = host.look(tmp_path)
    assert os.readlink("/proc/self/ns/mnt") == namespace
    assert list(tmp_path.iterdir()) == []
    names = [fact.name for fact in found.facts]
    assert len(set(names)) == len(names)
    for fact in found.facts:
        assert fact.detail
        assert "\n" not in fact.detail
        assert bool(fact.remedy) != fact.ok, fact
    assert found.get("kernel").ok
    assert found.kernel_evidence == (not found.missing)
    with pytest.raises(KeyError):
        found.get("no such fact")


def test_it_is_quick(tmp_path: Path) -> None:
    host.look(tmp_path)
    begun = time.monotonic()
    host.look(tmp_path)
    assert time.monotonic() - begun < 1.5


def test_json(tmp_path: Path) -> None:
    data = json.loads(json.dumps(host.facts_json(tmp_path)))
    assert data["kernel"] == os.uname().release
    assert isinstance(data["kernel_evidence"], bool)
    assert {"name", "ok", "detail", "remedy", "required"} == set(data["facts"][0])


def test_a_directory_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    found = host.look(tmp_path / "missing")
    assert not found.get("Linux AIO").ok
    assert not found.kernel_evidence


def test_a_trial_that_blows_up_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> str:
        raise ValueError("two\nlines")

    monkeypatch.setattr(trials, "bpf", broken)
    fact = host.look(tmp_path).get("eBPF")
    assert (fact.ok, fact.detail) == (False, "ValueError: two lines")
    assert fact.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root has what is missing here")
def test_without_root_the_remedy_is_root(tmp_path: Path) -> None:
    found = host.look(tmp_path)
    assert not found.kernel_evidence
    assert "root" in found.get("privilege").remedy


@pytest.mark.root
def test_with_root_kernel_evidence_is_possible(tmp_path: Path) -> None:
    assert host.look(tmp_path).missing == ()


def test_block_io_delay_never_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = taskstats.block_io_delay([os.getpid(), 2**22 + 1])
    assert (found.delays is None) == bool(found.note)
    switch = tmp_path / "switch"
    monkeypatch.setattr(taskstats, "SWITCH", switch)
    switch.write_text("0\n")
    assert "task_delayacct" in taskstats.block_io_delay([1]).note
    switch.write_text("1\n")
    monkeypatch.setattr(taskstats, "_read", lambda tids: 1 // 0)
    assert "ZeroDivisionError" in taskstats.block_io_delay([1]).note
    monkeypatch.setattr(taskstats, "_read", lambda tids: dict.fromkeys(tids, 7))
    later = taskstats.block_io_delay([1, 2])
    assert later.since(taskstats.BlockDelays({1: 3})) == taskstats.BlockDelays({1: 4, 2: 7})
    for one, other in ((later, taskstats.BlockDelays(None, "why")), (taskstats.BlockDelays(None, "why"), later)):
        assert one.since(other) == taskstats.BlockDelays(None, "why")


def test_a_delay_longer_than_the_threads_life_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Linux 6.18.44 has told it: of a thread 0.1 s old, twice the time since boot."""
    figures = {"ac_etime": 116_598, "blkio_delay_total": 115_000_000}
    monkeypatch.setattr(taskstats, "SWITCH", tmp_path / "none")
    monkeypatch.setattr(taskstats, "_read", lambda tids: {tid: taskstats._believed(figures) for tid in tids})
    assert taskstats.block_io_delay([1]).delays == {1: 115_000_000}
    figures["blkio_delay_total"] = 130_680_510_025_396
    found = taskstats.block_io_delay([1])
    assert found.delays is None
    assert "this kernel's figures are wrong: a thread 0.1 s old has waited 130680.5 s" in found.note
