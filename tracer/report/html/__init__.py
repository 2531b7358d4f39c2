"""A report as one HTML file that needs nothing else: no network, no other file.

`view` says what is told, `choose` which operations the page holds, `rows` and `pack` make them small, `pairs` finds the
dangerous ones, `account` tells them in words, `figure` is Bokeh's part, and `page` puts all of it into
`assets/page.html`. The scripts there only bring the data to the figure and the reader to the data: the plotting is
Bokeh's.
"""

from pathlib import Path

from tracer.output import atomic_output
from tracer.report.source import Source


def write(source: Source, target: str | Path) -> None:
    """Write the report. Raises UnsupportedError without Bokeh, TraceError, and what `atomic_output` raises."""
    from tracer.report.html.page import render  # Bokeh takes a third of a second

    page = render(source)
    with atomic_output(target) as stream:
        stream.write(page.encode("utf-8", "backslashreplace"))
