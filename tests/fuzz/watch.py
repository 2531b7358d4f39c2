"""Did the driver write guest data over metadata? Judged from the image as it was, and from what reached the kernel."""

import os
from pathlib import Path

from blockstack.journal import Entry, Journal, Kind, RequestFlag
from tests.fuzz.layout import HEADER, REFTABLE, Layout

MARK = b"\xa5guest data\x5a" * 64
"""What the guest writes: in no metadata may it be found."""

_TABLE_POINTER = (48, 60)
_LONGEST_HEADER = 112
_DATA_FILE = 1 << 2  # incompatible feature, in the last byte of their eight
_LOOK_BYTES = 1 << 20
_LOOK_TABLES = 1000


class Watch:
    """`before` is the image's layout before anything was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.before = Layout(path)
        with path.open("rb") as file:
            head = file.read(80).ljust(80, b"\0")
        self._had = self._lasting()
        # Guest data goes to another file then, and the journal does not say to which one a write went.
        self._external = head[7] >= 3 and bool(head[79] & _DATA_FILE)
        self.data_writes = self.metadata_writes = 0

    def violations(self, journal: Journal) -> list[str]:
        """Every write that did not belong where it went, as a sentence."""
        requests = {entry.request: entry for entry in journal.entries if entry.kind is Kind.REQUEST}
        found = []
        moved = False  # the refcount table: what it was is nobody's any more
        for entry in journal.entries:
            if entry.kind not in (Kind.WRITE, Kind.FALLOCATE):
                continue
            request = requests.get(entry.request)
            if request is None:
                found.append(f"a write at {entry.offset} that belongs to no request")
            elif request.flags & RequestFlag.METADATA:
                self.metadata_writes += 1
                found += self._metadata(entry)
                moved |= 0 < entry.offset <= _TABLE_POINTER[0] < entry.offset + entry.length
            else:
                self.data_writes += 1
                hit = None if self._external else self.before.hit(entry.offset, entry.length)
                if hit is not None and not (moved and hit.what == REFTABLE):
                    found.append(f"guest data of {entry.length} bytes at {entry.offset} over the {hit.what}: {hit}")
        if not moved:
            found += self._marks()
        if self._lasting() != self._had:
            found.append("something else was written over the header's cluster")
        return found

    def _lasting(self) -> bytes:
        """What nobody changes in the header's cluster: magic and version, and all behind the fields."""
        with self._path.open("rb") as file:
            cluster = file.read(self.before.cluster_size)
        return cluster[:8] + cluster[_LONGEST_HEADER:].rstrip(b"\0")

    def _metadata(self, entry: Entry) -> list[str]:
        """Metadata is written inside of one piece of metadata, or where there was none. Of the header one field is, or
        the whole cluster (qcow2_update_header).
        """
        hit = self.before.hit(entry.offset, entry.length)
        if hit is None:
            return []
        end = _LONGEST_HEADER if hit.what == HEADER and entry.offset else hit.end
        if hit.start <= entry.offset and entry.offset + entry.length <= end:
            return []
        return [f"metadata of {entry.length} bytes at {entry.offset} over the {hit.what}: {hit}"]

    def _marks(self) -> list[str]:
        """The same from the image's content, whatever the journal says."""
        with self._path.open("rb") as file:
            for area in self.before.first(_LOOK_TABLES):
                try:
                    start = os.lseek(file.fileno(), area.start, os.SEEK_DATA)
                except OSError:
                    continue  # a hole up to the end of the file, or nothing there
                count = min(area.end - start, _LOOK_BYTES)
                if count > 0 and MARK[:24] in os.pread(file.fileno(), count, start):
                    return [f"guest data is in the {area.what}: {area}"]
        return []
