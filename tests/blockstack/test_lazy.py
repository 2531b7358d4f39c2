"""Lazy refcounts: the dirty bit while the image is open, and the repair of an image that was not closed."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import blockstack
from blockstack.qcow2.check import check as blockstack_check
from blockstack.qcow2.lazy import DirtyBit
from blockstack.qcow2.mapping import Mapping
from tests.blockstack.conftest import How
from tests.blockstack.hostile import put
from tests.blockstack.power import Recorder, corruptions
from tests.blockstack.support import check, convert, needs_qemu, qcow2_node, qemu_img, qemu_io, run

pytestmark = needs_qemu

CLUSTER = 4096
SIZE = 16 << 20
BUFFERED: How = {"aio": "threads", "direct": False}


def dirty(image: Path) -> bool:
    return bool(image.read_bytes()[79] & 1)


async def write_and_crash(image: Path, crashed: Path, how: How = BUFFERED) -> bytes:
    """Writes to `image`; `crashed` is what it is like after a flush. Returns the content."""
    async with blockstack.open(image, **how) as disk:
        for at in range(0, SIZE, SIZE // 8):
            await disk.pwritev(at + 1000, [b"lazy" * 5000])
        await disk.flush()
        shutil.copy(image, crashed)
        return await disk.preadv(0, SIZE)


@pytest.mark.parametrize("maker", ["blockstack", "qemu"])
@pytest.mark.parametrize("repairer", ["blockstack", "qemu"])
def test_a_crash(tmp_path: Path, how: How, maker: str, repairer: str) -> None:
    image, crashed = tmp_path / "image", tmp_path / "crashed"
    if maker == "qemu":
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"lazy_refcounts=on,cluster_size={CLUSTER}", image, SIZE)
    else:
        run(blockstack.create(image, SIZE, cluster_size=CLUSTER, lazy_refcounts=True))
    info = json.loads(qemu_img("info", "--output=json", image))
    assert info["format-specific"]["data"]["lazy-refcounts"] is True
    content = run(write_and_crash(image, crashed, how))
    assert not dirty(image)
    check(image)
    assert dirty(crashed)
    assert corruptions(tmp_path / "copy", crashed.read_bytes()) > 0  # the refcounts are not there
    repair(crashed, repairer, how)
    assert not dirty(crashed)
    check(crashed)
    assert convert(crashed) == content


def repair(image: Path, repairer: str, how: How = BUFFERED) -> None:
    """By opening it for writing."""
    if repairer == "qemu":
        qemu_io(image, "write -P 9 0 512", "write -P 0 0 512")
        return

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [b"\x09" * 512])
            await disk.pwritev(0, [bytes(512)])

    run(main())


@pytest.mark.parametrize("snapshot", [False, True])
def test_qemu_crashes(tmp_path: Path, how: How, snapshot: bool) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, SIZE)
    if snapshot:
        qemu_io(image, "write -P 1 1M 1M")
        qemu_img("snapshot", "-c", "kept", image)
    words = ["qemu-io", "-f", "qcow2", "-c", "write -P 2 100k 3M", "-c", "flush", "-c", "abort", str(image)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGABRT
    assert dirty(image)
    before = image.read_bytes()
    content = convert(image)  # QEMU, too, opens a dirty image for reading

    async def read() -> bytes:
        async with blockstack.open(image, read_only=True, **how) as disk:
            return await disk.preadv(0, SIZE)

    assert run(read()) == content
    assert image.read_bytes() == before
    repair(image, "blockstack", how)
    assert not dirty(image)
    check(image)
    assert convert(image) == content
    if snapshot:
        qemu_img("snapshot", "-a", "kept", image)
        check(image)
        qemu_io(image, "read -P 1 1M 1M", "read -P 0 2M 1M")


@pytest.mark.parametrize(("bits", "cluster_size"), [(1, 512), (4, 4096), (64, 512)])
def test_refcounts_made_from_nothing(tmp_path: Path, bits: int, cluster_size: int) -> None:
    """All of them are 0, or all in the way; the repair makes what qemu-img finds right."""
    image = tmp_path / "image"

    async def main() -> tuple[bytes, list[int]]:
        await blockstack.create(image, SIZE, cluster_size=cluster_size, refcount_bits=bits)
        async with blockstack.open(image, **BUFFERED) as disk:
            for at in range(0, SIZE, SIZE // 4):
                await disk.pwritev(at, [b"data" * 80_000])
            return await disk.preadv(0, SIZE), qcow2_node(disk).refcounts.block_offsets.tolist()

    content, blocks = run(main())
    for fill in (b"\0", b"\xff"):
        with image.open("r+b") as file:
            for offset in blocks:
                file.seek(offset)
                file.write(fill * cluster_size)
        before = run(blockstack_check(image))
        assert before.corruptions if fill == b"\0" or bits > 1 else before.leaks
        report = run(blockstack_check(image, repair_all=True))
        assert report.exit_status == 0
        assert (report.corruptions_fixed, report.leaks_fixed) == (before.corruptions, before.leaks)
        check(image)
        assert convert(image) == content
        repair(image, "blockstack")
        content = convert(image)

        async def offsets() -> list[int]:
            async with blockstack.open(image, read_only=True, **BUFFERED) as disk:
                await qcow2_node(disk).refcounts.load()
                return [int(offset) for offset in qcow2_node(disk).refcounts.block_offsets]

        blocks = run(offsets())


def test_what_cannot_be_repaired(image: Path) -> None:
    """An entry that refers to half a cluster: refused for writing, and not changed."""
    put(image, 72, 1)
    put(image, 4 * 4096 + 8, (5 << 12) + 512 | 1 << 63)
    before = image.read_bytes()

    async def main() -> None:
        async with blockstack.open(image, **BUFFERED):
            pass

    with pytest.raises(blockstack.ImageError, match="beyond repair"):
        run(main())
    assert image.read_bytes() == before


def test_version_2_has_none(tmp_path: Path) -> None:
    with pytest.raises(blockstack.ImageError, match="lazy"):
        run(blockstack.create(tmp_path / "image", SIZE, version=2, lazy_refcounts=True))
    assert not (tmp_path / "image").exists()


async def recorded(image: Path) -> Recorder:
    await blockstack.create(image, SIZE, cluster_size=CLUSTER, lazy_refcounts=True)
    async with blockstack.open(image, strategy="no-alloc-space", discard=True, **BUFFERED) as disk:
        await disk.pwritev(0, [b"old" * CLUSTER])
        await disk.flush()
        recorder = Recorder(disk.file, image)
        for at in range(0, SIZE, SIZE // 8):
            await disk.pwritev(at + 1000, [b"lazy" * CLUSTER])
            await disk.pwrite_zeroes(at // 2, 3 * CLUSTER, unmap=True)
            if at % (SIZE // 4):
                await disk.flush()
    return recorder


def unsafe(recorder: Recorder, image: Path) -> int:
    """Power failures after which the image is not consistent: as it is, or once a dirty one is repaired."""
    found = 0
    for _, content in recorder.cuts():
        image.write_bytes(content)
        if dirty(image):
            repair(image, "blockstack")
        found += corruptions(image, image.read_bytes()) > 0
    return found


def test_power_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = run(recorded(tmp_path / "image"))
    assert len(recorder.writes) > 30
    assert unsafe(recorder, tmp_path / "cut") == 0

    async def forget(self: DirtyBit) -> None:
        self.is_set = True

    monkeypatch.setattr(DirtyBit, "set", forget)
    assert unsafe(run(recorded(tmp_path / "mutant")), tmp_path / "cut") > 0


async def overlaid(image: Path) -> Recorder:
    """Small writes over a backing file: most of each cluster is copied from there."""
    (image.parent / "base").write_bytes(b"\xbb" * (SIZE // 16))
    await blockstack.create(
        image,
        SIZE // 16,
        cluster_size=CLUSTER,
        lazy_refcounts=True,
        backing_file="base",
        backing_format="raw",
    )
    async with blockstack.open(image, strategy="no-alloc-space", **BUFFERED) as disk:
        await disk.pwritev(0, [b"first"])
        await disk.flush()
        recorder = Recorder(disk.file, image)
        for at in range(CLUSTER, 16 * CLUSTER, 2 * CLUSTER):
            await disk.pwritev(at + 100, [b"over"])
        await disk.flush()
    return recorder


def lost(recorder: Recorder, image: Path) -> int:
    """Power failures after which the guest misses bytes that it never wrote to."""

    async def read() -> bytes:
        async with blockstack.open(image, read_only=True, **BUFFERED) as disk:
            return await disk.preadv(0, disk.length)

    found = 0
    for _, content in recorder.cuts():
        image.write_bytes(content)
        found += not set(run(read())) <= set(b"\xbbfirstover")
    return found


def test_copies_are_stable_before_what_points_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no refcounts to wait for, an L2 table still waits for the flush of what was copied (COW)."""
    assert lost(run(overlaid(tmp_path / "image")), tmp_path / "cut") == 0
    real = Mapping.link

    async def link(self: Mapping, guest_cluster: int, host: int, clusters: int, *, copied: bool = False) -> None:
        await real(self, guest_cluster, host, clusters)

    monkeypatch.setattr(Mapping, "link", link)
    assert lost(run(overlaid(tmp_path / "mutant")), tmp_path / "cut") > 0
