"""Images made by qemu-img and qemu-io: read, continued, and refused by name where they use what this driver lacks."""

from pathlib import Path

import pytest

import blockstack
from blockstack.qcow2.header import Header
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qemu_img, qemu_io, run

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


def test_compressed_clusters_are_refused_by_name(tmp_path: Path, how: How) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(b"c" * 65536 + bytes(65536))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            for request in (disk.preadv(0, 1), disk.pwritev(0, [b"x"])):
                with pytest.raises(blockstack.ImageError, match="compressed"):
                    await request
            await disk.pwritev(65536, [b"fine"])

    run(main())
    check(image)


def test_snapshots_are_read_but_not_written(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_io(image, "write -P 7 0 64k")
    qemu_img("snapshot", "-c", "s", image)

    async def main() -> None:
        with pytest.raises(blockstack.ImageError, match="snapshots"):
            async with blockstack.open(image, **how):
                pass
        async with blockstack.open(image, read_only=True, **how) as disk:
            assert await disk.preadv(0, 65536) == b"\7" * 65536

    run(main())
    check(image)
