"""From the kernel's way to a file to the path that the user knows."""

import os

import pytest

from tracer.capture.paths import Mounted, Paths, mounts

TABLE = r"""21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 8:2 / /srv/with\040space rw - xfs /dev/sda2 rw
23 21 8:2 /inner /bound rw - xfs /dev/sda2 rw
24 21 8:3 / /low rw - xfs /dev/sda3 rw
25 24 8:3 / /top rw - xfs /dev/sda3 rw
26 25 0:9 /part /only rw - overlay none rw
nonsense
"""


def test_mounts() -> None:
    assert mounts(TABLE) == {
        os.makedev(8, 1): Mounted("ext4", "/"),
        os.makedev(8, 2): Mounted("xfs", "/srv/with space"),
        os.makedev(8, 3): Mounted("xfs", "/top"),
        os.makedev(0, 9): Mounted("overlay", None),
    }


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (("var/f", True), "/srv/with space/var/f"),
        (("deep/f", False), ".../deep/f"),
    ],
)
def test_paths(monkeypatch: pytest.MonkeyPatch, name: tuple[str, bool], path: str) -> None:
    monkeypatch.setattr("tracer.capture.paths._mounted", lambda: mounts(TABLE))
    paths = Paths()
    paths.learn({(os.makedev(8, 2), 5): name})
    assert paths.get(os.makedev(8, 2), 5) == path
    paths.learn({(os.makedev(8, 2), 5): ("another", True)})
    assert paths.get(os.makedev(8, 2), 5) == path  # as it was when it was met
    assert paths.get(os.makedev(8, 2), 6) is None
    paths.learn({(os.makedev(9, 9), 7): ("x", True)})
    assert paths.kind(os.makedev(8, 2)) == "xfs"
    assert paths.kind(os.makedev(9, 9)) is None
    assert paths.get(os.makedev(9, 9), 7) == "/x (of a file system that is not mounted here)"
