"""The same analysis by other processes, here or on a Dask cluster: the same result, whatever is lost on the way."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest

from tests.tracer.analysis.parted import Shape, many, saved
from tests.tracer.analysis.wordless import Wordless
from tracer.analysis import cluster
from tracer.analysis.columns import Columns
from tracer.analysis.emulation import emulated
from tracer.analysis.engine import Execute, analyse_stored, one_after_the_other
from tracer.analysis.hazards import Analysis
from tracer.analysis.processes import Processes
from tracer.analysis.rules import Outcome, PairRule, Rule, all_rules
from tracer.analysis.shares import tasks
from tracer.errors import InconclusiveError, TraceError, UnsupportedError, UsageError
from tracer.stored import Stored

# Test modules are not to be imported elsewhere.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

COUNT = 20_000


class Deadly(Wordless, PairRule):
    """Finds nothing; says who works on it, and waits, the first time."""

    id = "deadly"

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def firsts(self, ops: Columns) -> npt.NDArray[np.bool_]:
        with contextlib.suppress(FileExistsError):
            name = self._victim.with_suffix(f".{os.getpid()}")
            name.write_text(str(os.getpid()))
            os.link(name, self._victim)  # whole, and once
            time.sleep(600)
        return np.zeros(len(ops), np.bool_)

    def seconds(self, ops: Columns) -> npt.NDArray[np.bool_]:
        return np.zeros(len(ops), np.bool_)

    def judge(self, first: Columns, second: Columns) -> npt.NDArray[np.uint8]:
        return np.full(len(first), Outcome.EXPOSED, np.uint8)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    parts = tuple(at // 5000 for at in range(COUNT))
    return saved(tmp_path_factory.mktemp("executing") / "t", many(COUNT), Shape(parts, 0, 1000, True))


@pytest.fixture(scope="module")
def wanted(trace: Stored) -> Analysis:
    (found,) = analyse_stored([trace], all_rules(), 1, one_after_the_other)
    assert found.counts["post-eof-fallocate"].exposed > 100
    return found


def kill_when_there(victim: Path) -> Callable[[], None]:
    """Have a process kill the one whose number is in a file; returns what waits for it to have done so."""
    program = (
        "import os, sys, time\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
        "os.kill(int(open(sys.argv[1]).read()), 9)\n"
    )
    killer = subprocess.Popen([sys.executable, "-c", program, str(victim)])

    def done() -> None:
        assert killer.wait(60) == 0

    return done


def judged(trace: Stored, rules: list[Rule], execute: Execute) -> Analysis:
    (found,) = analyse_stored([trace], rules, 2, execute)
    return found


def test_processes_find_the_same(trace: Stored, wanted: Analysis) -> None:
    both = analyse_stored([trace, trace], list(all_rules()), 3, Processes(2))
    assert both == [wanted, wanted]


def test_what_is_wrong_in_a_process_is_told(trace: Stored, tmp_path: Path) -> None:
    ops = many(5000)
    ops["offset"][4321] = -1
    bad = saved(tmp_path / "bad", ops, Shape((0, 1), 0, 1000, True))
    with pytest.raises(TraceError, match=r"part-00000\d.parquet: 1 of .* operations have a negative offset"):
        judged(bad, list(all_rules()), Processes(2))
    broken = dataclasses.replace(trace, groups=(*trace.groups, None))  # type: ignore[arg-type]
    task, *_ = tasks(trace, emulated(trace), all_rules(), 1)
    with pytest.raises(RuntimeError, match=r"a part of the work failed:\nTraceback"):
        list(Processes(2)([dataclasses.replace(task, trace=broken)]))


def test_a_process_that_is_killed_is_no_result(trace: Stored, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    done = kill_when_there(victim)
    with pytest.raises(InconclusiveError, match="was killed"):
        judged(trace, [*all_rules(), Deadly(victim)], Processes(2))
    done()


def test_without_dask_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'eofrace\[dask\]'"), cluster.local(1):
        pass


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECTING", 0.5)
    with pytest.raises(UsageError, match="no Dask scheduler answers"), cluster.scheduler("tcp://127.0.0.1:1"):
        pass
    with pytest.raises(UsageError, match="no Dask scheduler answers"), cluster.scheduler("\x1b[2J://"):
        pass


def test_dask_finds_the_same_and_a_lost_worker_costs_time(trace: Stored, wanted: Analysis, tmp_path: Path) -> None:
    with cluster.local(2) as found:
        assert found.count == 2
        assert judged(trace, list(all_rules()), found) == wanted
        address = found._client.scheduler.address
        with cluster.scheduler(address) as same:
            victim = tmp_path / "victim"
            done = kill_when_there(victim)
            rules = [*all_rules(), Deadly(victim)]
            again = judged(trace, rules, same)
        done()
        assert victim.read_text() != str(os.getpid())
        assert again.hazards == wanted.hazards
        assert again.operations == wanted.operations
        elsewhere = dataclasses.replace(trace, files=(tmp_path / "gone",) * len(trace.files))
        work = [dataclasses.replace(task, trace=elsewhere) for task in tasks(trace, emulated(trace), all_rules(), 1)]
        with pytest.raises(UsageError, match=r"on a worker: .*gone: cannot open the trace: No such file"):
            list(found(work))


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--workers", "2"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_stopped(tmp_path: Path, words: list[str], number: int) -> None:
    from tests.tracer.begun import wait_until_begun

    saved(tmp_path / "t", many(500_000), Shape((0,), 0, 1 << 16, True))
    program = "from tracer.commands import analyze, main; analyze._FEW = 0; main()"
    command = [sys.executable, "-c", program, "analyze", *words, str(tmp_path / "t")]
    place = tmp_path / "tmp"
    place.mkdir()
    environment = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        wait_until_begun(process.pid)
        deadline = time.monotonic() + 60
        while len(session(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        if number == signal.SIGINT:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[signal.Signals(number)]
    if number != signal.SIGKILL:
        # After that nobody is left to keep a child quiet that finds its pipe closed before it has begun: it is in
        # multiprocessing's spawn_main, ahead of any code of ours.
        assert "Traceback" not in said
        assert list(place.iterdir()) == []
    deadline = time.monotonic() + 30
    while session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session(process.pid) == []


def session(leader: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found
