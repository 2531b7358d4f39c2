"""`eofrace report` of what bench has measured: tables, and a plot that is read at a glance, in a real Chromium."""

import copy
import json
import re
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from tests.tracer.bench import made
from tests.tracer.reference.documents import check
from tests.tracer.report.html_browser import Watched, _contrast, _rgba
from tests.tracer.test_commands import eofrace
from tracer.bench.sides import QEMU
from tracer.commands import main
from tracer.errors import Status, UsageError
from tracer.report.cost import html, markdown, source, svg
from tracer.report.cost.plot import svg as drawing

Open = Callable[..., Watched]
NS = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


def stored(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A usual result and a hostile one, each as a page and as a drawing."""
    directory = tmp_path_factory.mktemp("cost")
    for name, document in (("usual", made.result()), ("hostile", made.hostile())):
        cost = source.load(stored(directory / f"{name}.json", document))
        html.write(cost, str(directory / f"{name}.html"))
        svg.write(cost, str(directory / f"{name}.svg"))
    return directory


def test_a_result_is_as_documented() -> None:
    check("bench", made.result())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enough = stored(tmp_path / "a.json", made.result(made.measured("random", 12)))
    few = stored(tmp_path / "b.json", made.result())
    done = eofrace("report", str(enough))
    assert (done.returncode, done.stderr) == (Status.OK, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert any(re.fullmatch(r"serialise 1\.\d\d - 1\.\d\d 1\.\d\d to 1\.\d\d slower", line) for line in lines)
    assert "serialise write 1.50 2.50 3.50" in lines
    assert "none 40 12 1.2 0 21 - - 3 0.2 5.0 70 81" in lines
    with pytest.raises(SystemExit) as ended:
        main(["report", str(few), "--format", "svg", "-o", str(tmp_path / "b.svg")])
    assert ended.value.code == Status.INCONCLUSIVE, "as the bench ended"
    Xml.parse(tmp_path / "b.svg")
    for words, message in (
        ((str(few), "--format", "junit"), "a result of bench has no junit report"),
        ((str(few), "--format", "html"), "name a file with -o"),
        ((str(tmp_path), "--format", "svg"), "a plot as SVG is of what bench has measured"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["report", *words])
        assert ended.value.code == Status.USAGE
        out, err = capsys.readouterr()
        assert (out, message in err) == ("", True)


def _first(document: dict[str, Any]) -> dict[str, Any]:
    side: dict[str, Any] = document["workloads"][0]["sides"][1]
    return side


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.update(schema="eofrace.verify/1"), "its schema is 'eofrace.verify/1': report reads"),
        (lambda one: one.pop("qemu"), "'qemu' is a required property"),
        (lambda one: one["workloads"][0].update(rounds="12"), r"workloads\[0\].rounds: '12' is not of type"),
        (lambda one: one["workloads"].clear(), r"workloads: \[\] should be non-empty"),
        (lambda one: one["workloads"][0]["sides"].clear(), r"sides: \[\] should be non-empty"),
        (lambda one: _first(one).update(seconds=[1.0] * 20_001), "too long"),
        (lambda one: one["workloads"][0].update(rounds=13), "13 rounds, and its times are not of as many"),
        (lambda one: _first(one)["seconds"].__setitem__(slice(0, 12), [9.0] * 12), "is said to take"),
        (lambda one: _first(one)["compared"]["none"].update(ratio=1.0), "is said to take 1 of none"),
        (lambda one: _first(one).update(side="x\x1b[2J", compared={}), "has no times"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    document = made.result()
    path = stored(tmp_path / "a.json", document)
    assert source.load(path).measured[0].sides[1].conclusion == "faster"
    change(document)
    with pytest.raises(UsageError, match=message) as caught:
        source.load(stored(path, document))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["{", '{"a": NaN}', '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match="not JSON"):
        source.load(tmp_path / "a.json")


def rows(root: Xml.Element) -> list[tuple[str, str, list[float]]]:
    """Of a drawing: strategy, what is written beside it, and where its interval lies."""
    return [
        (text(root, f"name-{number}"), text(root, f"words-{number}"), across(root, f"bar-{number}"))
        for number in range(sum(one.get("id", "").startswith("bar-") for one in root.iter()))
    ]


def part(root: Xml.Element, name: str) -> Xml.Element:
    (found,) = (one for one in root.iter() if one.get("id") == name)
    return found


def text(root: Xml.Element, name: str) -> str:
    (found,) = part(root, name).iter(NS + "text")
    return found.text or ""


def across(root: Xml.Element, name: str) -> list[float]:
    """From where to where a line goes: M x y L x y."""
    (line,) = part(root, name).iter(NS + "path")
    return [float(word) for word in re.findall(r"[ML] ([\d.]+)", line.get("d", ""))]


def mark(root: Xml.Element, number: int) -> Xml.Element:
    """The shape of a median."""
    (use,) = part(root, f"mark-{number}").iter(NS + "use")
    return part(root, use.get(XLINK + "href", "").removeprefix("#"))


def test_what_is_drawn_is_what_was_measured() -> None:
    document = made.result()
    cost = source.of(document)
    root = Xml.fromstring(drawing(cost, alone=True))
    drawn = rows(root)
    sides = [side for one in cost.measured for side in one.sides if side.ratio is not None and side.name != QEMU]
    assert [name for name, _, _ in drawn] == [side.name for side in sides] == ["no-alloc-space", "serialise"] * 3
    shapes = [mark(root, number).get("d") for number in range(6)]
    faster, slower, undecided = shapes[:3]
    assert len({faster, slower, undecided}) == 3
    assert shapes == [faster, slower, *[undecided] * 4]
    dashed = ["dasharray" in str(Xml.tostring(part(root, f"bar-{number}"))) for number in range(6)]
    assert dashed == [False] * 4 + [True] * 2
    (one, again) = across(root, "one")
    assert one == again
    for side, (_, words, (low, high)) in zip(sides, drawn, strict=True):
        assert side.ratio is not None
        told = f"{side.ratio.ratio:.2f} ({side.ratio.low:.2f} to {side.ratio.high:.2f}): {side.conclusion}"
        assert words == told
        assert (low < one, high < one) == (side.ratio.low < 1, side.ratio.high < 1)
    # The axis is logarithmic: as many times as far is as far again.
    places = [(ratio, place) for side, (_, _, (low, high)) in zip(sides, drawn, strict=True) if side.ratio is not None
              for ratio, place in ((side.ratio.low, low), (side.ratio.high, high))]  # fmt: skip
    scale = {(place - one) / log(ratio) for ratio, place in places if abs(log(ratio)) > 0.1}
    assert len(scale) >= 4
    assert max(scale) == pytest.approx(min(scale), rel=0.01)


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    wild = made.measured("random", 4)
    wild.runs["serialise"][0]["seconds"] *= 1e6
    for workload, arrows in ((wild, ["beyond-1"]), (made.measured("random", 4), [])):
        root = Xml.fromstring(drawing(source.of(made.result(workload)), alone=True))
        assert [one.get("id") for one in root.iter() if one.get("id", "").startswith("beyond")] == arrows


def test_hostile_words_are_text(pages: Path) -> None:
    text = (pages / "hostile.svg").read_text()
    assert [char for char in set(text) if not char.isprintable() and char != "\n"] == []
    root = Xml.fromstring(text)
    shapes = ("rect", "text", "g", "path", "use", "defs", "clipPath")
    known = {NS + name for name in ("svg", "title", "desc", "style", *shapes)}
    assert {one.tag for one in root.iter()} <= known
    assert any("<script>" in (one.text or "") for one in root.iter(NS + "desc"))
    said = markdown.text(source.load(pages / "hostile.json"))
    assert "\x1b" not in said
    assert "](javascript:" not in re.sub(r"`+[^`]+`+", "", said).replace("\\]", "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["html", "svg"])
def test_it_is_read_in_both_themes(pages: Path, opened: Open, kind: str, scheme: str) -> None:
    page = opened(pages / f"usual.{kind}", color_scheme=scheme)
    assert (page.errors, page.foreign) == ([], [])
    assert page.page.locator("[id^=words-]", has_text="slower").count() == 1
    assert poor(page) == []
    if kind == "html":
        assert page.poor_contrasts() == []
        before = page.page.locator("#ground path").evaluate("one => getComputedStyle(one).fill")
        page.page.locator("#theme").click()
        assert page.page.locator("#ground path").evaluate("one => getComputedStyle(one).fill") != before
        assert poor(page) == []
        assert page.poor_contrasts() == []
    page.page.evaluate(
        "document.querySelector('#name-1 text').style.setProperty('fill', 'rgb(128, 128, 128)', 'important')"
    )
    assert [text for text in poor(page) if "serialise" in text], "the control: grey is found"


def poor(page: Watched) -> list[str]:
    """Texts and marks of the drawing that do not stand out from its ground."""
    ground, *found = page.page.evaluate(
        """() => [getComputedStyle(document.querySelector("#ground path")).fill, ...[...document.querySelectorAll(
        "svg text, [id^=mark] use, [id^=bar] path, #legend_1 use")].map((one) => [one.textContent.trim()
        || one.parentNode.id, one.tagName === "text" ? getComputedStyle(one).fill : getComputedStyle(one).stroke])]"""
    )
    behind = _rgba(ground)[:3]
    return [text for text, colour in found if _contrast(_rgba(colour)[:3], behind) < 4.5]  # type: ignore[arg-type]


def test_a_hostile_page_does_nothing(pages: Path, opened: Open) -> None:
    for kind in ("html", "svg"):
        page = opened(pages / f"hostile.{kind}")
        assert (page.errors, page.foreign) == ([], [])
        assert page.page.locator("img, [onerror], [onload]").count() == 0
        assert "alert(1)" in page.page.locator("desc").inner_html()
    # The control: what is not escaped would be seen, and the policy stops it.
    text = (pages / "hostile.html").read_text().replace("<main>", "<main><script>document.title = 'x'</script>")
    (pages / "injected.html").write_text(text)
    page = opened(pages / "injected.html")
    assert page.page.title() != "x"
    assert any("Content Security Policy" in error for error in page.errors)


def test_the_page_has_all_numbers_without_scripts_and_fits_a_narrow_window(pages: Path, opened: Open) -> None:
    page = opened(pages / "usual.html", java_script_enabled=False)
    text = page.page.locator("main").inner_text()
    cost = source.load(pages / "usual.json")
    for measured in cost.measured:
        for side in measured.sides:
            assert side.ratio is None or f"{side.ratio.low:.2f} to {side.ratio.high:.2f}): {side.conclusion}" in text
    page = opened(pages / "usual.html")
    page.page.set_viewport_size({"width": 480, "height": 900})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 480


def test_one_side_alone_has_no_plot_to_draw() -> None:
    alone = made.measured("mixed", 2, {"none": 1.0})
    cost = source.of(copy.deepcopy(made.result(alone)))
    assert cost.status is Status.OK
    assert rows(Xml.fromstring(drawing(cost, alone=True))) == []
