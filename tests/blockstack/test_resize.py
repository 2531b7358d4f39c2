"""Disks that grow and shrink: the content is what `qemu-img resize` leaves, and qemu-img check is clean."""

import asyncio
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import blockstack
from tests.blockstack.conftest import How
from tests.blockstack.power import Recorder, corruptions
from tests.blockstack.support import check, convert, needs_qemu, payload, qcow2_node, qemu_img, qemu_io, run

pytestmark = needs_qemu

CLUSTER = 4096
SIZE = 4 << 20


async def resize(image: Path, length: int, how: How, format: str = "qcow2") -> None:
    async with blockstack.open(image, format, **how) as disk:
        await disk.truncate(length, shrink=True)
        assert disk.length == length
        # The new end is the end.
        with pytest.raises(OSError, match="outside"):
            await disk.preadv(length - 512, 1024)


def made(tmp_path: Path, version: int, backing: int | None, cluster_size: int = CLUSTER) -> tuple[Path, Path]:
    """Two like images of SIZE with data here and there; `backing` is the length of a backing file full of data."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    words: tuple[object, ...] = ()
    if backing is not None:
        (tmp_path / "base").write_bytes(b"\xbb" * backing)
        words = ("-b", tmp_path / "base", "-F", "raw")
    compat = "1.1" if version == 3 else "0.10"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size},compat={compat}", *words, ours, SIZE)
    qemu_io(ours, "write -P 1 0 10k", "write -P 2 1M 300k", f"write -P 3 {SIZE - 8192} 8k")
    shutil.copy(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("backing", [None, SIZE // 2, SIZE * 3])
@pytest.mark.parametrize("length", [SIZE + 512, SIZE * 2])
def test_grow(tmp_path: Path, how: How, version: int, backing: int | None, length: int) -> None:
    ours, theirs = made(tmp_path, version, backing)
    run(resize(ours, length, how))
    check(ours)
    content = convert(ours)
    assert len(content) == length
    assert content[SIZE:] == bytes(length - SIZE)
    assert content[:SIZE] == convert(theirs)
    if version == 3 or backing != SIZE * 3:  # QEMU cannot hide a longer backing file in version 2
        qemu_img("resize", "-q", "-f", "qcow2", theirs, length)
        assert content == convert(theirs)
    qemu_io(ours, f"write -P 5 {length - 512} 512", f"read -P 5 {length - 512} 512")
    check(ours)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("backing", [None, SIZE * 3])
@pytest.mark.parametrize("length", [512, SIZE // 2, (1 << 20) + 100 * 512, SIZE - 512])
def test_shrink(tmp_path: Path, how: How, version: int, backing: int | None, length: int) -> None:
    ours, theirs = made(tmp_path, version, backing)
    expected = convert(ours)[:length]
    run(resize(ours, length, how))
    check(ours)
    qemu_img("resize", "-q", "--shrink", "-f", "qcow2", theirs, length)
    assert convert(ours) == expected == convert(theirs)
    assert ours.stat().st_size <= theirs.stat().st_size + 4 * CLUSTER
    # Grown again, nothing of what was cut off is there.
    run(resize(ours, SIZE, how))
    check(ours)
    assert convert(ours) == expected.ljust(SIZE, b"\0")


OPTIONS = {
    "extended": ("extended_l2=on,cluster_size=16k", ()),
    "extended, backed": ("extended_l2=on,cluster_size=16k", ("-b", "base", "-F", "raw")),
    "data file": ("data_file=data,cluster_size=4k", ()),
    "data file, backed": ("data_file=data,cluster_size=4k", ("-b", "base", "-F", "raw")),
    "raw data file": ("data_file=data,data_file_raw=on,cluster_size=4k", ()),
    "both": ("data_file=data,extended_l2=on,cluster_size=16k", ()),
}


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("length", [SIZE * 2, SIZE + 512, (1 << 20) + 100 * 512, 512])
def test_subclusters_and_data_files(tmp_path: Path, how: How, options: str, length: int) -> None:
    """The same content, data file and number of mapped clusters as after `qemu-img resize`, there and back."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    words, backing = OPTIONS[options]
    for directory in (ours, theirs):
        directory.mkdir()
        (directory / "base").write_bytes(b"\xbb" * (SIZE * 3))
        named = words.replace("data_file=data", f"data_file={directory}/data")
        based = [str(directory / "base") if word == "base" else word for word in backing]
        qemu_img("create", "-q", "-f", "qcow2", "-o", named, *based, directory / "image", SIZE)
        qemu_io(directory / "image", "write -P 1 0 10k", "write -P 2 1M 300k", f"write -P 3 {SIZE - 8192} 8k")
    expected = convert(ours / "image")
    for target in (length, SIZE, SIZE + 70_144):
        expected = expected[:target].ljust(target, b"\0")
        run(resize(ours / "image", target, how))
        qemu_img("resize", "-q", "--shrink", "-f", "qcow2", theirs / "image", target)
        assert convert(ours / "image") == expected
        if backing or target == length:  # QEMU 7.2 shows what lay in the cut cluster again where there is no backing
            assert convert(theirs / "image") == expected
        check(ours / "image")
        assert mapped(ours / "image") == mapped(theirs / "image")
        if "data" in options:
            assert (ours / "data").stat().st_size == target
            # QEMU 7.2 preallocates whole clusters of one that is raw, and does not cut it again.
            assert 0 <= (theirs / "data").stat().st_size - target < (4096 if "raw" in options else 1)


