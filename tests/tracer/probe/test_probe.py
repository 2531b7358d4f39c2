"""The probe on the real file systems of this host; and that it would have seen the race, by a fallocate that has it."""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from tests.tracer.reference.documents import schema
from tracer.errors import UnsupportedError, UsageError
from tracer.lab.scratch import default_directory, filesystem_of
from tracer.probe import run, schedule
from tracer.probe.judge import Verdict
from tracer.probe.observation import DEFAULT_MODES, FALLOC_FL_KEEP_SIZE, MODES, Layout
from tracer.probe.workers import Fallocate

EOFRACE = [sys.executable, "-c", "from tracer.commands import main; main()"]

SCHEMA = schema("probe")
"""design.md's contract of `probe --json`, and more."""


class LegacyFallocate(Fallocate):
    """fallocate(2) in the order of XFS before 5.5: the size is sampled, writes are waited for, the size is set."""

    def _operate(self) -> None:
        self.t_begin = time.monotonic_ns()
        new_size = max(os.fstat(self._fd).st_size, self._length)
        # KEEP_SIZE loses nothing, and waits for the write on a healthy kernel (inode_dio_wait, the inode lock).
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if libc.fallocate(self._fd, self._mode | FALLOC_FL_KEEP_SIZE, 0, self._length) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        if not self._mode & FALLOC_FL_KEEP_SIZE:
            os.ftruncate(self._fd, new_size)
        self.t_end = time.monotonic_ns()


@pytest.mark.root
def test_the_file_systems_of_this_host(tmp_path: Path) -> None:
    done = subprocess.run(
        [*EOFRACE, "probe", "--json", str(tmp_path / "probe.json")], capture_output=True, text=True, check=False
    )
    report = json.loads((tmp_path / "probe.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["kernel"] == os.uname().release
    verdicts = {(one["fs"], one["mode"]): one["verdict"] for one in report["results"]}
    assert set(verdicts) == {(fs, mode) for fs in run.FILE_SYSTEMS for mode in DEFAULT_MODES}
    # No release of the last years is known to have the race on these; a racy one is a discovery (docs/findings).
    assert verdicts == dict.fromkeys(verdicts, "safe"), done.stdout
    assert done.returncode == 0
    for one in report["results"]:
        assert one["size_found"] == one["size_expected"] == Layout().size
        assert one["held_ms"] > 0
        assert one["order"]
        if one["fs"] == "xfs":
            assert one["source"] == "kernel"
            assert [waited["who"] for waited in one["waited"]] == ["fallocate"]
            assert order(one) == ["write begins", "fallocate begins", "write released", "write ends", "fallocate ends"]
    rows = [line.split()[:2] for line in done.stdout.splitlines()]
    for row in (["xfs", "plain"], ["ext4", "zero-range"], ["btrfs", "keep-size"]):
        assert row in rows


def order(result: dict[str, list[dict[str, str]]]) -> list[str]:
    """The events that have one order only (an end may be seen before our own clock saw the release end)."""
    names = [event["event"] for event in result["order"]]
    return [
        name for name in names if name not in ("write held at the disk", "write takes effect", "fallocate takes effect")
    ]


@pytest.mark.root
def test_a_racy_fallocate_is_seen_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "Fallocate", LegacyFallocate)
    report = run.probe(["xfs", "ext4"], modes=tuple(MODES), tries=5)
    for result in report.results:
        racy = not MODES[result.mode] & FALLOC_FL_KEEP_SIZE
        assert result.verdict is (Verdict.RACY if racy else Verdict.SAFE), result.judgement
        assert result.counts == {result.verdict.value: 5}
        if result.verdict is Verdict.RACY:
            assert result.size_found == Layout().fallocate_length
            assert f"{Layout().write_length} of {Layout().write_length} acknowledged bytes" in result.judgement.evidence
    assert report.status == 1


@pytest.mark.root
def test_a_write_that_is_not_held_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker of the write is another one than the disk holds: everything goes well, and nothing is claimed."""
    from tracer.lab.held import HeldDisk

    original = HeldDisk.hold
    monkeypatch.setattr(HeldDisk, "hold", lambda self, prefix, **rest: original(self, b"other" + prefix, **rest))
    report = run.probe(["xfs"], tries=1)
    assert {result.verdict for result in report.results} == {Verdict.INCONCLUSIVE}
    assert report.status == 3


@pytest.mark.root
def test_without_ebpf_the_sizes_and_stacks_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UnsupportedError("no eBPF: get some")

    monkeypatch.setattr("tracer.attach.attach", refuse)
    report = run.probe(["xfs"], tries=1)
    assert {result.verdict for result in report.results} == {Verdict.SAFE}
    assert {result.shown.source for result in report.results if result.shown} == {"driver"}
    assert "no eBPF" in report.notes[0]


def test_a_directory_is_probed_by_repetition_which_excludes_nothing(tmp_path: Path) -> None:
    try:
        report = run.probe(directory=default_directory(), tries=1)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert {result.fs for result in report.results} == {filesystem_of(default_directory())}
    for result in report.results:
        assert result.method == "repetition"
        assert result.verdict in (Verdict.INCONCLUSIVE, Verdict.UNSUPPORTED)
    assert report.status != 0


def test_repetition_finds_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowLegacy(LegacyFallocate):
        def _operate(self) -> None:
            self._ready()
            size = max(os.fstat(self._fd).st_size, self._length)
            time.sleep(0.02)
            os.ftruncate(self._fd, size)
            self.t_begin = self.t_end = time.monotonic_ns()

    monkeypatch.setattr("tracer.probe.repetition.Fallocate", SlowLegacy)
    monkeypatch.setattr("tracer.probe.repetition.ROUNDS", 20)
    try:
        report = run.probe(directory=default_directory(), tries=1)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert {result.verdict for result in report.results} == {Verdict.RACY}
    assert report.status == 1


@pytest.mark.parametrize(
    ("words", "status"),
    [(["--fs", "nofs"], 2), (["--fs", "xfs", "--dir", "."], 2), (["--tries", "0"], 2), (["--dir", "/nowhere"], 2)],
)
def test_wrong_usage(words: list[str], status: int) -> None:
    done = subprocess.run([*EOFRACE, "probe", *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1


def test_unknown_file_system_is_named() -> None:
    with pytest.raises(UsageError, match="nofs: no such scratch file system: choose one of"):
        run.probe(["nofs"])
