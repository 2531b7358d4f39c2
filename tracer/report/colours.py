"""The colour of each verdict in a terminal; the word stands beside it always."""

from tracer.analysis.hazards import Verdict

STYLES = {
    Verdict.CONFIRMED: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.UNSAFE: "magenta",
    Verdict.CORRUPT: "bold red",
}
"""Verdict -> rich style."""
