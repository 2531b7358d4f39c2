"""Rules of other packages: installed for real, as pip would leave them, and broken in every way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracer import trace
from tracer.analysis import third_party
from tracer.analysis.rules import all_rules, named
from tracer.errors import RuleError, Status
from tracer.trace import TraceMeta

ROOT = Path(__file__).resolve().parents[3]

RULE = """
import numpy as np
from tracer.analysis.examples import ExampleTrace
from tracer.analysis.rules import Outcome, PairRule, ScanRule, Scan, Severity
from tracer.operations import Op

class Words:
    id, severity, title = "two-writes", Severity.SUSPICIOUS, "two writes at once"
    explanation = argument = "Somebody minds."
    lost = serialised = watched = ""
    needs, reads, commits = frozenset({Op.AIO_WRITE}), frozenset({"offset"}), ()
    example = almost = ExampleTrace((), "")

class Two(Words, PairRule):
    symmetric = True

    def firsts(self, ops):
        return ops["op"] == Op.AIO_WRITE

    seconds = firsts

    def judge(self, first, second):
        return np.full(len(first), Outcome.EXPOSED, np.uint8)

class Look(Scan):
    def feed(self, moments):
        ops = moments.ops
        at = np.flatnonzero(moments.ended)
        yield ops.take(at[:1]), ops.take(at[:1]), np.full(len(at[:1]), Outcome.LOST, np.uint8)

class Scans(Words, ScanRule):
    id = "scans"

    def wants(self, ops):
        return ops["op"] == Op.AIO_WRITE

    def scan(self):
        return Look()
"""


def install(where: Path, entry: str, code: str = RULE, name: str = "their-rules") -> None:
    """A distribution on the path, as `pip install --target` leaves it."""
    info = where / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[eofrace.rules]\n{entry}\n")
    (where / "their_rules.py").write_text(code)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Two writes together, which no rule of ours minds."""
    ops = named("overlapping-writes").almost.operations()
    trace.write(tmp_path / "two.parquet", ops, TraceMeta())
    return tmp_path / "two.parquet"


def judged_by_theirs() -> None:
    """Load what is on the path by now, and have it judge two writes."""
    try:
        for rule in third_party.load([rule.id for rule in all_rules()]):
            rule.pairs(named("overlapping-writes").almost.operations())
    finally:
        sys.modules.pop("their_rules", None)


