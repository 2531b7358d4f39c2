"""`eofrace analyze` as a user meets it, less the one place that prints errors (`tracer.commands`)."""

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tracer import trace
from tracer.analysis.hazards import analyse
from tracer.analysis.rules import all_rules, named
from tracer.commands.analyze import analyze
from tracer.errors import EofraceError, Status
from tracer.operations import OPERATION, Op
from tracer.report.console import Console
from tracer.report.hazard_text import print_hazards
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


def test_ignored_rules(lost: str) -> None:
    assert run("--ignore", "post-eof-fallocate", lost).exit_code == 0
    assert run("--ignore", "overlapping-writes", "--ignore", "buffered-and-direct", lost).exit_code == 1
    both = ("--rule", "post-eof-fallocate", "--rule", "truncate-below-write", "--ignore", "post-eof-fallocate")
    result = run(*both, lost)
    assert result.exit_code == 0
    assert "truncate-below-write" in result.stdout
    assert "post-eof-fallocate" not in result.stdout
    assert "there are: buffered-and-direct, " in refused("--ignore", "nonsense", lost)
    assert "all rules are ignored" in refused("--rule", "post-eof-fallocate", "--ignore", "post-eof-fallocate", lost)


def test_a_baseline_is_made_and_used(tmp_path: Path) -> None:
    """The next run has other files, processes and times, and one thing that is new."""
    known = str(tmp_path / "known.json")
    before = saved(tmp_path / "before", race(size_end=128 * K))
    assert run("--write-baseline", known, before).exit_code == 1
    after = race(size_end=128 * K)
    after["ino"], after["pid"] = 77, 999
    after["seq_begin"] += 100
    after["seq_end"] += 100
    same = saved(tmp_path / "same", after)
    result = run("--baseline", known, same)
    assert result.exit_code == 0
    assert "baseline: 1 pair of known findings not told" in result.stdout
    assert "verdict: confirmed" in result.stdout
    assert "stale" not in result.stdout
    more = np.concatenate([after, race(size_end=128 * K, comm=b"other")])
    result = run("--baseline", known, saved(tmp_path / "more", more))
    assert result.exit_code == 1
    assert "exposed (post-eof-fallocate): inode 42:" in result.stdout
    assert "inode 77" not in result.stdout


def test_a_baseline_never_hides_a_loss(tmp_path: Path, lost: str) -> None:
    known = str(tmp_path / "known.json")
    assert run("--write-baseline", known, saved(tmp_path / "exposed", race(size_end=128 * K))).exit_code == 1
    result = run("--baseline", known, lost)
    assert result.exit_code == 1
    assert "lost (post-eof-fallocate)" in result.stdout
    assert "stale" not in result.stdout
    result = run("--write-baseline", known, lost)
    assert result.exit_code == 1
    assert f"baseline: 0 kinds written to {known}, without 1 finding that lost data" in result.stdout
    assert json.loads((tmp_path / "known.json").read_text())["findings"] == []


def test_what_of_a_baseline_is_stale(tmp_path: Path, quiet: str, capfd: pytest.CaptureFixture[str]) -> None:
    known = str(tmp_path / "known.json")
    assert run("--write-baseline", known, saved(tmp_path / "exposed", race(size_end=128 * K))).exit_code == 1
    result = run("--baseline", known, quiet)
    assert result.exit_code == 0
    assert 'baseline: stale, nothing matches it: post-eof-fallocate {"first": {"op": "fallocate"' in result.stdout
    assert "stale" not in run("--baseline", known, "--rule", "overlapping-writes", quiet).stdout
    assert run("--baseline", known, "--json", "-", quiet).exit_code == 0
    found = json.loads(capfd.readouterr().out)
    assert [entry["rule"] for entry in found["stale"]] == ["post-eof-fallocate"]
    assert found["known"]["post-eof-fallocate"] == {"exposed": 0, "kernel_serialised": 0, "lost": 0}
    assert run("--json", "-", quiet).exit_code == 0
    assert not {"stale", "known"} & json.loads(capfd.readouterr().out).keys()


def test_a_baseline_that_cannot_be_used(tmp_path: Path, quiet: str) -> None:
    known = tmp_path / "known.json"
    known.write_text("{")
    assert "known.json: not JSON" in refused("--baseline", str(known), quiet)
    assert "missing.json: cannot open the baseline: No such file" in refused(
        "--baseline", str(tmp_path / "missing.json"), quiet
    )
    assert "no such directory" in refused("--write-baseline", str(tmp_path / "no" / "out"), quiet)
    assert "would go to the same place" in refused("--write-baseline", "-", "--json", "-", quiet)


def test_a_baseline_on_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--write-baseline", "-", saved(tmp_path / "exposed", race(size_end=128 * K))).exit_code == 1
    [entry] = json.loads(capfd.readouterr().out)["findings"]
    assert entry["second"] == {"op": "aio_write", "mode": 0, "comm": "qemu-img"}


def test_a_thousand_pairs_are_one_finding(tmp_path: Path) -> None:
    many = np.concatenate([race(size_end=128 * K)] * 999 + [race()])
    for name, step in (("seq_begin", 4), ("seq_end", 4), ("t_begin", 10_000), ("t_end", 10_000)):
        many[name] += np.repeat(step * np.arange(1000), 2).astype(many[name].dtype)
    result = run("--json", str(tmp_path / "out.json"), saved(tmp_path / "a", many))
    [hazard] = json.loads((tmp_path / "out.json").read_text())["hazards"]
    assert (hazard["pairs"], hazard["outcome"]) == (1000, "lost")
    assert hazard["counts"] == {"exposed": 1000, "kernel_serialised": 0, "lost": 1}
    examples = {name: example["first"]["seq_begin"] for name, example in hazard["examples"].items()}
    assert examples == {"first": 2, "worst": 3998, "last": 3998}
    assert "The worst of 1,000 such pairs, 1 lost." in result.stdout
    assert "    first: exposed: fallocate of 64 KiB at 0 by" in result.stdout
    assert "    last: lost: fallocate of 64 KiB at 0 by" in result.stdout


def test_a_pair_that_was_not_together(tmp_path: Path) -> None:
    ops = named("size-going-backwards").example.operations()
    text = "aio_write of 4 KiB at 0 by example 100/100 and aio_write of 64 KiB at 64 KiB by example 100/100 were in the"
    proved = run(saved(tmp_path / "whole", ops))
    assert f"lost (size-going-backwards): inode 1: {text} kernel 1.0 us apart; data that the second" in proved.stdout
    doubted = run(saved(tmp_path / "lacking", ops, dropped=1))
    assert f"{text} kernel 1.0 us apart; what happened between may be what the trace lacks." in doubted.stdout
    assert "verdict: unsafe" in doubted.stdout


def test_it_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 columns: nothing is cut off, and no word is broken."""
    monkeypatch.setenv("COLUMNS", "80")
    ops = np.concatenate([race(), race(size_end=128 * K)])
    ops["seq_begin"][2:] += 4
    ops["seq_end"][2:] += 4
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    print_hazards(analyse(ops, TraceMeta()).hazards, console, indent="  ")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined] # it is the StringIO from above
    assert 5 < len(lines) < 12
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert all(line.startswith("  ") for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "first: lost: fallocate of 64 KiB at 0 by qemu-img 100/101 and aio_write of 64 KiB at 64 KiB" in text


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
