"""Images made by qemu-img and qemu-io: read, continued, and refused by name where they use what this driver lacks."""

import json
import subprocess
from pathlib import Path

import pytest

import blockstack
from blockstack.qcow2.header import Header
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qcow2_node, qemu_img, qemu_io, run

pytestmark = needs_qemu


@pytest.mark.parametrize(
    "options",
    [
        "compat=1.1",
        "compat=0.10",
        "compat=1.1,cluster_size=512",
        "compat=1.1,cluster_size=2M",
        "preallocation=metadata",
        "preallocation=falloc",
        "lazy_refcounts=on",
    ],
)
def test_images_of_qemu_are_read_and_continued(tmp_path: Path, how: How, options: str) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "4M")
    qemu_io(image, "write -P 1 0 100k", "write -P 2 1000k 777", "write -P 3 3M 64k")
    content = convert(image)
    assert any(content)

    async def main() -> bytes:
        async with blockstack.open(image, **how) as disk:
            guest = Guest(disk, content)
            await guest.verify()
            await guest.write(50_001, payload(1, 100_000))
            await guest.write(2_000_000, payload(2, 300))
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    check(image)
    assert convert(image) == expected
    qemu_io(image, "write -P 9 2000100 100", "read -P 9 2000100 100")  # and QEMU goes on
    check(image)


def test_zero_clusters_of_qemu(tmp_path: Path, how: How) -> None:
    """Over a backing file full of data: plain zero clusters, and ones with a host cluster of their own."""
    backing, image = tmp_path / "backing", tmp_path / "image"
    backing.write_bytes(b"\xbb" * (1 << 20))
    qemu_img("create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", image)
    qemu_io(image, "write -P 5 256k 128k", "write -z 256k 64k", "write -z -u 512k 128k", "write -z 0 64k")
    content = convert(image)
    zero, ones = bytes(65536), b"\xbb" * 65536
    assert content[:65536] == content[256 << 10 : 320 << 10] == content[512 << 10 : 576 << 10] == zero
    assert content[65536:131072] == ones

    async def main() -> bytes:
        async with blockstack.open(image, **how) as disk:
            guest = Guest(disk, content)
            await guest.verify()
            await guest.write(100, b"over a zero cluster")
            await guest.write((256 << 10) + 70, b"over a preallocated zero cluster")
            await guest.write((576 << 10) - 10, b"over two of them at once")
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    check(image)
    assert convert(image) == expected


def test_bitmaps_of_qemu_are_no_longer_trusted(tmp_path: Path, how: How) -> None:
    """A dirty bitmap that was not kept up to date would make a backup incomplete: the autoclear bit must go."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_img("bitmap", "--add", image, "b0")

    def autoclear() -> int:
        return Header.parse(image.read_bytes()[:65536], image.stat().st_size).autoclear

    assert autoclear()

    async def main(read_only: bool) -> None:
        async with blockstack.open(image, read_only=read_only, **how) as disk:
            await disk.preadv(0, 512)

    run(main(True))
    assert autoclear()
    run(main(False))
    assert not autoclear()
    check(image, leaks=10)


@pytest.mark.parametrize("options", ["compat=1.1,refcount_bits=4", "compat=0.10", "compat=1.1,cluster_size=512"])
def test_snapshots_stay_intact(tmp_path: Path, how: How, options: str) -> None:
    """Written, zeroed and discarded over two snapshots; both read as before, as qemu-img sees them."""
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "1M")
    qemu_io(image, "write -P 7 0 200k", "write -P 6 800k 100k")
    first = convert(image)
    qemu_img("snapshot", "-c", "first", image)
    qemu_io(image, "write -P 8 64k 100k")
    second = convert(image)
    qemu_img("snapshot", "-c", "second", image)

    async def main() -> bytes:
        async with blockstack.open(image, discard=True, **how) as disk:
            assert [snapshot.name for snapshot in qcow2_node(disk).snapshots] == ["first", "second"]
            guest = Guest(disk, second)
            await guest.verify()
            await guest.write(100, payload(1, 300))
            await guest.write(100_000, payload(2, 70_000))
            await guest.zero(850_000, 80_000)
            await guest.verify()
            await disk.flush()
            await guest.write(500, payload(3, 200_000))
            await disk.pdiscard(196_608, 65536)
            guest.content[196_608:262_144] = bytes(65536)
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    check(image)
    assert convert(image) == expected
    for name, content in (("first", first), ("second", second)):
        qemu_img("snapshot", "-a", name, image)
        assert convert(image) == content
        check(image)
    for name in ("first", "second"):
        qemu_img("snapshot", "-d", name, image)
        check(image)


@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("what", ["zero", "discard"])
def test_clusters_given_back_as_qemu_does(tmp_path: Path, how: How, what: str, unmap: bool, backed: bool) -> None:
    """The same requests to both drivers leave the same map: zero, allocated, or neither."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    (tmp_path / "base").write_bytes(b"\xbb" * (1 << 20))
    for image in (ours, theirs):
        over = ("-b", tmp_path / "base", "-F", "raw") if backed else ()
        qemu_img("create", "-q", "-f", "qcow2", *over, image, "1M")
        qemu_io(image, "write -P 1 0 300k", "write -z 320k 64k")
    command = f"write -z {'-u ' if unmap else ''}" if what == "zero" else "discard "
    places = [(65536, 131072), (200_000 // 512 * 512, 512), (320 << 10, 128 << 10), ((1 << 20) - 65536, 65536)]
    words = [word for offset, length in places for word in ("-c", f"{command}{offset} {length}")]
    subprocess.run(["qemu-io", "-d", "unmap", "-f", "qcow2", *words, str(theirs)], check=True, capture_output=True)

    async def main() -> None:
        async with blockstack.open(ours, discard=True, **how) as disk:
            for offset, length in places:
                if what == "zero":
                    await disk.pwrite_zeroes(offset, length, unmap=unmap)
                else:
                    await disk.pdiscard(offset, length)

    run(main())
    check(ours)
    assert convert(ours) == convert(theirs)
    maps = [json.loads(qemu_img("map", "-f", "qcow2", "--output=json", image)) for image in (ours, theirs)]
    for extents in maps:
        for extent in extents:
            del extent["offset" if "offset" in extent else "depth"]
    assert maps[0] == maps[1]
