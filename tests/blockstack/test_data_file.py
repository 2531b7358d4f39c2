"""External data files, both ways with QEMU: guest data lies there at the guest's own offsets, the image has only
metadata.
"""

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.journal import Journal, Kind, RequestFlag
from blockstack.node import Buffer
from blockstack.qcow2.header import AUTOCLEAR, OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, Header
from tests.blockstack.conftest import How
from tests.blockstack.hostile import put, refused, word
from tests.blockstack.support import Guest, check, convert, needs_qemu, payload, qcow2_node, qemu_img, qemu_io, run
from tests.blockstack.test_check import same_as_qemu

SIZE = 4 << 20


def _make(maker: str, image: Path, *, raw: bool, cluster_size: int = 65536) -> Path:
    data = image.with_name("data")
    if maker == "blockstack":
        run(
            blockstack.create(image, SIZE, data_file=str(data.absolute()), data_file_raw=raw, cluster_size=cluster_size)
        )
    else:
        # QEMU looks for a relative name in its current directory.
        options = f"data_file={data.absolute()},data_file_raw={'on' if raw else 'off'},cluster_size={cluster_size}"
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, SIZE)
    return data


@needs_qemu
@pytest.mark.parametrize("maker", ["qemu", "blockstack"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("cluster_size", [512, 65536])
def test_both_ways(tmp_path: Path, how: How, maker: str, raw: bool, cluster_size: int) -> None:
    image = tmp_path / "image"
    data = _make(maker, image, raw=raw, cluster_size=cluster_size)
    assert data.stat().st_size == SIZE
    qemu_io(image, "write -P 1 0 100k", "write -P 2 1000k 777", "write -z 3M 100k", "write -P 4 3100k 10k")
    content = convert(image)

    async def main() -> bytes:
        async with blockstack.open(image, discard=True, **how) as disk:
            guest = Guest(disk, content)
            await guest.verify()
            await guest.write(50_001, payload(1, 100_000))
            await guest.write((3 << 20) + 70_000, payload(2, 300))
            await guest.write(SIZE - 700, payload(3, 700))
            await guest.zero(70_000, 200_000)
            await guest.zero(1000 << 10, 512)
            await guest.verify()
            await disk.flush()
            await disk.pdiscard(3 << 20, 131_072)
            guest.content[3 << 20 : (3 << 20) + 131_072] = bytes(131_072)
            await disk.pwrite_zeroes(0, 65536, unmap=True)
            guest.content[:65536] = bytes(65536)
            await guest.verify()
        return bytes(guest.content)

    expected = run(main())
    check(image)
    assert same_as_qemu(image) == (0, 0, 0)
    assert convert(image) == expected
    if raw:
        assert data.read_bytes() == expected
    qemu_io(image, "write -P 9 2000100 100", "read -P 9 2000100 100", "read -P 0 0 64k", "write -P 8 0 1k")
    check(image)
    if raw:
        assert data.read_bytes() == convert(image)


@needs_qemu
def test_the_image_itself_stays_small(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    data = _make("blockstack", image, raw=False)

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(1 << 20, [payload(1, 1 << 20)])

    run(main())
    assert image.stat().st_size <= 5 * 65536  # header, refcount table and block, L1 and L2 table
    assert data.read_bytes()[1 << 20 : 2 << 20] == payload(1, 1 << 20)
    for command, status in ((["map"], 0), (["info"], 0)):
        assert subprocess.run(["qemu-img", *command, str(image)], capture_output=True, check=False).returncode == status


@needs_qemu
@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_the_same_requests_leave_the_same_map(tmp_path: Path, how: How, raw: bool, unmap: bool) -> None:
    places = [(0, 65536), (65536, 131_072), (200_192, 512), (320 << 10, 128 << 10), (SIZE - 65536, 65536)]
    maps = []
    for driver in ("qemu", "blockstack"):
        (tmp_path / driver).mkdir()
        image = tmp_path / driver / "image"
        data = _make("qemu", image, raw=raw)
        qemu_io(image, "write -P 1 0 300k", "write -z 320k 64k")
        if driver == "qemu":
            words = [word for offset, length in places for word in ("-c", f"write -z {'-u' * unmap} {offset} {length}")]
            subprocess.run(["qemu-io", "-d", "unmap", "-f", "qcow2", *words, image], check=True, capture_output=True)
        else:
            run(_zero(image, places, unmap, how))
        check(image)
        maps.append((qemu_img("map", "--output=json", image), convert(image), data.read_bytes(), data.stat().st_blocks))
    assert maps[0] == maps[1]


async def _zero(image: Path, places: list[tuple[int, int]], unmap: bool, how: How) -> None:
    async with blockstack.open(image, discard=True, **how) as disk:
        for offset, length in places:
            await disk.pwrite_zeroes(offset, length, unmap=unmap)


@pytest.mark.parametrize("discard", [False, True])
def test_discards_make_holes_where_they_are_passed(tmp_path: Path, how: How, discard: bool) -> None:
    image = tmp_path / "image"
    data = _make("blockstack", image, raw=False)

    async def main() -> None:
        async with blockstack.open(image, discard=discard, **how) as disk:
            await disk.pwritev(0, [payload(1, 1 << 20)])
            await disk.flush()
            before = data.stat().st_blocks
            await disk.pdiscard(0, 1 << 20)
            assert await disk.preadv(0, 1 << 20) == (bytes(1 << 20) if discard else payload(1, 1 << 20))
            await disk.flush()
            assert (data.stat().st_blocks < before) is discard

    run(main())


def test_zero_writes_go_to_the_data_file_at_the_guests_offset(tmp_path: Path, how: How, zero_range: None) -> None:
    """handle_alloc_space: a sub-cluster write to a new cluster behind the end of the data file is post-EOF there."""
    image, journal = tmp_path / "image", Journal()
    data = _make("blockstack", image, raw=False)
    data.write_bytes(b"")

    async def main() -> None:
        async with blockstack.open(image, journal=journal, **how) as disk:
            await disk.pwritev(5 * 65536 + 100, [b"data"])

    run(main())
    zeroed = [entry for entry in journal.entries if entry.kind is Kind.FALLOCATE]
    assert [(entry.offset, entry.length) for entry in zeroed] == [(5 * 65536, 65536)]
    requests = [entry for entry in journal.entries if entry.kind is Kind.REQUEST and entry.flags & RequestFlag.POST_EOF]
    assert requests
    assert all(entry.flags & RequestFlag.SERIALISING for entry in requests)
    assert data.stat().st_size == 6 * 65536


@pytest.mark.parametrize("lazy", [False, True])
def test_data_is_stable_before_the_table_that_points_to_it(
    tmp_path: Path, how: How, monkeypatch: pytest.MonkeyPatch, lazy: bool
) -> None:
    """With lazy refcounts there is no refcount block to wait for, which would flush it."""
    image = tmp_path / "image"
    run(blockstack.create(image, SIZE, data_file="data", lazy_refcounts=lazy))
    seen: list[str] = []

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [b"guest"])
            node = qcow2_node(disk)
            flush, write = node.data.flush, node.file.pwritev

            async def flushed() -> None:
                await flush()
                seen.append("flush")

            async def written(offset: int, buffers: Sequence[Buffer], *, metadata: bool = False) -> None:
                seen.append("table" if offset in node.mapping.table_offsets.tolist() else "other")
                await write(offset, buffers, metadata=metadata)

            monkeypatch.setattr(node.data, "flush", flushed)
            monkeypatch.setattr(node.file, "pwritev", written)
            await disk.pwritev(1 << 20, [b"guest"])
            await disk.flush()
            assert "flush" in seen[: seen.index("table")]

    run(main())


@needs_qemu
def test_repair_leaves_flags_of_data_clusters_alone(tmp_path: Path, how: How) -> None:
    """No refcount is theirs: what the image's clusters of the same numbers have says nothing of them."""
    image, crashed = tmp_path / "image", tmp_path / "crashed"

    async def main() -> None:
        await blockstack.create(image, SIZE, data_file=str(tmp_path / "data"), lazy_refcounts=True)
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [payload(1, SIZE)])
            await disk.flush()
            crashed.write_bytes(image.read_bytes())
        put(crashed, 2 * 65536, 0, ">H")  # a refcount that is wrong: the structure is made anew, the old one is free
        async with blockstack.open(crashed, **how):
            pass

    run(main())
    table = word(crashed, word(crashed, 40)) & OFFSET_MASK
    assert [word(crashed, table + 8 * n) for n in range(SIZE // 65536)] == [
        n * 65536 | OFLAG_COPIED for n in range(SIZE // 65536)
    ]
    assert same_as_qemu(crashed) == (0, 0, 0)


def test_extents_begin_with_the_first_cluster(tmp_path: Path, how: How) -> None:
    """It is at host offset 0: COPIED says that it is allocated."""
    image = tmp_path / "image"
    _make("blockstack", image, raw=False)

    async def main() -> list[tuple[int, int]]:
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [b"guest"])
            await disk.pwritev(2 * 65536, [b"guest"])
            await disk.pwrite_zeroes(3 * 65536, 65536)
            return [extent[:2] for extent in await qcow2_node(disk).mapping.extents()]

    assert run(main()) == [(0, 0), (2, 2 * 65536)]


def test_a_relative_name_is_the_images_and_another_may_be_given(tmp_path: Path, how: How) -> None:
    image, moved = tmp_path / "image", tmp_path / "moved"

    async def main() -> None:
        await blockstack.create(image, SIZE, data_file="data")
        async with blockstack.open(image, **how) as disk:
            await disk.pwritev(0, [b"guest"])
        (tmp_path / "data").rename(moved)
        with pytest.raises(FileNotFoundError):
            async with blockstack.open(image, **how):
                pass
        async with blockstack.open(image, data_file=moved, read_only=True, **how) as disk:
            assert await disk.preadv(0, 5) == b"guest"

    run(main())


def test_a_backing_image_may_have_one(tmp_path: Path, how: How) -> None:
    async def main() -> None:
        await blockstack.create(tmp_path / "base", SIZE, data_file="data")
        async with blockstack.open(tmp_path / "base", **how) as disk:
            await disk.pwritev(SIZE - 5, [b"lower"])
        await blockstack.create(tmp_path / "image", SIZE, backing_file="base", backing_format="qcow2")
        async with blockstack.open(tmp_path / "image", **how) as disk:
            await disk.pwritev(SIZE - 10, [b"upper"])
            assert await disk.preadv(SIZE - 10, 10) == b"upperlower"

    run(main())


def _named(image: Path, name: bytes | None) -> None:
    """An empty image whose header names `name`."""
    header = Header(3, 16, 1 << 20, 1, 3 << 16, 1 << 16, 1, incompatible=4)
    header.data_file = None if name is None else name.decode("utf-8", "surrogateescape")
    image.write_bytes(header.pack().ljust(4 << 16, b"\0"))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (None, ImageError),
        (b"", ImageError),
        (b"missing", FileNotFoundError),
        (b"nul\0byte", ImageError),
        (b"\xff\xfe", FileNotFoundError),
        (b"x" * 5000, OSError),
        (b"/", OSError),
        (b"fifo", OSError),
        (b"/dev/zero", OSError),
        (b"image", ImageError),  # itself
        (b"link", ImageError),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_hostile_names(tmp_path: Path, name: bytes | None, error: type[Exception], read_only: bool) -> None:
    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
    (tmp_path / "link").symlink_to("image")
    _named(tmp_path / "image", name)
    before = (tmp_path / "image").read_bytes()

    async def main() -> None:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(error):
            async with blockstack.open(tmp_path / "image", "qcow2", aio="threads", direct=False, read_only=read_only):
                pass
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors

    run(main())
    assert (tmp_path / "image").read_bytes() == before


def test_the_backing_file_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    header = Header(3, 16, 1 << 20, 1, 3 << 16, 1 << 16, 1, incompatible=4)
    header.data_file = header.backing_file = "base"
    header.backing_format = "raw"
    (tmp_path / "image").write_bytes(header.pack().ljust(4 << 16, b"\0"))
    refused(tmp_path / "image", "one of its backing files")


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (OFLAG_COMPRESSED | 65536, "compressed"),
        (OFLAG_COPIED | 65536, "mapped to offset 65536"),
        (1 << 40, "mapped to offset"),
        ((1 << 40) | 1, "mapped to offset"),
    ],
)
def test_entries_that_point_elsewhere(tmp_path: Path, how: How, entry: int, match: str) -> None:
    image = tmp_path / "image"
    data = _make("blockstack", image, raw=True)
    l2 = word(image, 3 << 16) & ~OFLAG_COPIED
    put(image, l2, entry)
    before = data.read_bytes()

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            with pytest.raises(ImageError, match=match):
                await disk.preadv(0, 512)
            with pytest.raises(ImageError, match=match):
                await disk.pwritev(0, [b"x" * 512])

    run(main())
    assert data.read_bytes() == before


