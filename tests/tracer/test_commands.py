"""The command line: one line and the documented exit status for everything that goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tracer import commands, host, interrupts
from tracer.commands import main
from tracer.commands.doctor import doctor
from tracer.errors import InconclusiveError, UnsupportedError, UsageError

EOFRACE = [sys.executable, "-c", "from tracer.commands import main; main()"]


def eofrace(*words: str, **named: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EOFRACE, *words], capture_output=True, text=True, check=False, timeout=60)


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> click.testing.Result:
    """Run a subcommand that does nothing but raise `error`."""

    @click.command()
    def doctor() -> None:
        raise error

    monkeypatch.setattr("tracer.commands.doctor.doctor", doctor)
    return CliRunner().invoke(main, ["doctor"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a command"),
        (("nope",), "'nope'"),
        (("--nope",), "'--nope'"),
        (("doctor", "--nope"), "'--nope'"),
        (("doctor", "extra"), "extra"),
        (("doctor", "--dir", "/nowhere"), "/nowhere"),
        (("doctor", "--json", "/nowhere/x"), "/nowhere"),
        (("doctor", "--json", "/"), "directory"),
        (("doctor", "--x\x1b[2J\n"), "\\x1b[2J"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words: tuple[str, ...], message: str) -> None:
    done = eofrace(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("eofrace: ")
    assert message in done.stderr
    assert done.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("doctor", "-h"), ("doctor", "--help")])
def test_help_ends_with_examples(words: tuple[str, ...]) -> None:
    done = eofrace(*words)
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_version() -> None:
    done = eofrace("--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "eofrace", "")


def test_help_loads_no_subcommand() -> None:
    code = (
        "import sys\nfrom tracer.commands import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in {'numpy', 'rich', 'bcc', 'pyarrow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_subcommand_that_is_not_there_breaks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(commands.SUBCOMMANDS, "ghost", "not written yet")
    runner = CliRunner()
    assert "ghost" not in runner.invoke(main, ["--help"]).output
    assert runner.invoke(main, ["ghost"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("a: b"), 2, "a: b"),
        (UnsupportedError("no\nXFS"), 4, "no XFS"),
        (InconclusiveError("dropped"), 3, "dropped"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (interrupts.Terminated(143), 143, "terminated"),
        (MemoryError(), 4, "out of memory"),
        (OSError(5, "Input/output error", "a\x1bb"), 4, "a\\x1bb: Input/output error"),
        (click.BadParameter("bad"), 2, "bad"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_errors_end_in_one_place(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = raising(error, monkeypatch)
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stderr.count("\n") == bool(message)
    assert "Traceback" not in result.output


def test_a_bug_is_not_taken_for_a_hazard(monkeypatch: pytest.MonkeyPatch) -> None:
    result = raising(ZeroDivisionError(), monkeypatch)
    assert result.exit_code == commands.CRASHED
    assert "Traceback" in result.stderr
    assert "bug" in result.stderr


def test_doctor_json_to_stdout_is_json_alone() -> None:
    done = eofrace("doctor", "--no-attach", "--json", "-")
    data = json.loads(done.stdout)
    assert data["schema"] == "eofrace.doctor/1"
    assert done.returncode == (0 if data["kernel_evidence"] else 4)
    assert done.stderr == ""


def test_doctor_writes_json_and_the_table(tmp_path: Path) -> None:
    done = eofrace("doctor", "--no-attach", "--dir", str(tmp_path), "--json", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out").read_text())["facts"]
    assert "Kernel evidence" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


@pytest.mark.root
def test_doctor_attaches() -> None:
    done = eofrace("doctor", "--json", "-")
    hooks = {fact["name"]: fact for fact in json.loads(done.stdout)["facts"]}["hooks"]
    assert hooks["ok"], hooks
    assert done.returncode == 0


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = (host.Fact("XFS", False, "no \x1b[31mXFS", "modprobe xfs"), host.Fact("extra", False, "no", "get", False))
    monkeypatch.setattr(host, "look", lambda directory, hooks: host.Host(facts))
    result = CliRunner().invoke(doctor, [])
    assert result.exit_code == 4
    assert "modprobe xfs" in result.output
    assert "lacking: XFS)" in result.output
    assert "\x1b" not in result.output


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen([*EOFRACE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*EOFRACE, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == "eofrace: No space left on device: free some space, or name another place\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_unwind(number: signal.Signals, status: int, tmp_path: Path) -> None:
    code = (
        "import click, contextlib, sys, time, asyncio\n"
        "from tracer import commands\n"
        "import tracer.commands.doctor as module\n"
        "@contextlib.contextmanager\n"
        "def held():\n"
        "    try: yield\n"
        "    finally: print('unwound', flush=True)\n"
        "async def work():\n"
        "    with held():\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(30)\n"
        "@click.command()\n"
        "def doctor(): asyncio.run(work())\n"
        "module.doctor = doctor\n"
        "commands.main(['doctor'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert out == "unwound\n"
    assert process.returncode == status
    assert err.count("\n") == 1


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.as_exceptions():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
