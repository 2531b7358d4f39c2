"""Puts a page together: the texts by Jinja2, which escapes all of them; data and scripts packed beside them.

What comes from a trace is in the page either as escaped text or inside a packed block, whose characters mean nothing to
HTML. The policy in its head lets the browser execute the two scripts of this package, known by their hashes, and load
nothing.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from tracer.report.html import figure
from tracer.report.html.choose import LAYERS, MAX_BINS, MAX_OPERATIONS, Shown, choose, fair_shares
from tracer.report.html.pack import block, text
from tracer.report.html.pairs import pack_pairs
from tracer.report.html.rows import pack_rows
from tracer.report.html.view import MAX_HAZARDS, Section, page, section
from tracer.report.source import Source

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("unpack.js", "rows.js", "units.js", "grid.js", "timeline.js", "controls.js", "theme.js", "page.js")

EXACT = 80_000
"""Operations up to which times keep their nanoseconds. With more, it is a tenth of a microsecond: two bytes less."""


def render(source: Source) -> str:
    """The report as one page. Raises UnsupportedError without Bokeh, and TraceError."""
    bokeh, drawing = figure.script(), figure.description()
    import jinja2

    sections: list[Section] = []
    blocks: dict[str, str] = {}
    recordings = source.recordings
    wants = [0 if one.trace is None else one.trace.operations for one in recordings]
    shares = fair_shares(wants, MAX_OPERATIONS)
    drawn: list[Shown | None] = []
    for recording, share in zip(recordings, shares, strict=True):
        hazards = () if recording.analysis is None else recording.analysis.hazards[:MAX_HAZARDS]
        bins = MAX_BINS // len(recordings)
        drawn.append(None if recording.trace is None else choose(recording.trace, hazards, share, bins))
    unit_ns = 1 if sum(one.held for one in drawn if one is not None) <= EXACT else 100
    for number, (recording, shown) in enumerate(zip(recordings, drawn, strict=True), 1):
        told = section(number, recording, shown)
        sections.append(told)
        if shown is not None:
            blocks |= _blocks(told, shown, pack_pairs(told, shown, recording), unit_ns)
    glue = _script()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html")
    return template.render(
        page=page(source, tuple(sections)),
        style=(_ASSETS / "page.css").read_text(),
        glue=glue,
        hashes=[_hash(glue), _hash(bokeh)],
        blocks=blocks | {"figure": block({"item": drawing}, {}), "bokeh": text([bokeh.encode()])},
        unit="1 ns" if unit_ns == 1 else "0.1 us",
        layers=list(LAYERS),
    )


def _script() -> str:
    return "(() => {\n" + "\n".join((_ASSETS / name).read_text() for name in _SCRIPTS) + "})();\n"


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _blocks(told: Section, shown: Shown, pairs: str, unit_ns: int) -> dict[str, str]:
    """The packed data of a recording, by the id of its element."""
    files: list[dict[str, Any]] = []
    blocks = {f"{told.id}-pairs": pairs}
    for at, file in enumerate(shown.files):
        name = f"{told.id}-file-{at}"
        header: dict[str, Any] = {"grid": None, "stretches": [[one.low, one.high] for one in file.stretches]}
        if file.grid is not None:
            header["grid"] = f"{name}-grid"
            blocks[f"{name}-grid"] = file.grid.packed()
        blocks[name] = pack_rows(file.ops, header, begin_ns=shown.begin_ns, unit_ns=unit_ns)
        one = {"block": name, "dev": str(file.id[0]), "ino": str(file.id[1]), "bytes": file.span_bytes}
        files.append(one)
    data = {
        "span_ns": shown.end_ns - shown.begin_ns,
        "files": files,
        "layers": {name: [op.label for op in ops] for name, ops in LAYERS.items()},
        "ops": {int(op): op.label for ops in LAYERS.values() for op in ops},
    }
    return blocks | {f"{told.id}-data": block(data, {})}
