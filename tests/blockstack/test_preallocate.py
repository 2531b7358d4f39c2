"""Preallocated images: what they hold, by what qemu-img and the file system say, is what qemu-img's own hold."""

import json
from pathlib import Path
from typing import Any

import pytest

import blockstack
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, check, convert, needs_qemu, qemu_img, qemu_io, run

pytestmark = needs_qemu

BLOCK = 512  # unit of st_blocks


def mapped(image: Path, cluster_size: int) -> list[dict[str, Any]]:
    """Runs of guest clusters that are alike, wherever they lie. Whether small ones are holes is the file's doing: its
    pages and extents are larger.
    """
    keys = ("depth", "present", "zero", "data") if cluster_size >= 65536 else ("depth", "present")
    runs: list[dict[str, Any]] = []
    for found in json.loads(qemu_img("map", "-f", "qcow2", "--output=json", image)):
        extent = {key: found[key] for key in ("length", *keys)}
        if runs and all(runs[-1][key] == extent[key] for key in keys):
            runs[-1]["length"] += extent["length"]
        else:
            runs.append(extent)
    return runs


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize(("version", "cluster_size", "size"), [(3, 65536, 3 << 20), (2, 512, 1 << 20), (3, 4096, 5000)])
def test_as_qemu_does(tmp_path: Path, mode: str, version: int, cluster_size: int, size: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    compat = "1.1" if version == 3 else "0.10"
    options = f"preallocation={mode},cluster_size={cluster_size},compat={compat}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, theirs, size)
    run(blockstack.create(ours, size, cluster_size=cluster_size, version=version, preallocation=mode))
    check(ours)
    assert mapped(ours, cluster_size) == mapped(theirs, cluster_size)
    allocated = [image.stat().st_blocks * BLOCK for image in (ours, theirs)]
    assert abs(allocated[0] - allocated[1]) <= max(128 << 10, allocated[1] // 10), allocated
    assert ours.stat().st_size <= theirs.stat().st_size + 8 * cluster_size
    assert convert(ours) == bytes(size + -size % BLOCK)
    if mode in ("falloc", "full"):
        assert allocated[0] >= size


def test_modes_differ(tmp_path: Path) -> None:
    """The control of the above: neither map nor st_blocks is the same whatever the mode."""
    found = {}
    for mode in ("off", "metadata", "falloc", "full"):
        image = tmp_path / mode
        run(blockstack.create(image, 4 << 20, preallocation=mode))
        found[mode] = json.dumps(mapped(image, 65536)), image.stat().st_blocks * BLOCK >= 4 << 20
    assert len({found["off"], found["metadata"], found["full"]}) == 3
    assert [found[mode][1] for mode in found] == [False, False, True, True]


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
def test_a_guest_writes_in_place(tmp_path: Path, how: How, mode: str) -> None:
    image = tmp_path / "image"

    async def main() -> bytes:
        await blockstack.create(image, 8 << 20, preallocation=mode, lazy_refcounts=True)
        size = image.stat().st_size
        async with blockstack.open(image, **how) as disk:
            guest = Guest(disk)
            await guest.write(1000, b"x" * 200_000)
            await guest.write((8 << 20) - 512, b"y" * 512)
            await guest.verify()
        assert image.stat().st_size == size
        return bytes(guest.content)

    assert run(main()) == convert(image)
    check(image)
    qemu_io(image, "write -P 7 1M 2M", "read -P 7 1M 2M")
    check(image)


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_raw(tmp_path: Path, mode: str) -> None:
    image = tmp_path / "image"
    run(blockstack.create(image, 3 << 20, format="raw", preallocation=mode))
    assert image.stat().st_size == 3 << 20
    assert image.stat().st_blocks * BLOCK >= 3 << 20
    assert image.read_bytes() == bytes(3 << 20)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"preallocation": "some"}, "off, metadata, falloc, full"),
        ({"preallocation": "metadata", "format": "raw"}, "raw"),
        ({"preallocation": "full", "backing_file": "base", "backing_format": "raw"}, "backing"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(blockstack.ImageError, match=match):
        run(blockstack.create(tmp_path / "image", 1 << 20, **options))
    assert not (tmp_path / "image").exists()
