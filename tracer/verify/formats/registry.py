"""Which subjects a format has, each with its control."""

from tracer.verify.formats import filter as filters
from tracer.verify.formats import mirror, parallels, raw
from tracer.verify.formats.subject import Subject

QCOW2 = "qcow2"
"""The format that the strategies are about: its matrix is another one (tracer/verify/matrix.py)."""

SUBJECTS: dict[str, tuple[tuple[Subject, Subject], ...]] = {
    "raw": ((raw.GrowingRaw(), raw.Raw()),),
    "parallels": ((parallels.UnlockedImage(), parallels.ParallelsImage()),),
    "filter": (
        (filters.FilteredGrowingRaw(), filters.FilteredRaw()),
        (filters.PartialOverlay(), filters.Overlay()),
    ),
    "mirror": (
        (mirror.MirrorToUnsized(), mirror.MirrorToRaw()),
        (mirror.MirrorInParts(), mirror.MirrorToQcow2()),
        (mirror.MirrorToLargeInParts(), mirror.MirrorToLargeClusters()),
    ),
}
"""Format -> pairs (control, subject), one for each case."""

FORMATS = (QCOW2, *SUBJECTS)
"""By the names that `--format` takes."""