def mapped(image: Path) -> object:
    """What `qemu-img check` counts as allocated."""
    return json.loads(qemu_img("check", "--output=json", image))["allocated-clusters"]


@pytest.mark.parametrize(
    "options",
    [
        {"cluster_size": 512},
        {"cluster_size": 65536},
        {"cluster_size": 65536, "extended_l2": True},
        {"cluster_size": 4096, "data_file": "data"},
        {"cluster_size": 4096, "data_file": "data", "data_file_raw": True},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_by_steps_with_data(tmp_path: Path, how: How, options: dict[str, Any]) -> None:
    """A guest writes between one length and the next; the image and the L1 table move under it."""
    image = tmp_path / "image"
    lengths = [1 << 20, 9 << 20, 3 << 20, 3 << 20 | 512, 24 << 20, 0, 512, 2 << 20]

    async def main() -> bytes:
        content = bytearray(lengths[0])
        named: dict[str, Any] = {
            key: str(tmp_path / "data") if key == "data_file" else value for key, value in options.items()
        }
        await blockstack.create(image, lengths[0], **named)
        async with blockstack.open(image, l2_cache_size=0, **how) as disk:
            for number, length in enumerate(lengths):
                await disk.truncate(length, shrink=True)
                del content[length:]
                content.extend(bytes(length - len(content)))
                for at in range(0, length, length // 5 + 1):
                    data = payload(number, min(30_000, length - at))
                    await disk.pwritev(at, [data])
                    content[at : at + len(data)] = data
                assert await disk.preadv(0, length) == content
        return bytes(content)

    assert run(main()) == convert(image)
    check(image)


@pytest.mark.parametrize("version", [2, 3])
def test_snapshots(tmp_path: Path, how: How, version: int) -> None:
    """Version 2 does not record how long the disk was: refused, as QEMU does. Version 3 does, and they stay whole."""
    ours, _ = made(tmp_path, version, None)
    before = convert(ours)
    qemu_img("snapshot", "-c", "kept", ours)
    if version == 2:
        for length in (SIZE // 2, SIZE * 2):
            with pytest.raises(OSError, match="snapshots") as caught:
                run(resize(ours, length, how))
            assert caught.value.errno == errno.ENOTSUP
    else:
        for length in (SIZE // 2, SIZE * 16):
            run(resize(ours, length, how))
            check(ours)
    qemu_img("snapshot", "-a", "kept", ours)
    check(ours)
    assert convert(ours) == before


def test_raw(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"r" * 65536)
    run(resize(image, 131072, how, "raw"))
    assert image.read_bytes() == b"r" * 65536 + bytes(65536)
    run(resize(image, 4096, how, "raw"))
    assert image.read_bytes() == b"r" * 4096


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_refused(tmp_path: Path, how: How, format: str) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE, format=format)
        async with blockstack.open(image, format, **how) as disk:
            for length in (-1, SIZE - 512, 1 << 63):
                with pytest.raises(OSError, match=r".") as caught:
                    await disk.truncate(length)
                assert caught.value.errno == errno.EINVAL
            if format == "qcow2":
                with pytest.raises(OSError, match="multiple of 512"):
                    await disk.truncate(SIZE + 1)
                with pytest.raises(OSError, match="larger clusters"):
                    await disk.truncate(1 << 62)
            assert disk.length == SIZE
        async with blockstack.open(image, format, read_only=True, **how) as disk:
            with pytest.raises(OSError, match="read-only"):
                await disk.truncate(2 * SIZE)

    run(main())
    if format == "qcow2":
        check(image)


def test_requests_in_flight(tmp_path: Path, how: How) -> None:
    """Writes behind the new end are done before it comes; those before it go on beside it."""
    image = tmp_path / "image"

    async def main() -> bytes:
        await blockstack.create(image, SIZE, cluster_size=CLUSTER)
        async with blockstack.open(image, strategy="serialise", **how) as disk:
            writes = [disk.pwritev(at + 100, [b"w" * 5000]) for at in range(0, SIZE, SIZE // 16)]
            await asyncio.gather(*writes, disk.truncate(SIZE // 2, shrink=True))
            assert disk.length == SIZE // 2
            assert not qcow2_node(disk).allocations
            return await disk.preadv(0, disk.length)

    content = run(main())
    assert convert(image) == content
    assert content.count(b"w") == 8 * 5000
    check(image)


def test_power_failures(tmp_path: Path) -> None:
    """At any write of a resize the image is one of the two, with leaks at most."""
    image = tmp_path / "image"

    async def main() -> Recorder:
        await blockstack.create(image, 1 << 20, cluster_size=512)
        how: How = {"aio": "threads", "direct": False}
        async with blockstack.open(image, strategy="no-alloc-space", **how) as disk:
            for at in range(0, 1 << 20, 1 << 16):
                await disk.pwritev(at, [b"data" * 300])
            await disk.flush()
            recorder = Recorder(disk.file, image)
            await disk.truncate(300 << 10, shrink=True)
            await disk.truncate(8 << 20)
        return recorder

    recorder = run(main())
    check(image)
    cuts = list(recorder.cuts())
    assert len(cuts) > 15
    for number, content in cuts:
        assert corruptions(tmp_path / "cut", content) == 0, f"after {number} of {len(recorder.writes)}"
