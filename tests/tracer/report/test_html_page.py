"""The page in a real Chromium, opened from file:// as a reader opens it. Each check has a control that it can fail."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import traces
from tests.tracer.report import html_made
from tests.tracer.report.html_browser import Watched
from tracer import trace
from tracer.errors import UnsupportedError
from tracer.operations import NONE_RESULT, Op
from tracer.report import html
from tracer.report.source import load
from tracer.trace_meta import TraceMeta

Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its report beside it."""
    directory = html_made.usual(tmp_path_factory.mktemp("html") / "run")
    html.write(load(directory), directory / "report.html")
    return directory


def test_it_loads_without_an_error_or_a_request(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html")
    for number in (1, 2, 3):
        page.timeline(f"cell-{number}")
    assert page.errors == []
    assert page.foreign == []
    assert page.page.locator("#trouble").is_hidden()


def test_a_request_would_be_seen_and_the_policy_stops_it(usual: Path, opened: Open, tmp_path: Path) -> None:
    text = (usual / "report.html").read_text()
    injected = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "owned"</script>'
    stopped = tmp_path / "stopped.html"
    stopped.write_text(text.replace("<main>", f"<main>{injected}"))
    page = opened(stopped)
    page.timeline()
    assert page.page.title() != "owned"
    assert any("Content Security Policy" in error for error in page.errors)
    free = tmp_path / "free.html"
    free.write_text(text.replace("<main>", f"<main>{injected}").replace("Content-Security-Policy", "x-none"))
    page = opened(free)
    page.timeline()
    assert page.foreign == ["http://127.0.0.1:9/x.png"]
    assert page.page.title() == "owned"


def test_the_matrix_says_what_the_json_says(usual: Path, opened: Open) -> None:
    document = json.loads((usual / "verify.json").read_text())
    page = opened(usual / "report.html").page
    tiles = page.locator("a.tile")
    assert tiles.count() == len(document["cells"])
    for number, one in enumerate(document["cells"]):
        tile = tiles.nth(number)
        row = tile.locator("xpath=ancestor::tr")
        assert row.locator("th").inner_text() == one["strategy"]
        assert one["verdict"] in tile.locator(".word").inner_text()  # worded
        assert one["verdict"] in tile.get_attribute("class")  # coloured
        assert f"{one['conflicts']} conflicts, {one['exposed']} exposed, {one['lost']} lost" in tile.inner_text()
        assert ("evidence incomplete" in tile.inner_text()) == (one["lost_events"] > 0 or one["trace"] is None)
        section = page.locator(tile.get_attribute("href"))
        assert one["reason"] in section.inner_text()
        assert one["verdict"] in section.locator(".verdict .badge").inner_text()
    colours = {tile.evaluate("one => getComputedStyle(one).backgroundColor") for tile in tiles.all()}
    assert len(colours) == len({one["verdict"] for one in document["cells"]})
    assert "12 records were dropped" in page.locator("header .doubts").inner_text()
    assert "There is no trace of this cell" in page.locator("#cell-4").inner_text()


def test_it_is_worked_by_keys(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html")
    everything = page.press("cell-1", "0")
    assert "9 operations, each a box" in everything
    closer = page.press("cell-1", "+", "+", "+")
    assert closer != everything
    assert page.press("cell-1", "ArrowRight", "ArrowUp") != closer
    assert page.press("cell-1", "ArrowLeft", "ArrowDown", "-", "-", "-", "0") == everything
    assert "Pair 1 of 3" in page.press("cell-1", "n")
    assert "Pair 2 of 3" in page.press("cell-1", "n")
    assert "Pair 1 of 3" in page.press("cell-1", "p")
    told = page.page.locator("#cell-1 .operation")
    assert "op\nfallocate" in told.inner_text()
    page.press("cell-1", "0", "]")
    assert "op\nmark_wait" in told.inner_text()
    page.press("cell-1", "[", "[")
    assert "op\naio_write" in told.inner_text()
    assert page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.errors == []


def test_a_pair_stays_in_view_however_close_one_looks(tmp_path: Path, opened: Open) -> None:
    """With nothing in the middle between the two."""
    apart = html_made.pair()
    apart["offset"][apart["op"] == Op.AIO_WRITE] += 1 << 20
    run = html_made.run(tmp_path / "run", [(html_made.cell("none", "unsafe"), apart)])
    html.write(load(run), run / "report.html")
    page = opened(run / "report.html")
    page.press("cell-1", "n")
    close = page.press("cell-1", *["+"] * 14)
    assert "Pair 1 of 1" in close
    assert re.search(r": [1-9] operations?, ", close), close


def test_it_is_worked_by_the_mouse(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html")
    timeline = page.timeline()
    everything = page.press("cell-1", "n")
    box = timeline.locator(".plot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x, y)
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -400)
    page.page.keyboard.up("Control")
    page.page.wait_for_timeout(400)
    closer = timeline.locator(".status").inner_text()
    assert closer != everything
    page.page.mouse.down()
    page.page.mouse.move(x + 150, y + 20, steps=5)
    page.page.mouse.up()
    page.page.wait_for_timeout(400)
    assert timeline.locator(".status").inner_text() != closer


def test_every_field_of_an_operation_is_shown_where_the_mouse_is(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html")
    timeline = page.timeline()
    page.press("cell-1", "n")
    box = timeline.locator(".plot").bounding_box()
    seen = set()
    for upwards in (0.25, 0.35, 0.45, 0.55, 0.65):
        for across in (0.45, 0.5, 0.55, 0.6):
            page.page.mouse.move(box["x"] + across * box["width"], box["y"] + upwards * box["height"])
            page.page.wait_for_timeout(30)
            seen.add(timeline.locator(".operation").inner_text())
    (written,) = {text for text in seen if "aio_write" in text}
    for name in ("op", "comm", "offset", "length", "t_begin", "t_end", "t_applied", "size_begin", "size_end"):
        assert f"{name}\n" in written
    for told in ("qemu", "64 KiB", "4711/4712", "seq_begin\n3", "seq_end\n5", "not seen", "128 KiB", "65536"):
        assert told in written
    assert any("fallocate" in text for text in seen)


def test_a_link_lands_on_its_hazard(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html")
    page.page.locator("#hazard-1-1 a.place", has_text="last").click()
    page.page.locator("#cell-1-status", has_text="Pair 3 of 3").wait_for()
    assert page.page.evaluate("document.activeElement.className") == "plot"
    shown = page.page.locator("#cell-1 .operation").inner_text()
    assert "offset\n512 KiB" in shown  # the fallocate of the third pair
    # The address leads there, too.
    again = opened(usual / "report.html")
    again.page.goto(f"{(usual / 'report.html').as_uri()}#hazard-1-1-worst")
    again.page.reload()
    again.page.locator("#cell-1-status", has_text="Pair 1 of 3").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_boxes_stand_out(usual: Path, opened: Open, scheme: str) -> None:
    page = opened(usual / "report.html", color_scheme=scheme)
    names = ("write", "fallocate", "truncate", "wait", "eof", "hazard", "chosen", "wait-hatch")
    assert page.faint(names, 3.0) == []
    page.page.evaluate("document.documentElement.style.setProperty('--write', '#808080aa')")
    assert page.faint(names, 3.0) == ["write"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_are_readable(usual: Path, opened: Open, scheme: str, tmp_path: Path) -> None:
    page = opened(usual / "report.html", color_scheme=scheme)
    page.timeline()
    page.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.page.locator("html").get_attribute("data-theme") == scheme
    assert page.poor_contrasts() == []
    page.page.locator("#theme").click()
    assert page.page.locator("html").get_attribute("data-theme") != scheme
    assert page.poor_contrasts() == []
    page.page.evaluate("document.querySelector('.reason').style.color = 'rgba(128, 128, 128, 0.5)'")
    (poor,) = page.poor_contrasts()
    assert poor.startswith("all is well")


def test_the_theme_is_that_of_the_system_without_scripts(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html", color_scheme="dark", java_script_enabled=False)
    assert page.page.locator("#cell-1 noscript").count() == 1
    ground = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(16, 20, 27)"


def test_it_fits_a_narrow_window(usual: Path, opened: Open) -> None:
    page = opened(usual / "report.html")
    page.timeline()
    page.page.set_viewport_size({"width": 480, "height": 900})
    page.page.wait_for_timeout(200)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 480


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything that can be a text is hostile."""
    bad = html_made.HOSTILE
    ops = html_made.pair(comm=html_made.COMM)
    names = ("strategy", "fs", "aio", "fallocate", "kernel", "reason", "name", "case")
    one = {**html_made.cell("corrupt", "corrupt"), **dict.fromkeys(names, bad), "notes": [bad]}
    directory = html_made.run(
        tmp_path_factory.mktemp("html") / "<img src=x onerror=alert(1)>",
        [(one, ops)],
        reason=bad,
        host={"kernel": bad, bad: bad, "facts": [{"name": bad, "ok": False, "detail": bad, "remedy": bad}]},
        mechanisms={bad: bad},
        gaps={bad: bad},
        notes=[bad],
        meta={"strategy": bad, "gaps": {bad: bad}, "mechanisms": {bad: bad}},
    )
    html.write(load(directory), directory / "report.html")
    return directory


def test_hostile_texts_are_shown_and_do_nothing(hostile: Path, opened: Open) -> None:
    page = opened(hostile / "report.html")
    page.press("cell-1", "n")
    assert page.errors == []
    assert page.foreign == []
    assert "owned" not in page.page.title().split()
    assert page.page.locator("img, svg:not([class]), [onerror], [onload], [autofocus]").count() == 0
    text = page.page.locator("body").inner_text()
    assert "{{7*7}}" in text  # not 49: no template reads it
    assert "onerror=" in text
    assert r"\x1b[31m" in text
    assert r"\u2028" in text
    page.press("cell-1", "]")
    assert "comm\n</script><img s" in page.page.locator("#cell-1 .operation").inner_text()


def test_nothing_in_the_file_acts_on_a_terminal(hostile: Path) -> None:
    text = (hostile / "report.html").read_text()
    assert [char for char in set(text) if not char.isprintable() and char != "\n"] == []
    assert html_made.HOSTILE in json.loads((hostile / "verify.json").read_text())["cells"][0]["reason"]


def test_a_trace_that_is_not_complete_says_so_wherever_its_verdict_stands(opened: Open, tmp_path: Path) -> None:
    ops = html_made.pair()[2:3]
    ops["seq_end"] = ops["t_end"] = ops["cpu_end"] = 0
    ops["result"] = NONE_RESULT
    gaps = {"fallocate": "no hook"}
    trace.write(tmp_path / "one.parquet", ops, TraceMeta(dropped=3, unfinished=1, gaps=gaps, command=("a", "b c")))
    html.write(load(tmp_path / "one.parquet"), tmp_path / "one.html")
    page = opened(tmp_path / "one.html")
    page.timeline()
    for place in ("header", "#cell-1"):
        told = page.page.locator(place).inner_text()
        assert "inconclusive" in told
        assert "evidence incomplete" in told
        for doubt in ("3 records were dropped", "1 operations were still in flight at the end", "not seen: fallocate"):
            assert doubt in told
    page.press("cell-1", "]")
    assert "t_end\nstill in flight at the end" in page.page.locator(".operation").inner_text()
    assert "a 'b c'" in page.page.locator("#again").inner_text()
    assert "no hook" in page.page.locator("#host").inner_text()


def test_a_large_trace_is_counted_and_says_how_much_of_it_is_there(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.report.html.page.MAX_OPERATIONS", 2_000)
    traces.record_growing(tmp_path / "large.parquet", 20_000, 1)
    html.write(load(tmp_path / "large.parquet"), tmp_path / "large.html")
    page = opened(tmp_path / "large.html")
    assert "about 20,000 operations, counted by place" in page.press("cell-1", "0")
    assert "more pairs are counted, and not outlined" in page.press("cell-1", "0")
    assert "of 20,000 operations" in page.page.locator(".coverage").inner_text()
    assert "each a box. Pair 1 of 3" in page.press("cell-1", "n")  # all of them are held there
    assert page.errors == []


@pytest.mark.slow
def test_a_default_run_is_below_a_mebibyte_and_a_half(tmp_path: Path) -> None:
    traces.record_growing(tmp_path / "one.parquet", 6_000, 1)
    ops = trace.read(tmp_path / "one.parquet").ops
    html_made.run(tmp_path / "run", [(html_made.cell(f"strategy-{number}", "unsafe"), ops) for number in range(10)])
    html.write(load(tmp_path / "run"), tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size < 3 << 19


def test_without_bokeh_it_says_what_to_install(usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'eofrace\[report\]'"):
        html.write(load(usual), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
