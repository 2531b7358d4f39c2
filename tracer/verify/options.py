"""What a run was asked for."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blockstack.guest import DEPTH
from blockstack.strategies import Strategy
from tracer.errors import UsageError

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


def refuse_with_held(given: Collection[str], format_name: str) -> None:
    """Raise UsageError for what cannot be said beside --held: `given` are the parameters that were."""
    for name, option in (("directory", "--dir"), ("writes", "--writes"), ("cluster_size", "--cluster-size")):
        if name in given:
            raise UsageError(f"--held makes its own disk and writes: leave {option} out")
    if format_name != "qcow2":
        raise UsageError(f"--held chooses a schedule for qcow2 alone: leave --format {format_name} or --held out")
