"""The plot as an SVG by itself."""

from tracer.output import write_text
from tracer.report.cost.plot import svg
from tracer.report.cost.source import Cost


def write(cost: Cost, target: str) -> None:
    """Write it. Raises like `tracer.output.write_text`."""
    write_text(target, '<?xml version="1.0" encoding="UTF-8"?>\n' + svg(cost, alone=True) + "\n")
