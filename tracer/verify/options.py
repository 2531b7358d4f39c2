"""What a run was asked for."""

from dataclasses import dataclass
from pathlib import Path

from blockstack.guest import DEPTH
from blockstack.strategies import Strategy


@dataclass(frozen=True, slots=True)
class Options:
    """One run of the matrix. `None` leaves the choice to the run."""

    strategies: tuple[Strategy, ...]
    """To be judged, the control among them or not: it always runs."""
    fallocates: tuple[str, ...]
    fs: str | None
    aio: str | None
    evidence: str  # auto, kernel or driver
    directory: Path | None
    writes: int
    seed: int
    cluster_size: int
    depth: int = DEPTH
