"""`eofrace analyze` as a user meets it, less the one place that prints errors (`tracer.commands`)."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tracer import trace
from tracer.analysis.rules import all_rules
from tracer.commands.analyze import analyze
from tracer.errors import EofraceError, Status
from tracer.operations import OPERATION, Op
from tracer.trace import TraceMeta

K = 1024


def race(size_end: int = 64 * K, comm: bytes = b"qemu-img") -> trace.Operations:
    ops = np.zeros(2, OPERATION)
    ops["op"] = [Op.AIO_WRITE, Op.FALLOCATE]
    ops["seq_begin"], ops["seq_end"] = [1, 2], [3, 4]
    ops["t_begin"], ops["t_end"] = [1000, 2000], [4500, 9000]
    ops["offset"], ops["length"], ops["result"] = [64 * K, 0], 64 * K, [64 * K, 0]
    ops["size_end"], ops["ino"], ops["comm"], ops["pid"], ops["tid"] = size_end, 42, comm, 100, 101
    return ops


def saved(path: Path, ops: trace.Operations, **meta: Any) -> str:
    trace.write(path, ops, TraceMeta(**meta))
    return str(path)


def run(*args: str) -> Result:
    return CliRunner().invoke(analyze, args)


def refused(*args: str) -> str:
    """The message of an error that the user caused; nothing was printed before it."""
    result = run(*args)
    assert isinstance(result.exception, EofraceError)
    assert result.exception.status == Status.USAGE
    assert result.output == ""
    message = str(result.exception)
    assert message.isprintable()
    return message


@pytest.fixture
def lost(tmp_path: Path) -> str:
    return saved(tmp_path / "lost.parquet", race())


@pytest.fixture
def quiet(tmp_path: Path) -> str:
    return saved(tmp_path / "quiet.parquet", race()[:1])


def test_a_loss(lost: str) -> None:
    result = run(lost)
    assert result.exit_code == 1
    assert (
        "lost (post-eof-fallocate): inode 42: fallocate of 64 KiB at 0 by qemu-img 100/101 and aio_write of 64 KiB"
        " at 64 KiB by qemu-img 100/101 were in the kernel together for 2.5 us; data that the second one had"
        " acknowledged is gone." in result.stdout
    )
    assert "249bd9087a52" in result.stdout
    assert "verdict: corrupt" in result.stdout
    assert all(word in result.stdout for word in ("exposed", "kernel-serialised", "lost.parquet: 2 operations"))


def test_nothing_found(quiet: str) -> None:
    result = run(quiet)
    assert result.exit_code == 0
    assert "1 operation, confirmed" in result.stdout
    assert "verdict: confirmed" in result.stdout
    assert "249bd9087a52" not in result.stdout


def test_only_exposed(tmp_path: Path) -> None:
    result = run(saved(tmp_path / "a", race(size_end=128 * K), dropped=2))
    assert result.exit_code == 1
    assert "verdict: unsafe" in result.stdout
    assert "not complete: 2 records were dropped" in result.stdout


def test_inconclusive(tmp_path: Path, quiet: str) -> None:
    empty = saved(tmp_path / "empty", race()[:0])
    for args in ((empty,), (quiet, empty)):
        result = run(*args)
        assert result.exit_code == 3
        assert "not complete: the trace is empty" in result.stdout
        assert "verdict: inconclusive" in result.stdout


def test_json_on_standard_output(lost: str, quiet: str, capfd: pytest.CaptureFixture[str]) -> None:
    result = run("--json", "-", lost, quiet)
    assert result.exit_code == 1
    assert result.output == ""
    found = json.loads(capfd.readouterr().out)  # `-` is descriptor 1, whatever sys.stdout is
    jsonschema.validate(
        found,
        {
            "required": ["schema", "operations", "dropped", "unfinished", "hazards", "counts", "verdict"],
            "additionalProperties": False,
            "properties": {
                "schema": {"const": "eofrace.analysis/1"},
                "operations": {"const": 3},
                "dropped": {"const": 0},
                "unfinished": {"const": 0},
                "hazards": {"type": "array", "minItems": 1, "maxItems": 1},
                "counts": {
                    "properties": {"post-eof-fallocate": {"const": {"exposed": 1, "kernel_serialised": 0, "lost": 1}}},
                    "additionalProperties": {"const": {"exposed": 0, "kernel_serialised": 0, "lost": 0}},
                    "required": [rule.id for rule in all_rules()],
                },
                "verdict": {"const": "corrupt"},
            },
        },
    )
    hazard = found["hazards"][0]
    assert hazard["first"]["op"] == "fallocate"
    assert hazard["second"]["t_applied"] is None
    assert (hazard["outcome"], hazard["gap_ns"], hazard["pairs"]) == ("lost", -2500, 1)


def test_json_in_a_file(tmp_path: Path, quiet: str) -> None:
    target = tmp_path / "out.json"
    result = run("--json", str(target), quiet)
    assert result.exit_code == 0
    assert json.loads(target.read_text())["verdict"] == "confirmed"
    assert "verdict: confirmed" in result.stdout


def test_rules(lost: str) -> None:
    assert run("--rule", "post-eof-fallocate", "--rule", "post-eof-fallocate", lost).exit_code == 1
    assert "post-eof-fallocate" in refused("--rule", "nonsense", lost)


def test_bad_input(tmp_path: Path, quiet: str) -> None:
    foreign = tmp_path / "foreign.parquet"
    foreign.write_text("hello")
    assert "foreign.parquet: not a readable Parquet file" in refused(str(foreign))
    assert "missing: cannot open the trace: No such file" in refused(quiet, str(tmp_path / "missing"))
    assert "a directory without a part of a trace" in refused(str(tmp_path))
    assert "no such directory" in refused("--json", str(tmp_path / "no" / "out"), quiet)
    assert refused("--rule", "\x1b[2J", quiet)
    result = run()
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr


def test_names_cannot_spoil_the_terminal(tmp_path: Path) -> None:
    result = run(saved(tmp_path / "a\n\x1b[31m", race(comm=b"\x1b[2J\nevil")))
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert r"\x1b[2J\nevil" in result.stdout


def test_many_hazards_are_cut_short(tmp_path: Path) -> None:
    many = np.concatenate([race()] * 60)
    for number in range(60):
        rows = slice(2 * number, 2 * number + 2)
        many["seq_begin"][rows] += 4 * number
        many["seq_end"][rows] += 4 * number
        many["ino"][rows] = number
    result = run(saved(tmp_path / "a", many))
    assert result.stdout.count("lost (post-eof-fallocate)") == 50
    assert "and 10 more; --json has all of them" in result.stdout


def test_help_ends_with_examples() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("eofrace analyze --json - run.parquet | jq .verdict")