@needs_qemu
@pytest.mark.parametrize("entry", [OFLAG_COMPRESSED | 65536, OFLAG_COPIED | 65536, 65536, 0])
def test_damage_that_qemu_finds(tmp_path: Path, entry: int) -> None:
    image = tmp_path / "image"
    _make("blockstack", image, raw=True)
    put(image, word(image, 3 << 16) & ~OFLAG_COPIED, entry)
    same_as_qemu(image)


def test_what_an_image_without_one_says(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"

    async def main() -> None:
        await blockstack.create(image, SIZE)
        with pytest.raises(ImageError, match="only be given"):
            async with blockstack.open(image, data_file=tmp_path / "data", **how):
                pass

    run(main())


def test_only_raw_stays_of_the_autoclear_bits(tmp_path: Path, how: How) -> None:
    image = tmp_path / "image"
    _make("blockstack", image, raw=True)
    put(image, AUTOCLEAR, 0b111)

    async def main() -> None:
        async with blockstack.open(image, **how) as disk:
            assert qcow2_node(disk).header.data_file_raw

    run(main())
    assert word(image, AUTOCLEAR) == 0b10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data_file_raw": True}, "needs a data_file"),
        ({"data_file": "data", "version": 2}, "version 2"),
        ({"data_file": "data", "data_file_raw": True, "backing_file": "b", "backing_format": "raw"}, "same time"),
        ({"data_file": "image"}, "the image itself"),
        ({"data_file": "data", "format": "raw"}, "no external data file"),
    ],
)
def test_impossible_options(tmp_path: Path, options: dict[str, object], match: str) -> None:
    with pytest.raises(ImageError, match=match):
        run(blockstack.create(tmp_path / "image", SIZE, **options))  # type: ignore[arg-type]
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "image").unlink()
        pytest.fail("an image was made")
