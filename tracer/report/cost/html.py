"""The plot and the tables as a page that needs nothing else: no network, no other file, and no script to be read.

Its style sheet, its themes and its policy are those of the other page (tracer/report/html); its one script changes the
theme.
"""

import base64
import hashlib
from pathlib import Path

from tracer.bench.statistics import CONFIDENCE, ROUNDS
from tracer.errors import UnsupportedError
from tracer.output import atomic_output
from tracer.report.cost.plot import style, svg, told
from tracer.report.cost.source import Cost
from tracer.report.cost.text import FIGURE_HEADS, TIMES, figures, latencies, times
from tracer.report.escape import printable

_ASSETS = Path(__file__).parent / "assets"
_COMMON = Path(__file__).parents[1] / "html" / "assets"


def write(cost: Cost, target: str) -> None:
    """Write the page. Raises UnsupportedError without Jinja2 and Matplotlib, and what `atomic_output` raises."""
    page = render(cost)
    with atomic_output(target) as stream:
        stream.write(page.encode("utf-8", "backslashreplace"))


def render(cost: Cost) -> str:
    """The page. Raises UnsupportedError without Jinja2 and Matplotlib."""
    try:
        import jinja2
    except ImportError as error:
        raise UnsupportedError("a report as HTML needs Jinja2: pip install 'eofrace[report]'") from error
    script = (_COMMON / "theme.js").read_text() + "theme();\n"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["printable"] = printable
    return environment.get_template("cost.html").render(
        cost=cost,
        plot=svg(cost, alone=False),
        style=(_COMMON / "page.css").read_text() + _style(),
        script=script,
        hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        heads=[*TIMES, f"than {cost.baseline}"],
        figure_heads=FIGURE_HEADS,
        times=times,
        figures=figures,
        latencies=latencies,
        told=lambda side: told(side, cost.baseline),
        confidence=f"{CONFIDENCE:.0%}",
        enough=ROUNDS,
    )


def _style() -> str:
    """The drawing's colours in the dark theme, as the page's own are chosen."""
    more = ".drawing svg { display: block; width: 100%; height: auto; min-width: 640px; }"
    chosen, system = ':root[data-theme="dark"] .drawing', ":root:not([data-theme]) .drawing"
    return f"\n{more}\n{style(chosen)}\n@media (prefers-color-scheme: dark) {{ {style(system)} }}\n"
