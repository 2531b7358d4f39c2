"""The one figure of a page, made by Bokeh; `assets/timeline.js` fills it with the operations in view.

Colours are set in the page, from its style sheet: it has two themes. Each kind of operation is a glyph of its own, so
that it can be hidden, and told apart without its colour: by hatches.
"""

from typing import Any

from tracer.errors import UnsupportedError

HATCHES = {"fallocate": "right_diagonal_line", "wait": "left_diagonal_line", "truncate": "horizontal_line"}
"""Layers that have one, as the legend has it (assets/page.css). A write has none."""

ORDER = ("wait", "write", "fallocate", "truncate")
"""From the back to the front."""


def script() -> str:
    """BokehJS, the part that plots need. Raises UnsupportedError."""
    _check()
    from bokeh.settings import settings

    path = settings.bokehjs_path() / "js" / "bokeh.min.js"
    return path.read_text(encoding="utf-8")


def description() -> dict[str, Any]:
    """The figure as BokehJS embeds it. Raises UnsupportedError."""
    _check()
    from bokeh.embed import json_item

    return dict(json_item(_figure()))


def _check() -> None:
    try:
        import bokeh
        import jinja2  # noqa: F401
    except ImportError as error:
        raise UnsupportedError("a report as HTML needs Bokeh: pip install 'eofrace[report]'") from error
    assert bokeh


def _figure() -> Any:
    from bokeh.models import (
        AdaptiveTicker,
        BoxZoomTool,
        ColumnDataSource,
        HoverTool,
        PanTool,
        Range1d,
        ResetTool,
        WheelZoomTool,
    )
    from bokeh.plotting import figure

    pan, wheel = PanTool(), WheelZoomTool(modifiers={"ctrl": True})
    plot = figure(
        name="timeline",
        sizing_mode="stretch_width",
        height=420,
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        tools=[pan, BoxZoomTool(), wheel, ResetTool()],
        active_drag=pan,
        active_scroll=wheel,
        toolbar_location=None,
        output_backend="canvas",
        min_border_left=76,
        # From the first frame on: what is half painted at the edges is never painted over.
        background_fill_color=None,
        border_fill_color=None,
    )
    plot.yaxis[0].ticker = AdaptiveTicker(
        base=1024, mantissas=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], min_interval=512
    )
    plot.yaxis[0].axis_label = "offset in the file"
    hovered: list[Any] = []
    empty: dict[str, list[float]] = {name: [] for name in ("left", "right", "bottom", "top", "alpha", "row", "color")}
    box: dict[str, Any] = {"left": "left", "right": "right", "bottom": "bottom", "top": "top"}
    for name in ("density", *ORDER):
        source = ColumnDataSource(empty, name=f"{name}-source")
        style: dict[str, Any] = {"fill_alpha": "alpha", "line_width": 3 if name == "truncate" else 1}
        if name == "density":
            style["line_color"] = None
        if name in HATCHES:
            style |= {"hatch_pattern": HATCHES[name], "hatch_scale": 7, "hatch_weight": 1, "hatch_alpha": 0.8}
        hovered.append(plot.quad(**box, source=source, name=name, **style))
    # i_size is known when an operation began or ended, and is drawn as if it had kept it until the next one.
    eof = ColumnDataSource({"t": [], "size": []}, name="eof-source")
    plot.step("t", "size", source=eof, mode="after", line_width=2, name="eof")
    for name in ("pairs", "chosen"):
        source = ColumnDataSource(empty, name=f"{name}-source")
        width = 3 if name == "chosen" else 1.5
        hovered.append(plot.quad(**box, source=source, name=name, fill_alpha=0, line_width=width))
    marks = ColumnDataSource(empty, name="marks-source")
    plot.scatter("left", "top", source=marks, name="marks", marker="inverted_triangle", size=9)
    plot.add_tools(HoverTool(renderers=hovered, tooltips=None, name="hover"))
    return plot
