"""What is made of the code is as the code is now; and real outputs are what the schemas say."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from tests.tracer.reference.documents import ROOT, check, schema, undocumented
from tests.tracer.report import shown
from tests.tracer.report.made import control, exposed, run, stored
from tests.tracer.test_commands import eofrace
from tracer import host
from tracer.commands import SUBCOMMANDS
from tracer.operations import Op
from tracer.probe.result import to_json as probe_json
from tracer.reference import __main__ as reference
from tracer.reference import man
from tracer.reference.clicks import described
from tracer.reference.fields import COLUMNS_SAY, META_SAY, OPS_SAY
from tracer.reference.schemas import DOCUMENTS
from tracer.trace_columns import NAMES
from tracer.trace_meta import TraceMeta
from tracer.verify import matrix

MADE = reference.documents()


@pytest.mark.parametrize("path", MADE, ids=lambda path: str(path.relative_to(reference.ROOT)))
def test_it_is_current(path: Path) -> None:
    assert path.read_text() == MADE[path], "python -m tracer.reference writes it anew"


def test_nothing_else_lies_there() -> None:
    there = {*(reference.ROOT / "man").iterdir(), *(reference.ROOT / "reference" / "schemas").iterdir()}
    assert there <= set(MADE)


def test_every_command_and_option_is_there() -> None:
    page = MADE[reference.ROOT / "reference" / "commands.md"]
    every = list(described())
    assert {one.path.split()[1] for one in every if " " in one.path} == set(SUBCOMMANDS)
    for one in every:
        assert f"## {one.path}\n" in page
        # Of a group's own commands the group has the examples.
        assert one.blocks or one.path.count(" ") == 2, f"{one.path} has no examples"
        for option in one.command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert f"`{option.opts[0]}" in page or f", {option.opts[-1]}" in page, option.opts


def test_every_field_has_its_line() -> None:
    assert tuple(COLUMNS_SAY) == NAMES
    assert set(OPS_SAY) == set(Op)
    assert set(META_SAY) == {field.name for field in dataclasses.fields(TraceMeta)}


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff: apt install groff")
def test_man_pages_are_roff_without_a_warning() -> None:
    pages = man.pages()
    for name, page in pages.items():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-P-c", "-rLL=80n"],
            input=page, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), name
        text = re.sub(".\b", "", done.stdout)  # bold is a letter over itself
        headings = ("NAME", "SYNOPSIS", *(("EXAMPLES",) if name.count("-") < 2 else ()))
        assert [heading for heading in headings if f"\n{heading}\n" not in text] == [], name
        assert name.count("-") == 2 or "exit status" in text.lower(), name
    broken = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"], input=".TH x 1\n.SH A\n.nope\n", capture_output=True, text=True, check=False
    )
    assert "nope" in broken.stderr, "the control: groff would say so"


def test_text_cannot_be_a_command_of_troff() -> None:
    assert man._text(".so /etc/passwd") == r"\&.so /etc/passwd"
    assert man._text("'x") == r"\&'x"
    assert man._text(r"\X'ps: exec'") == r"\eX'ps: exec'"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


OUTPUTS: dict[str, list[str]] = {
    "doctor": ["doctor", "--no-attach", "--json", "-"],
    "explain": ["explain", "--json", "-"],
    "vm-kernels": ["vm", "kernels", "--json", "-"],
    "analysis": ["analyze", "{trace}", "--json", "-"],
    "baseline": ["analyze", "{trace}", "--write-baseline", "-"],
    "report": ["report", "{out}", "--format", "json"],
    "explore": ["explore", "-q", "--strategy", "serialise", "--model", "xfs-pre-5.5", "-o", "{found}", "--json", "-"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_real_outputs_are_what_the_schemas_say(name: str, tmp_path: Path) -> None:
    places = {"trace": tmp_path / "a.parquet", "out": tmp_path / "out", "found": tmp_path / "found"}
    stored(places["trace"], exposed())
    run(places["out"], [control(trace="a.parquet")])
    stored(places["out"] / "a.parquet", exposed())
    done = eofrace(*(word.format(**places) for word in OUTPUTS[name]))
    check(name, json.loads(done.stdout))
    if name == "explore":
        kept = sorted(places["found"].glob("*.json"))
        assert kept
        check("schedule", json.loads(kept[0].read_text()))
        check("replay", json.loads(eofrace("explore", "--replay", str(kept[0]), "-q", "--json", "-").stdout))


def test_results_of_what_needs_root_are_what_the_schemas_say() -> None:
    """As the code makes them of results made by hand; tests with `root` check those of real runs."""
    facts = host.to_json(host.Host((host.Fact("XFS", True, "", ""),)))
    check("verify", json.loads(json.dumps(matrix.to_json(shown.verify_report(), facts))))
    check("probe", json.loads(json.dumps(probe_json(shown.probe_report()))))
    check("capture", json.loads(json.dumps(shown.captured().to_json())))
    check("watch", json.loads(json.dumps(shown.watched().to_json())))
    check("watch-hazard", json.loads(json.dumps(shown.event().to_json())))


def test_a_wrong_output_would_not_pass() -> None:
    facts = host.to_json(host.Host(()))
    good = json.loads(json.dumps(matrix.to_json(shown.verify_report(), facts)))
    wrong: list[tuple[Any, Any]] = [("verdict", "fine"), ("cells", []), ("seed", "7")]
    for name, value in wrong:
        with pytest.raises(jsonschema.ValidationError):
            check("verify", {**good, name: value})
    assert undocumented({**good, "more": 1}, schema("verify")) == [".more"]
    good["cells"][0]["more"] = 1
    assert undocumented(good, schema("verify")) == [".cells[].more"]


def test_the_old_contract_still_holds() -> None:
    """design.md's fields of a cell: a reader of eofrace.verify/1 relies on them."""
    needed = (
        "strategy fs aio fallocate kernel evidence guest_writes zero_writes post_eof_fallocates conflicts exposed"
        " kernel_serialised lost lost_events unfinished lost_bytes corrupt_clusters waits min_gap_ns verdict reason"
        " trace"
    )
    assert set(needed.split()) <= set(schema("verify")["properties"]["cells"]["items"]["required"])
    assert (ROOT / "docs").is_dir()
