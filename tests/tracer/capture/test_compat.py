"""System calls of 32-bit processes: counted, so that no verdict rests on what they did."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tracer.capture.run import Options, capture
from tracer.errors import Status

pytestmark = pytest.mark.root

COMPAT = str(Path(__file__).parents[1] / "compat.py")


@pytest.fixture(scope="module", autouse=True)
def compat() -> None:
    with tempfile.NamedTemporaryFile() as file:
        if subprocess.run([sys.executable, COMPAT, file.name], check=False).returncode == -11:
            pytest.skip("this kernel has no 32-bit system calls")


@pytest.mark.parametrize("by", ["process", "file", "another file"])
def test_counted(by: str, tmp_path: Path) -> None:
    file, other = tmp_path / "f", tmp_path / "other"
    file.touch()
    other.touch()
    selected = () if by == "process" else (file,) if by == "file" else (other,)
    options = Options(command=(sys.executable, COMPAT, str(file)), files=selected)
    captured = capture(options, lambda *_: None)
    assert captured.exit_status == 0
    if by == "another file":
        assert not any(captured.totals.dropped.values())
    else:
        assert captured.totals.dropped["by a 32-bit call"] == sum(captured.totals.dropped.values()) == 5
        assert captured.status is Status.INCONCLUSIVE
