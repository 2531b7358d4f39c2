"""A second run into the directory of a first: its evidence alone is left, and what is nobody's evidence stays."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.tracer.report import made
from tracer import trace
from tracer.commands.verify import verify
from tracer.errors import EofraceError, Status
from tracer.verify import matrix
from tracer.verify.kept import earlier_traces


def listing(directory: Path, *names: Any, **more: Any) -> list[str]:
    """Names of traces found in the directory, whose verify.json lists these."""
    made.run(directory, [made.cell("confirmed", trace=name) for name in names], **more)
    return [path.name for path in earlier_traces(directory)]


def test_only_plain_files_of_that_name_in_the_directory(tmp_path: Path) -> None:
    directory, outside = tmp_path / "kept", tmp_path / "outside.parquet"
    (directory / "directory.parquet").mkdir(parents=True)
    (directory / "link.parquet").symlink_to(outside)
    for path in (outside, *(directory / name for name in ("a.parquet", "b.parquet", "mine.parquet", "notes.txt"))):
        path.write_text("")
    hostile = ("../outside.parquet", str(outside), "directory.parquet", "link.parquet", "notes.txt", "verify.json")
    odd = ("", ".", "..", "/", "gone.parquet", "a\0.parquet", "\ud800.parquet", "x" * 300 + ".parquet", None)
    assert listing(directory, *hostile, *odd, "/elsewhere/a.parquet", "b.parquet", "b.parquet") == [
        "a.parquet",
        "b.parquet",
    ]


def test_a_verify_json_that_cannot_be_read_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("")
    assert listing(tmp_path, "a.parquet") == ["a.parquet"]
    assert listing(tmp_path, "a.parquet", schema="eofrace.verify/2") == []
    assert listing(tmp_path, "a.parquet", 5) == []
    for text in ("", "[]", "{", "[" * 100_000, " " * (16 << 20) + "{}"):
        (tmp_path / "verify.json").write_text(text)
        assert earlier_traces(tmp_path) == []
    (tmp_path / "verify.json").unlink()
    assert earlier_traces(tmp_path) == []


def run(output: Path, strategy: str, seed: int, *more: str) -> Result:
    words = ("--evidence", "driver", "--strategy", strategy, "--seed", str(seed), "--fallocate", "kernel")
    return CliRunner().invoke(verify, [*words, "--writes", "60", "-o", str(output), *more])


def kept(output: Path) -> list[str]:
    """Names of all files there, of which those that verify.json lists have its seed."""
    document = json.loads((output / "verify.json").read_text())
    for one in document["cells"]:
        assert trace.read(one["trace"]).meta.seed == document["seed"]
    return sorted(path.name for path in output.iterdir())


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    first = run(tmp_path, "serialise", 3)
    assert "replaces" not in first.stderr
    assert kept(tmp_path) == ["none-kernel.parquet", "serialise-kernel.parquet", "verify.json"]
    (tmp_path / "mine-kernel.parquet").write_text("")
    second = run(tmp_path, "no-alloc-space", 4)
    assert second.stderr.count("eofrace: replaces the evidence of an earlier run: 2 traces\n") == 1
    expected = ["mine-kernel.parquet", "no-alloc-space-kernel.parquet", "none-kernel.parquet", "verify.json"]
    assert kept(tmp_path) == expected
    assert "replaces" not in run(tmp_path, "no-alloc-space", 5, "-q").stderr
    assert kept(tmp_path) == expected


def test_a_run_that_fails_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "serialise", 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise EofraceError("something went wrong, after the last cell")

    monkeypatch.setattr(matrix, "overall", fail)
    assert isinstance(run(tmp_path, "serialise", 4).exception, EofraceError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert run(tmp_path, "serialise", 4).exit_code in (Status.OK, Status.INCONCLUSIVE)
    assert kept(tmp_path) == sorted(before)
