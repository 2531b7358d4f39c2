"""What a run was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blockstack.guest import DEPTH
from blockstack.strategies import Strategy

if TYPE_CHECKING:
    from tracer.verify.qemu.daemon import Build


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
    held: bool = False
    """On a held disk, by schedules that are chosen; `directory`, `writes`, `cluster_size` and `depth` play no part."""
    format: str = "qcow2"
    """What the guest's disk is. One of another format than qcow2 runs under `strategies` (tracer/verify/formats)."""
    qemus: "tuple[Build, ...]" = ()
    """Builds of QEMU to be judged beside blockstack."""

    @property
    def steps(self) -> int:
        """Steps of progress in a cell."""
        return 1 if self.held else self.writes
