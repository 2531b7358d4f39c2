"""The plot: of each workload and strategy the median ratio to the baseline and its interval, on a logarithmic axis.

Matplotlib draws it, its texts as texts. A style sheet, in the drawing or in the page that holds it, puts other colours
in the place of those that were drawn where the theme is dark. What is concluded is written beside each row and has a
mark of its own, so that nothing rests on colours.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Xml

from tracer.bench.statistics import CONFIDENCE, Conclusion
from tracer.errors import UnsupportedError
from tracer.report.cost.source import Cost, Side
from tracer.report.escape import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SVG = "http://www.w3.org/2000/svg"

_ROW, _AROUND, _WIDTH = 0.27, 1.6, 9.6
"""Inches: of a row, of what is above and below them, of the drawing."""
_LONGEST = 26
"""Characters of a name that there is room for."""
_WIDEST = 64.0
"""A ratio, or its inverse, at which the axis ends: what lies beyond ends in an arrow."""

_COLOURS = {
    "ground": ("#ffffff", "#171d26"),
    "ink": ("#1b2330", "#e6ebf2"),
    "soft": ("#566072", "#a7b1c0"),
    "grid": ("#dde2e9", "#2b3442"),
    "slower": ("#7b1fa2", "#dfa8f5"),
    "faster": ("#12683a", "#7ee2a8"),
}
"""What is drawn so -> its colour in the light theme and in the dark one."""

_INK = {name: light for name, (light, _) in _COLOURS.items()}
_MARKS = {Conclusion.SLOWER.value: (">", "slower"), Conclusion.FASTER.value: ("<", "faster")}
_NO_MARK = ("o", "soft")
"""Of a row of which nothing is concluded: a circle that is empty."""


def svg(cost: Cost, *, alone: bool) -> str:
    """The drawing; `alone` with a style sheet for the dark theme in it, else the page has one.

    Row number n has a bar, a mark, a name and words with the ids bar-n, mark-n, name-n and words-n. Raises
    UnsupportedError without Matplotlib.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError("a plot needs Matplotlib: pip install 'eofrace[report]'") from error
    groups = [(measured.name, list(_compared(measured.sides))) for measured in cost.measured]
    groups = [(name, sides) for name, sides in groups if sides]
    lines = sum(1 + len(sides) for _, sides in groups)
    # Names are anybody's: a dollar begins no formula. The salt makes the same drawing of the same figures.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "eofrace", "text.parse_math": False}):
        figure = Figure(figsize=(_WIDTH, _AROUND + _ROW * lines), facecolor=_INK["ground"])
        figure.patch.set_gid("ground")
        height = figure.get_figheight()
        axes = figure.add_axes((0.2, 0.9 / height, 0.43, max(_ROW * lines, 0.01) / height))
        _axis(axes, cost, [side for _, sides in groups for side in sides])
        _rows(axes, groups)
        _legend(axes)
        into = io.BytesIO()
        with warnings.catch_warnings():
            # That its own font lacks a letter: texts stay texts, and a browser has others.
            warnings.filterwarnings("ignore", r"Glyph \d+ ", UserWarning)
            figure.savefig(into, format="svg", metadata={"Date": None})
    return _finished(into.getvalue(), cost, groups, alone=alone)


def told(side: Side, baseline: str) -> str:
    """A strategy's ratio and what is concluded, as a sentence less its end."""
    found = side.ratio
    assert found is not None
    times = f"{found.ratio:.2f} times as long as {printable(baseline)} ({found.low:.2f} to {found.high:.2f})"
    return f"{printable(side.name)} takes {times}: {side.conclusion}"


def style(root: str) -> str:
    """A style sheet that has the drawing dark in what the selector `root` selects."""
    return " ".join(
        f'{root} [style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in _COLOURS.values()
        for kind in ("fill", "stroke")
    )


def _compared(sides: Sequence[Side]) -> Iterator[Side]:
    """Strategies with a ratio; qemu-img bench is another driver, and of no strategy."""
    return (side for side in sides if side.ratio is not None and side.is_strategy)


def _axis(axes: "Axes", cost: Cost, sides: Sequence[Side]) -> None:
    """Ratios across, with all intervals and 1 among them, within `_WIDEST`."""
    from matplotlib.ticker import AutoLocator, FormatStrFormatter, LogLocator, NullLocator

    found = [side.ratio for side in sides if side.ratio is not None]
    low = max(min([0.8, *(one.low for one in found)]) / 1.05, 1 / _WIDEST)
    high = min(max([1.25, *(one.high for one in found)]) * 1.05, _WIDEST)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(AutoLocator() if high / low < 4 else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.tick_params(colors=_INK["soft"], labelsize=9)
    axes.grid(axis="x", color=_INK["grid"], zorder=0)
    axes.axvline(1, color=_INK["ink"], linewidth=1.2, zorder=1, gid="one")
    axes.set_frame_on(False)
    axes.set_yticks([])
    what = f"times as long as {_name(cost.baseline)}: median of the rounds, and its {CONFIDENCE:.0%} interval"
    axes.set_xlabel(what, color=_INK["soft"], fontsize=9)
    for words, apart, side in (("← faster", -8, "right"), ("slower →", 8, "left")):
        where: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
            "va": "bottom",
            "ha": side,
        }
        axes.annotate(words, (1, 1), (apart, 0), color=_INK["soft"], fontsize=9, **where)
    axes.set_title(_title(cost), loc="left", x=-0.44, pad=22, color=_INK["ink"], fontsize=11, fontweight="bold")


