"""The pictures of docs/race.md: what they show is in the trace that they are drawn from."""

import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from tests.tracer.report.made import HOSTILE, cell, control, exposed, run, stored
from tracer.analysis.examples import as_operations, operation
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.errors import TraceError
from tracer.operations import Op
from tracer.reference import pictures
from tracer.reference.pictures import Bar, Picture, of_wait, svg
from tracer.report.source import load

SVG = "{http://www.w3.org/2000/svg}"
K = 1024


def test_bars_are_as_long_as_operations() -> None:
    root = Xml.fromstring(svg(Picture("x", (Bar("a", "write", 1000, 2000), Bar("b", "fallocate", 1000, 5000)))))
    _, short, long = (float(one.get("width", "")) for one in root.iter(SVG + "rect"))
    assert long == pytest.approx(4 * short, abs=0.2)
    assert [one.text for one in root.iter(SVG + "text")][-1] == "4 us"


def test_hostile_words_are_text() -> None:
    root = Xml.fromstring(svg(Picture(HOSTILE, (Bar(HOSTILE, "write", 0, 1, HOSTILE),), ((0, HOSTILE),))))
    assert {one.tag for one in root.iter()} <= {SVG + name for name in ("svg", "title", "rect", "text", "line")}
    assert any("<script>" in (one.text or "") for one in root.iter(SVG + "text"))


def test_a_wait_shows_the_zero_write_before_the_write() -> None:
    ops = as_operations(
        (
            operation(Op.FALLOCATE, 2, 3, 0, 64 * K, request=1),
            operation(Op.MARK_WAIT, 1, 4, 64 * K, 64 * K, request=2, result=1),
            operation(Op.AIO_WRITE, 5, 6, 64 * K, 64 * K, request=2),
        )
    )
    names = [bar.name for bar in of_wait("x", ops).bars]
    assert names == ["zero-write to 64 KiB", "the write waits", "write to 128 KiB"]
    with pytest.raises(TraceError):
        of_wait("x", ops[:2])


def test_a_run_is_drawn(tmp_path: Path) -> None:
    names = ("none x legacy-xfs", "none x kernel", "serialise x kernel")
    cells = [
        control("corrupt", name=names[0], fallocate="legacy-xfs", trace="lost.parquet", lost=1),
        control(name=names[1], trace="ordered.parquet"),
        cell("confirmed", name=names[2], trace="apart.parquet"),
    ]
    directory = run(tmp_path / "out", cells)
    stored(directory / "lost.parquet", RULE.example.operations())
    stored(directory / "ordered.parquet", exposed())
    stored(directory / "apart.parquet", exposed())
    with pytest.raises(TraceError, match="none x kernel: no pair was kernel-serialised"):
        pictures.drawn(load(directory).recordings)
    assert json.loads((directory / "verify.json").read_text())["cells"][0]["name"] == names[0]


@pytest.mark.parametrize("name", ["lost", "ordered", "apart"])
def test_what_is_in_docs_is_a_picture_of_a_page(name: str) -> None:
    docs = Path(__file__).parents[3] / "docs"
    Xml.fromstring((docs / "pictures" / f"{name}.svg").read_text())
    assert f"](pictures/{name}.svg)" in (docs / "race.md").read_text()
