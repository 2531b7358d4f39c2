"""Runs of verify inside the test's own process."""

from dataclasses import replace
from typing import Any

from blockstack.strategies import Strategy
from tracer.verify import matrix
from tracer.verify.options import Options

SILENT = matrix.Progress(lambda *_: None, lambda _: None, lambda _: None)


def options(*strategies: Strategy, **others: Any) -> Options:
    """As `verify` has them unless told otherwise, but for a fixed seed."""
    usual = Options(
        strategies=strategies,
        fallocates=("kernel", "legacy-xfs"),
        fs=None,
        aio=None,
        evidence="auto",
        directory=None,
        writes=2000,
        seed=1,
        cluster_size=65536,
    )
    return replace(usual, **others)