def _rows(axes: "Axes", groups: Sequence[tuple[str, Sequence[Side]]]) -> None:
    beside = axes.get_yaxis_transform()
    place, number = 0, 0
    for name, sides in groups:
        axes.text(-0.44, place, _name(name), transform=beside, va="center", color=_INK["ink"], fontweight="bold")
        for side in sides:
            place += 1
            _row(axes, place, number, side)
            number += 1
        place += 1
    axes.set_ylim(place - 0.3, -0.6)


def _row(axes: "Axes", place: int, number: int, side: Side) -> None:
    found = side.ratio
    assert found is not None
    beside = axes.get_yaxis_transform()
    mark, kind = _MARKS.get(side.conclusion, _NO_MARK)
    few = side.conclusion not in set(Conclusion)
    low, high = axes.get_xlim()
    bar: dict[str, Any] = {"color": _INK[kind], "linewidth": 2.5, "solid_capstyle": "butt"}
    ends = [min(max(end, low), high) for end in (found.low, found.high)]
    axes.plot(ends, [place, place], gid=f"bar-{number}", linestyle=(0, (2, 1.4)) if few else "-", **bar)
    for end, arrow in ((found.low, "<"), (found.high, ">")):
        if not low <= end <= high:
            edge = min(max(end, low), high)
            axes.plot([edge], [place], arrow, gid=f"beyond-{number}", color=_INK[kind], clip_on=False)
    centre = min(max(found.ratio, low), high)
    axes.plot([centre], [place], gid=f"mark-{number}", clip_on=False, **_marked(mark, kind))
    words = f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f}): {side.conclusion}"
    ink: dict[str, Any] = {"transform": beside, "va": "center", "color": _INK["ink"], "fontsize": 9}
    axes.text(-0.03, place, _name(side.name), ha="right", gid=f"name-{number}", **ink)
    axes.text(1.04, place, words, gid=f"words-{number}", **ink)


def _marked(mark: str, kind: str) -> Mapping[str, Any]:
    """How a median is drawn."""
    filled = _INK["ground"] if (mark, kind) == _NO_MARK else _INK[kind]
    return {
        **{"marker": mark, "markersize": 8, "linestyle": "none", "color": _INK[kind]},
        **{"markerfacecolor": filled, "markeredgewidth": 1.5},
    }


def _legend(axes: "Axes") -> None:
    from matplotlib.lines import Line2D

    told = {
        "slower": _MARKS[Conclusion.SLOWER.value],
        "faster": _MARKS[Conclusion.FASTER.value],
        "no difference shown: the interval contains 1, or there are too few rounds (dashed)": _NO_MARK,
    }
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.01, 0.3), "bbox_transform": _below(axes)}
    form: dict[str, Any] = {"ncols": 3, "frameon": False, "handletextpad": 0.1, "columnspacing": 1.2}
    marks = [Line2D([], [], label=words, **_marked(mark, kind)) for words, (mark, kind) in told.items()]
    axes.legend(handles=marks, fontsize=9, labelcolor=_INK["soft"], **below, **form)


def _below(axes: "Axes") -> Any:
    """Across the drawing as parts of it, up as inches: below the axis, however many rows there are."""
    from matplotlib.transforms import blended_transform_factory

    figure = axes.figure
    return blended_transform_factory(figure.transFigure, figure.dpi_scale_trans)


def _finished(text: bytes, cost: Cost, groups: Sequence[tuple[str, Sequence[Side]]], *, alone: bool) -> str:
    """Matplotlib's SVG with a name, a description and a style sheet, without its DTD and what it says of itself."""
    Xml.register_namespace("", _SVG)
    Xml.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = Xml.fromstring(text)  # noqa: S314 - of our own making
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for shape in root.iterfind(f".//{{{_SVG}}}defs/{{{_SVG}}}path"):
        # A mark has the colours of whoever uses it: style sheets do not find the copy by what is around it.
        shape.set("style", re.sub(r"stroke: #\w+;?", "", shape.get("style", "")))
    root.set("role", "img")
    title, description = Xml.Element(f"{{{_SVG}}}title"), Xml.Element(f"{{{_SVG}}}desc")
    title.text = _title(cost)
    description.text = " ".join(
        f"{printable(name)}: {told(side, cost.baseline)}." for name, sides in groups for side in sides
    )
    root[:0] = [title, description]
    if alone:
        sheet = Xml.Element(f"{{{_SVG}}}style")
        sheet.text = f"@media (prefers-color-scheme: dark) {{ {style('svg')} }}"
        root.insert(2, sheet)
    return Xml.tostring(root, encoding="unicode")


def _title(cost: Cost) -> str:
    return f"What each strategy costs, compared with {_name(cost.baseline)}"


def _name(text: str) -> str:
    """As much of a name as there is room for."""
    return shortened(printable(text), _LONGEST)