def analyze(where: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": f"{where}:{ROOT}"}
    code = "import sys; from tracer.commands import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "analyze", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_they_judge_like_ours(tmp_path: Path, recorded: Path) -> None:
    install(tmp_path, "two = their_rules:Two\nscans = their_rules:Scans")
    done = analyze(tmp_path, "--json", "-", str(recorded))
    assert done.returncode == Status.HAZARD, done.stderr
    report = json.loads(done.stdout)
    assert report["counts"]["two-writes"] == {"exposed": 1, "kernel_serialised": 0, "lost": 0}
    assert report["counts"]["scans"] == {"exposed": 1, "kernel_serialised": 0, "lost": 1}
    assert [hazard["rule"] for hazard in report["hazards"]] == ["scans", "two-writes"]
    assert report["hazards"][1]["severity"] == "suspicious"
    # The control: without the package nothing is found.
    assert analyze(ROOT, str(recorded)).returncode == Status.OK
    assert analyze(tmp_path, "--rule", "two-writes", str(recorded)).returncode == Status.HAZARD
    assert analyze(tmp_path, "--ignore", "two-writes", "--ignore", "scans", str(recorded)).returncode == Status.OK


def changed(old: str, new: str) -> str:
    assert old in RULE
    return RULE.replace(old, new)


MASK = 'ops["op"] == Op.AIO_WRITE\n\n    s'
JUDGE = "np.full(len(first), Outcome.EXPOSED, np.uint8)"


@pytest.mark.parametrize(
    ("entry", "code", "message"),
    [
        ("their_rules:Two", "import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("their_rules:Two", "raise SystemExit(0)", "cannot be loaded: SystemExit: 0"),
        ("their_rules:Three", RULE, "cannot be loaded: AttributeError"),
        ("their_rules:np", RULE, "is neither a PairRule nor a ScanRule of tracer.analysis.rules, but module"),
        ("their_rules:Two", changed("    def judge", "    def nothing"), "judge did not return 1 outcomes"),
        ("their_rules:Two", changed("explanation = argument", "explanation"), "lacks something: "),
        ("their_rules:Two()", RULE, "cannot be loaded: "),
        ("their_rules:Two", changed('"two-writes"', '"Two writes"'), "asks for: id"),
        ("their_rules:Two", changed('"two-writes"', '"overlapping-writes"'), "is taken by eofrace itself"),
        ("their_rules:Two", changed("Severity.SUSPICIOUS", '"bad"'), "asks for: severity"),
        ("their_rules:Two", changed('{"offset"}', '{"offest"}'), "asks for: reads"),
        ("their_rules:Two", changed("{Op.AIO_WRITE}", '{"write"}'), "asks for: needs"),
        ("their_rules:Two", changed('frozenset({"offset"}), ()', 'frozenset({"offset"}), (1,)'), "asks for: commits"),
        ("their_rules:Two", changed('watched = ""', "watched = 0"), "asks for: lost, serialised, watched"),
        ("their_rules:Two", changed('ExampleTrace((), "")', "()"), "asks for: example, almost"),
        ("their_rules:Two", changed(JUDGE, "1 // 0"), "judge failed: ZeroDivisionError"),
        ("their_rules:Two", changed(JUDGE, "[2]"), "judge did not return 1 outcomes"),
        ("their_rules:Two", changed(JUDGE, "np.full(2, 2, np.uint8)"), "judge did not return 1 outcomes"),
        ("their_rules:Two", changed(JUDGE, "np.full(0, 2, np.uint8)"), "judge did not return 1 outcomes"),
        ("their_rules:Two", changed(JUDGE, "np.full(1, 2)"), "judge did not return 1 outcomes"),
        ("their_rules:Two", changed(JUDGE, "np.full(1, 4, np.uint8)"), "judge returned 4, which is no outcome"),
        ("their_rules:Two", changed(MASK, "None\n\n    s"), "firsts did not return 2 booleans"),
        ("their_rules:Two", changed(MASK, "np.ones(1, np.bool_)\n\n    s"), "firsts did not return 2 booleans"),
        ("their_rules:Two", changed(MASK, "np.ones(3, np.bool_)\n\n    s"), "firsts did not return 2 booleans"),
        ("their_rules:Scans", changed("return Look()", "return 1 // 0"), "scan failed: ZeroDivisionError"),
        ("their_rules:Scans", changed("yield ops.take", "yield ops.taken"), "feed failed: "),
        ("their_rules:Scans", changed("Outcome.LOST, np.uint8", "9, np.uint8"), "feed returned 9, which is no outcome"),
    ],
)
def test_a_broken_one_is_an_error_that_names_it(
    entry: str, code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, f"theirs = {entry}", code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuleError) as error:
        judged_by_theirs()
    assert str(error.value).startswith(f"rule theirs ({entry}) of their-rules 1.2: ")
    assert message in str(error.value)
    assert str(error.value).endswith(": mend that package, or uninstall it")


def test_a_user_sees_one_line(tmp_path: Path, recorded: Path) -> None:
    """In every command that judges, before it does anything."""
    install(tmp_path, "theirs = their_rules:Two", "import nothing_of_that_name")
    done = analyze(tmp_path, str(recorded))
    assert (done.returncode, done.stdout) == (Status.USAGE, "")
    assert done.stderr.startswith("eofrace: rule theirs (their_rules:Two) of their-rules 1.2: cannot be loaded: ")
    assert done.stderr.count("\n") == 1


def test_two_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "one = their_rules:Two\nother = their_rules:Two")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuleError, match=r"rule other .* its id 'two-writes' is taken by rule one"):
        judged_by_theirs()


def test_one_may_read_everything(tmp_path: Path, recorded: Path) -> None:
    names = "from tracer.analysis.emulation import DERIVED\nfrom tracer.operations import OPERATION\n"
    every = changed('frozenset({"offset"})', "frozenset(OPERATION.names) | frozenset(DERIVED)")
    install(tmp_path, "two = their_rules:Two", names + every)
    done = analyze(tmp_path, "--json", "-", str(recorded))
    assert json.loads(done.stdout)["counts"]["two-writes"]["exposed"] == 1, done.stderr
