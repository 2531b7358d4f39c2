"""Completion, in a real bash."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tracer.test_commands import eofrace

BIN = str(Path(sys.executable).parent)


def completed(line: str, place: Path) -> list[str]:
    """What bash would offer for the last word."""
    words = line.split(" ")
    script = (
        'eval "$(eofrace completion bash)"\n'
        # Outside of a completion there are no options to set: say which it would be.
        'compopt() { COMPREPLY+=("<${@: -1}>"); }\n'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '_eofrace_completion eofrace; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    command = ["bash", "--norc", "-c", script, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment, cwd=place)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("eofrace", path=BIN) is None, reason="eofrace is not installed beside this Python")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("eofrace re", ["report"]),
        ("eofrace verify --strategy serialise-", ["serialise-xfs-native"]),
        ("eofrace report --format j", ["junit", "json"]),
        ("eofrace vm ke", ["kernels"]),
        ("eofrace analyze --js", ["--json"]),
        ("eofrace nope --x", []),
        ("eofrace report ", ["<default>"]),
        ("eofrace analyze --json ", ["<default>"]),
    ],
)
def test_bash_is_offered(line: str, expected: list[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == expected


@pytest.mark.skipif(shutil.which("eofrace", path=BIN) is None, reason="eofrace is not installed beside this Python")
def test_a_tab_completes(tmp_path: Path) -> None:
    (tmp_path / "a-trace.parquet").write_text("")
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
    parent, child = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    process = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=environment, cwd=tmp_path, start_new_session=True
    )
    os.close(child)
    try:
        os.write(parent, b'eval "$(eofrace completion bash)"; echo rea""dy\n')
        assert "ready" in until(parent, "ready")
        os.write(parent, b"eofrace repo\ta-tr\t")
        assert "eofrace report a-trace.parquet " in until(parent, "report a-trace.parquet ")
    finally:
        process.kill()
        process.wait()
        os.close(parent)


def until(descriptor: int, wanted: str) -> str:
    """All that is read until that text has come, or for half a minute."""
    raw = b""
    end = time.monotonic() + 30
    while wanted.encode() not in raw and time.monotonic() < end:
        if select.select([descriptor], [], [], 1)[0]:
            raw += os.read(descriptor, 4096)
    return raw.decode(errors="replace")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_eofrace(shell: str) -> None:
    done = eofrace("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_EOFRACE_COMPLETE={shell}_complete" in done.stdout


def test_another_shell_is_wrong_usage() -> None:
    assert eofrace("completion", "tcsh").returncode == 2
