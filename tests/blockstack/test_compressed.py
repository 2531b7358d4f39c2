"""Compressed clusters of either type: of qemu-img, damaged, and made to cost more than they may."""

import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.qcow2.compressed import decompress
from blockstack.qcow2.header import Header
from tests.blockstack.conftest import How
from tests.blockstack.hostile import put, refused
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qemu_img, run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TYPES = ("zlib", "zstd")


def _header(kind: str, cluster_bits: int = 16) -> Header:
    return Header(3, cluster_bits, 1 << 20, 1, 3 << cluster_bits, 1 << cluster_bits, 1, compression=kind)


def _pack(kind: str, data: bytes) -> bytes:
    if kind == "zstd":
        return zstd.compress(data)
    packer = zlib.compressobj(wbits=-12)
    return packer.compress(data) + packer.flush()


def _compressed(image: Path, raw: Path, content: bytes, kind: str, cluster_size: int = 65536) -> None:
    raw.write_bytes(content.ljust(-(-len(content) // 512) * 512, b"\0"))
    options = f"cluster_size={cluster_size},compression_type={kind}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, image)


@needs_qemu
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("cluster_size", [512, 65536, 2 << 20])
def test_read_and_replaced(tmp_path: Path, how: How, cluster_size: int, kind: str) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    _compressed(image, raw, b"".join(payload(at % 7, 300) * 70 for at in range(200)), kind, cluster_size)

    async def main() -> bytes:
        async with blockstack.open(image, discard=True, **how) as disk:
            guest = Guest(disk, raw.read_bytes())
            await guest.verify()
            await guest.write(100, payload(1, 70_000))
            await guest.write(1_000_001, payload(2, 3))
            await guest.zero(2_000_000, 300_000)
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    check(image)
    assert convert(image) == expected


@needs_qemu
@pytest.mark.parametrize("kind", TYPES)
def test_damaged(tmp_path: Path, how: How, kind: str) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    _compressed(image, raw, b"c" * 65536, kind)
    spoilt = bytearray(image.read_bytes())
    spoilt[5 * 65536 : 5 * 65536 + 64] = b"\xff" * 64
    image.write_bytes(spoilt)

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            with pytest.raises(ImageError, match="damaged"):
                await disk.preadv(0, 1)

    run(main())


@pytest.mark.parametrize("kind", TYPES)
def test_truncated_anywhere(kind: str) -> None:
    content = payload(1, 3000) * 30
    packed = _pack(kind, content[:65536])
    assert decompress(packed + b"what lies behind", _header(kind)) == content[:65536]
    for length in range(0, len(packed) - 8, 37):
        with pytest.raises(ImageError, match="damaged"):
            decompress(packed[:length], _header(kind))


@pytest.mark.parametrize("kind", TYPES)
def test_a_cluster_that_unpacks_to_more(kind: str) -> None:
    """Only one cluster of it: the other 64 MiB take no memory."""
    bomb = _pack(kind, bytes(64 << 20))
    tracemalloc.start()
    try:
        assert decompress(bomb, _header(kind)) == bytes(65536)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_several_frames() -> None:
    content = payload(3, 65536)
    packed = b"".join(zstd.compress(content[at : at + 16384]) for at in range(0, 65536, 16384))
    assert decompress(packed + bytes(100), _header("zstd")) == content


def _empty_frames(size: int) -> bytes:
    empty = zstd.compress(b"")
    return empty * (size // len(empty))


def _skippable(size: int) -> bytes:
    return struct.pack("<II", 0x184D2A50, 0) * (size // 8)


def _huge_window(size: int) -> bytes:
    # Magic, a descriptor without content size, a window of 2^(10+21) bytes, a block of raw data.
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 21 << 3) + ((size << 3) | 1).to_bytes(3, "little")
    return frame + bytes(size)


@pytest.mark.parametrize("frames", [_empty_frames, _skippable, _huge_window, lambda size: b"\0" * size])
def test_hostile_frames(frames: Callable[[int], bytes]) -> None:
    with pytest.raises(ImageError, match="damaged"):
        decompress(frames(4 << 20 if frames is not _huge_window else 65536), _header("zstd", 21))


@needs_qemu
@pytest.mark.parametrize(
    ("at", "value", "form", "match"),
    [
        (104, 0, ">B", "compression type zlib contradicts"),
        (104, 2, ">B", "unknown compression type 2"),
        (72, 0, ">Q", "compression type zstd contradicts"),
    ],
)
def test_a_type_that_the_header_contradicts(tmp_path: Path, at: int, value: int, form: str, match: str) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", image, "1M")
    put(image, at, value, form)
    refused(image, match)
