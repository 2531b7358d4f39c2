"""From the kernel's way to a file to the path that the user knows."""

import os
from pathlib import Path

import pytest

from tracer.attach import Name
from tracer.capture.paths import Mounted, Paths, mounts

TABLE = r"""21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 8:2 / /srv/with\040space rw - xfs /dev/sda2 rw
23 21 8:2 /inner /bound rw - xfs /dev/sda2 rw
24 21 8:3 / /low rw - xfs /dev/sda3 rw
25 24 8:3 / /top rw - xfs /dev/sda3 rw
26 25 0:9 /part /only rw - overlay none rw
27 21 0:40 /@ / rw - btrfs /dev/sda5 rw
28 21 0:40 /@home /home rw - btrfs /dev/sda5 rw
nonsense
"""


def test_mounts() -> None:
    assert mounts(TABLE) == {
        os.makedev(8, 1): Mounted("ext4", {"/": "/"}),
        os.makedev(8, 2): Mounted("xfs", {"/": "/srv/with space", "/inner": "/bound"}),
        os.makedev(8, 3): Mounted("xfs", {"/": "/top"}),
        os.makedev(0, 9): Mounted("overlay", {"/part": "/only"}),
        os.makedev(0, 40): Mounted("btrfs", {"/@": "/", "/@home": "/home"}),
    }


def met(dev: int, ino: int, path: str, *, generation: int = 1, whole: bool = True, mounted: int | None = None) -> Name:
    return Name((dev, ino), generation, path, whole, dev if mounted is None else mounted, generation)


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr("tracer.capture.paths._table", lambda: TABLE)
    return Paths()


XFS, BTRFS, SUBVOLUME = os.makedev(8, 2), os.makedev(0, 40), os.makedev(0, 41)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (met(XFS, 5, "var/f"), "/srv/with space/var/f"),
        (met(XFS, 5, "inner/f"), "/bound/f"),
        (met(XFS, 5, "innermost/f"), "/srv/with space/innermost/f"),
        (met(XFS, 5, "deep/f", whole=False), ".../deep/f"),
        (met(SUBVOLUME, 5, "@/f", mounted=BTRFS), "/f"),
        (met(SUBVOLUME, 5, "@home/me/f", mounted=BTRFS), "/home/me/f"),
        (met(SUBVOLUME, 5, "@other/f", mounted=BTRFS), "/@other/f (of a file system that is not mounted here)"),
        (met(os.makedev(9, 9), 5, "x"), "/x (of a file system that is not mounted here)"),
    ],
)
def test_paths(paths: Paths, name: Name, path: str) -> None:
    paths.learn([name])
    assert paths.get(*name.file) == path
    assert paths.get(name.file[0], 6) is None


def test_a_name_is_that_of_when_the_file_was_met(paths: Paths) -> None:
    paths.learn([met(XFS, 5, "a")])
    paths.learn([met(XFS, 5, "b")])
    assert (paths.get(XFS, 5), paths.earlier(XFS, 5)) == ("/srv/with space/a", [])


def test_a_number_that_is_used_again(paths: Paths) -> None:
    paths.learn([met(XFS, 5, "a"), met(XFS, 5, "b", generation=2), met(XFS, 6, "c")])
    paths.learn([met(XFS, 5, "d", generation=3), met(XFS, 5, "a")])
    assert paths.get(XFS, 5) == "/srv/with space/d"
    assert paths.earlier(XFS, 5) == ["/srv/with space/a", "/srv/with space/b"]
    assert paths.earlier(XFS, 6) == []


def test_kinds(paths: Paths) -> None:
    paths.learn([met(SUBVOLUME, 5, "@/f", mounted=BTRFS)])
    assert [paths.kind(dev) for dev in (XFS, SUBVOLUME, os.makedev(9, 9))] == ["xfs", "btrfs", None]


def test_a_file_by_descriptor(tmp_path: Path) -> None:
    found = Paths()
    with (tmp_path / "f").open("wb") as file:
        status = os.fstat(file.fileno())
        found.add((status.st_dev, status.st_ino), "as it was called", file.fileno())
    assert found.get(status.st_dev, status.st_ino) == "as it was called"
    assert found.kind(status.st_dev) is not None
