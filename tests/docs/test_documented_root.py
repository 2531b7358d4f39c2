"""Commands of the documents that need root: executed, as tests/docs/lists.py declares; and docs/qemu.md, all of it."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.docs.blocks import ROOT
from tests.docs.lists import EXECUTED, executed
from tests.docs.qemu import AFTER, BEFORE, GLUE, script_of
from tests.docs.running import Server, reduced, words_of
from tests.docs.test_documented import run
from tracer import trace
from tracer.lab import children
from tracer.operations import FALLOC_FL_ZERO_RANGE, Op

pytestmark = [pytest.mark.root, pytest.mark.slow]

CLUSTERS = 1000


def test_what_needs_root_runs(place: Path, server: Server) -> None:
    ours = executed("root")
    assert len(ours) >= 18
    with subprocess.Popen(children.dying_with_us(["sleep", "600"])) as somebody:
        try:
            for text, line in ours:
                run(server, place / "verified", reduced(words_of(text, somebody.pid), line.more), line)
        finally:
            somebody.kill()
    assert (place / "verified" / "eofrace.prom").read_text().startswith("# HELP eofrace_")
    assert sorted(path.name for path in (place / "verified" / "kept").iterdir()) == ["part-000001.parquet"]


def test_a_command_that_records_something_else_would_be_seen(place: Path, server: Server) -> None:
    (line,) = [line for line in EXECUTED if line.pattern.endswith("trace .*-- fio")]
    with pytest.raises(AssertionError):
        run(server, place, ["trace", "--", "sh", "-c", "exec true"], line)


@pytest.mark.skipif(shutil.which("qemu-storage-daemon") is None, reason="needs qemu-utils")
def test_the_worked_example_of_qemu(tmp_path: Path) -> None:
    """The page's commands, in a mount namespace of their own: what they mount is gone with it, and its loop device."""
    (tmp_path / "run").symlink_to(ROOT / "run")
    # Of `./run trace` the exit status is a verdict: which pairs the control exposes is chance.
    text = script_of(ROOT / "docs" / "qemu.md", GLUE).replace("> /dev/null'\n", "> /dev/null' || test $? = 1\n")
    (tmp_path / "script").write_text(BEFORE + text + AFTER)
    words = ["unshare", "--mount", "--propagation", "private", "bash", "script"]
    done = subprocess.run(
        children.dying_with_us(words), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("qemu", "misled", "daemon"):
        ops = trace.read(tmp_path / f"{name}.parquet").ops
        zeroed = ops[(ops["op"] == Op.FALLOCATE) & (ops["flags"] == FALLOC_FL_ZERO_RANGE)]
        assert len(zeroed) == CLUSTERS, name
        written = ops[np.isin(ops["op"], (Op.AIO_WRITE, Op.DIRECT_WRITE)) & (ops["length"] == 4096)]
        assert len(written) == CLUSTERS, name
    assert "trace: qemu.parquet\nverdict: confirmed" in done.stderr


def test_the_script_is_the_pages() -> None:
    text = script_of(ROOT / "docs" / "qemu.md")
    assert text.count("./run trace") == 3
    with pytest.raises(ValueError, match="has no"):
        script_of(ROOT / "docs" / "qemu.md", {"./run trace --nope": ""})
