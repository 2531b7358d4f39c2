"""`python -m bench report`: what a report as HTML of a large trace takes to write, and whether it pans smoothly."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bench import traces
from tracer.errors import EofraceError
from tracer.output import JsonFile
from tracer.report.console import wide

SCHEMA = "eofrace.bench-report/1"
MIB = 1 << 20
_CHROMIUM = "/usr/bin/chromium"

# In a process of its own: the most memory it has had is that of nothing else.
_WRITE = """
import json, sys, time
from pathlib import Path
begin = time.monotonic()
from tracer.report import html
from tracer.report.source import load
source = load(Path(sys.argv[1]))
judged = time.monotonic()
html.write(source, sys.argv[2])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([judged - begin, time.monotonic() - judged, peak / 1024]))
"""

# Times between frames, in ms, until `stop` is called.
_FRAMES = """() => {
  window.frames_seen = [];
  let last = performance.now(), on = true;
  const frame = (now) => { window.frames_seen.push(now - last); last = now; if (on) requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  window.stop_frames = () => { on = false; return window.frames_seen; };
}"""

_EPILOG = """\b
Examples:
  python -m bench report                          a million operations
  python -m bench report --operations 100000 --json -

\b
Exit status: 0 every row is reached, 1 one is not, 4 this host cannot do it."""


@click.command(epilog=_EPILOG)
@click.option("--operations", type=click.IntRange(1_000, 20_000_000), default=1_000_000, show_default=True)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
def report(operations: int, json_file: str | None) -> None:
    """One file that grows by every operation: judge its trace, write the report, and pan it in Chromium.

    Panned is a view of some thousand boxes, and one of all operations, counted. Without Chromium (Debian: chromium) and
    Playwright (pip install 'eofrace[test]') only the writing is measured.
    """
    into = JsonFile(json_file)
    with tempfile.TemporaryDirectory(prefix="eofrace-bench-") as name:
        trace, page = Path(name) / "trace.parquet", Path(name) / "report.html"
        traces.record_growing(trace, operations, 1)
        done = subprocess.run([sys.executable, "-c", _WRITE, str(trace), str(page)], capture_output=True, text=True)
        if done.returncode:
            raise EofraceError(f"the report was not written: {done.stderr}")
        judging, writing, mib = json.loads(done.stdout)
        rows: list[tuple[str, float, str, float | None]] = [
            ("judging the trace", judging, "s", None),
            ("writing the report", writing, "s", None),
            ("both", judging + writing, "s", 20.0),
            ("memory, at the most (VmHWM)", mib, "MiB", 1024.0),
            ("size of the report", page.stat().st_size / MIB, "MiB", 10.0),
        ]
        if Path(_CHROMIUM).exists():
            rows += _panned(page)
    found: list[dict[str, Any]] = [
        {
            "figure": figure,
            "measured": measured,
            "unit": unit,
            "at_most": limit,
            "reached": limit is None or measured <= limit,
        }
        for figure, measured, unit, limit in rows
    ]
    into.write({"schema": SCHEMA, "operations": operations, "rows": found})
    if not into.is_stdout:
        table = Table("figure", "measured", "wanted", "")
        for row in found:
            wanted = "" if row["at_most"] is None else f"<= {row['at_most']:g} {row['unit']}"
            verdict = "" if row["at_most"] is None else "reached" if row["reached"] else "not reached"
            table.add_row(row["figure"], f"{row['measured']:.2f} {row['unit']}", wanted, verdict)
        wide(120, stderr=False).print(table)
    sys.exit(0 if all(row["reached"] for row in found) else 1)


def _panned(page: Path) -> list[tuple[str, float, str, float | None]]:
    """Times between frames while the timeline is dragged."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        tab.locator(".timeline").scroll_into_view_if_needed()
        tab.wait_for_selector(".timeline.ready", timeout=60_000)
        ready = float(tab.evaluate("performance.now()"))
        counted = _drag(tab)
        tab.locator(".plot").focus()
        tab.keyboard.press("n")
        for _ in range(12):
            tab.keyboard.press("-")
            tab.wait_for_timeout(200)
            if "each a box" not in tab.locator(".status").inner_text():
                tab.keyboard.press("+")
                tab.wait_for_timeout(200)
                break
        boxes = _drag(tab)
        browser.close()
    return [
        ("until the timeline is there", ready / 1000, "s", None),
        ("median time of a frame, panning all, counted", statistics.median(counted), "ms", 34.0),
        ("95 % of these frames are within", _late(counted), "ms", None),
        ("median time of a frame, panning boxes", statistics.median(boxes), "ms", 34.0),
        ("95 % of these frames are within", _late(boxes), "ms", None),
    ]


def _drag(tab: Any) -> list[float]:
    """Drag the timeline to and fro."""
    box = tab.locator(".plot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.evaluate(_FRAMES)
    for step in range(120):
        tab.mouse.move(x + 200 * (1 - abs(step % 80 - 40) / 20), y)
    tab.mouse.up()
    frames: list[float] = tab.evaluate("window.stop_frames()")
    return frames[1:]


def _late(frames: list[float]) -> float:
    return sorted(frames)[int(len(frames) * 0.95)]
