"""The options of an image, both ways: qemu-img reads and continues what blockstack made, and the reverse."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.qcow2.widths import pack, refcount_dtype, unpack
from tests.blockstack.conftest import How
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qemu_img, qemu_io, run

SIZE = 4 << 20
WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("order", range(7))
def test_refcounts_packed_and_unpacked(order: int) -> None:
    data = payload(order, 4096)
    refcounts = unpack(data, order)
    assert len(refcounts) == 4096 * 8 >> order
    assert pack(refcounts, order) == data
    one = np.zeros(4096 * 8 >> order, dtype=refcount_dtype(order))
    one[1] = 1  # the second: the next lowest bits of the first byte, or the last byte of the second word
    assert pack(one, order).index(bytes([1 << (1 << order) if order < 3 else 1])) == max(0, (2 << order) // 8 - 1)


async def _continue(image: Path, how: How, content: bytes) -> bytes:
    async with blockstack.open(image, **how) as disk:
        guest = Guest(disk, content)
        await guest.verify()
        await guest.write(50_001, payload(1, 100_000))
        await guest.write(SIZE // 2 + 1000, payload(2, 300))
        await guest.verify()
    return bytes(guest.content)


@needs_qemu
@pytest.mark.parametrize(
    ("version", "bits", "cluster_size"),
    [
        *((3, bits, 4096) for bits in WIDTHS),
        (3, 1, 512),
        (3, 64, 512),
        (3, 64, 2 << 20),
        (3, 1, 2 << 20),
        (2, 16, 512),
        (2, 16, 65536),
        (2, 16, 2 << 20),
    ],
)
def test_both_ways(tmp_path: Path, how: How, version: int, bits: int, cluster_size: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    run(blockstack.create(ours, SIZE, version=version, refcount_bits=bits, cluster_size=cluster_size))
    compat = "0.10" if version == 2 else f"1.1,refcount_bits={bits}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compat={compat},cluster_size={cluster_size}", theirs, SIZE)
    for image in (ours, theirs):
        check(image)
        qemu_io(image, "write -P 1 0 100k", "write -P 2 1000k 777")
        expected = run(_continue(image, how, convert(image)))
        check(image)
        assert convert(image) == expected
        qemu_io(image, "write -P 9 2000100 100", "read -P 9 2000100 100")
        check(image)


@needs_qemu
def test_version_2_over_a_backing_file(tmp_path: Path, how: How) -> None:
    (tmp_path / "base").write_bytes(payload(7, SIZE // 2))
    image = tmp_path / "image"
    run(blockstack.create(image, SIZE, version=2, backing_file="base", backing_format="raw"))
    expected = run(_continue(image, how, convert(image)))
    check(image)
    assert convert(image) == expected


@needs_qemu
def test_a_chain_of_formats_and_lengths(tmp_path: Path, how: How) -> None:
    """raw <- qcow2 v2 <- qcow2 v3 <- overlay, each longer than the one below."""
    (tmp_path / "0").write_bytes(payload(8, 1 << 20))
    for below, above in pairwise(range(4)):
        run(
            blockstack.create(
                tmp_path / str(above),
                SIZE // 4 * (above + 1),
                backing_file=str(below),
                backing_format="raw" if below == 0 else "qcow2",
                version=2 if above == 1 else 3,
                cluster_size=4096 << above,
                refcount_bits={1: 16, 2: 64, 3: 4}[above],
            )
        )
        qemu_io(tmp_path / str(above), f"write -P {above} {above * 300_000} 5000")
    expected = run(_continue(tmp_path / "3", how, convert(tmp_path / "3")))
    check(tmp_path / "3")
    assert convert(tmp_path / "3") == expected


@pytest.mark.parametrize(
    ("version", "bits", "match"),
    [(1, 16, "version 1"), (4, 16, "version 4"), (2, 8, "16 bits only"), (3, 3, "width 3"), (3, 128, "width 128")],
)
def test_impossible_options(tmp_path: Path, version: int, bits: int, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        run(blockstack.create(tmp_path / "image", SIZE, version=version, refcount_bits=bits))
    assert not (tmp_path / "image").exists()
