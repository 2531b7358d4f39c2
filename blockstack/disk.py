"""What a user of the library holds: create, open, and the disk."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from blockstack import parallels, qcow2, raw
from blockstack.aio import ENGINES
from blockstack.errors import ImageError
from blockstack.fallocate import BEHAVIOURS
from blockstack.file_posix import FilePosix
from blockstack.gate import Gate
from blockstack.journal import Journal
from blockstack.node import Buffer, Node
from blockstack.probe import read_known_safe
from blockstack.qcow2.cache import DEFAULT_SIZES, CacheSizes
from blockstack.qcow2.check import repair_dirty
from blockstack.qcow2.preallocate import fill, preallocate, refuse_mode
from blockstack.settled import settled
from blockstack.strategies import AUTO, STRATEGIES, Auto, Strategy
from blockstack.system import HOST, System

MAX_BACKING_DEPTH = 64
"""Images in a backing chain; a loop is longer than that."""

SECTOR = 512
"""Unit of a disk's length, in bytes (QEMU: BDRV_SECTOR_SIZE)."""

FORMATS = ("qcow2", "parallels", "raw")
"""Image formats, by QEMU's names."""

_HEADER_BYTES = 65536

T = TypeVar("T")


class Disk:
    """An open disk. Any number of calls may be awaited at once; offsets and lengths are bytes of any alignment.

    Errors are `OSError` with errno (EINVAL outside of the disk, EIO for a read or write of 2 GiB and more, EBADF once
    closing has begun), or `ImageError` for what is wrong with the image.
    """

    def __init__(self, node: Node, file: FilePosix) -> None:
        self.node = node
        self.file = file

    @property
    def length(self) -> int:
        """Size of the disk in bytes."""
        return self.node.length

    async def preadv(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`."""
        return await self.node.preadv(offset, length)

    async def pwritev(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write `buffers` one behind the other at `offset`."""
        await self.node.pwritev(offset, buffers)

    async def pwrite_zeroes(self, offset: int, length: int, unmap: bool = False) -> None:
        """Make a range read as zeroes; `unmap` allows giving the space back."""
        await self.node.pwrite_zeroes(offset, length, unmap=unmap)

    async def pdiscard(self, offset: int, length: int) -> None:
        """Say that a range is no longer needed. This driver keeps the data unless it was opened with `discard`
        (QEMU: discard=ignore and discard=unmap).
        """
        await self.node.pdiscard(offset, length)

    async def truncate(self, length: int, *, shrink: bool = False) -> None:
        """Resize the disk to `length` bytes, a multiple of a sector. What grows reads as zeroes; what a shorter disk
        loses is gone, which has to be asked for with `shrink`. Raises OSError: EINVAL, ENOTSUP, EFBIG.
        """
        await self.node.truncate(length, shrink=shrink)

    async def flush(self) -> None:
        """Make everything acknowledged so far stable."""
        await self.node.flush()

    async def drain(self) -> None:
        """Return when no request is in flight, on the disk or its file (QEMU: bdrv_drain)."""
        await self.node.drain()
        await self.file.drain()


async def create(
    filename: str | Path,
    size: int,
    *,
    format: str = "qcow2",
    cluster_size: int | None = None,
    version: int = 3,
    refcount_bits: int = 16,
    backing_file: str | None = None,
    backing_format: str | None = None,
    data_file: str | None = None,
    data_file_raw: bool = False,
    extended_l2: bool = False,
    lazy_refcounts: bool = False,
    preallocation: str = "off",
) -> None:
    """Make an image of `size` bytes, rounded up to whole sectors, as qemu-img does.

    `cluster_size` None is QEMU's default: 64 KiB for qcow2, 1 MiB for parallels.
    `preallocation` is off, metadata (qcow2 only), falloc or full.
    `data_file`: guest data goes to a file that is made anew, named relative to the image; `data_file_raw` keeps it
    readable as a raw image. `extended_l2`: 32 subclusters a cluster, of at least 16 KiB.
    QEMU rounds the size of an existing image down: it would not see the guest's last bytes. Raises ImageError for
    impossible options, OSError from the file system.
    """
    refuse_mode(preallocation, format=format, backed=backing_file is not None)
    if size > 0:
        size += -size % SECTOR
    if format == "qcow2":
        if backing_file is not None and backing_format is None:
            raise ImageError("a backing file needs its format named")
        qcow2.create(
            Path(filename),
            size,
            cluster_size=cluster_size or 65536,
            version=version,
            refcount_bits=refcount_bits,
            backing_file=backing_file,
            backing_format=backing_format,
            data_file=data_file,
            data_file_raw=data_file_raw,
            extended_l2=extended_l2,
            lazy_refcounts=lazy_refcounts,
        )
        if data_file_raw and preallocation == "off":
            # So that a raw file keeps what it holds whatever is done to the image (QEMU: qcow2_co_create).
            preallocation = "metadata"
    elif data_file is not None or data_file_raw:
        raise ImageError(f"an image of format {format!r} has no external data file")
    elif backing_file is not None:
        raise ImageError(f"a backing file of a {format} image is not supported")
    elif format == "parallels":
        parallels.create(Path(filename), size, cluster_size=cluster_size or parallels.DEFAULT_CLUSTER_SIZE)
    elif format == "raw":
        raw.create(Path(filename), size)
    else:
        raise ImageError(f"unknown image format {format!r}: {', '.join(FORMATS)}")
    if preallocation != "off":
        await _fill_new(Path(filename), format, preallocation)


async def _fill_new(path: Path, format: str, mode: str) -> None:
    async with open_disk(path, format, aio="threads", direct=False, strategy="none") as disk:
        if isinstance(disk.node, qcow2.Qcow2):
            await preallocate(disk.node, mode)
        elif disk.length:
            await fill(disk.file, 0, disk.length, mode)
        await disk.flush()


@asynccontextmanager
async def open_disk(
    filename: str | Path,
    format: str | None = None,
    *,
    aio: str = "native",
    strategy: str | Strategy = "serialise",
    read_only: bool = False,
    direct: bool = True,
    fallocate: str = "kernel",
    journal: Journal | None = None,
    stand_in: bool = False,
    gate: Gate | None = None,
    probe: str | Path | None = None,
    discard: bool = False,
    data_file: str | Path | None = None,
    l2_cache_size: int | None = None,
    refcount_cache_size: int | None = None,
    filters: Sequence[Callable[[Node], Node]] = (),
    system: System = HOST,
) -> AsyncIterator[Disk]:
    """Open an image; leaving the context waits for what is in flight, writes back and closes.

    `format` None looks at the content: qcow2 or parallels by their magic, else raw. `strategy` is a name or an
    instance, `direct` means O_DIRECT, `fallocate` is `kernel` or `legacy-xfs`; `journal`, `stand_in` and `gate` are the
    file node's.
    `probe`, for the strategy `auto`: what `eofrace probe --json` wrote on this kernel; without it `auto` serialises.
    `discard`: a guest's discards give clusters of qcow2 back, as holes, and punch holes into raw (QEMU: discard=unmap).
    `l2_cache_size` and `refcount_cache_size` are bytes of qcow2's metadata caches, None for QEMU's defaults: all L2
    tables of the disk, at most 32 MiB, and 4 refcount blocks.
    `data_file`: the external data file, instead of the one that the image names. It is opened as the image is.
    `filters`: what stands between the disk and the format, the lowest first (blockstack.filters). `system`: who opens
    files and does system calls; the running kernel, or a simulated one (blockstack.sim).
    Raises ImageError, OSError, ValueError for an unknown name or a `probe` that is none.
    """
    if isinstance(strategy, str):
        strategy = _lookup("strategy", STRATEGIES, strategy)
    if probe is not None:
        if not isinstance(strategy, Auto):
            raise ValueError(f"only the strategy {AUTO!r} goes by a probe, not {strategy.name!r}")
        strategy = Auto(read_known_safe(probe))
    caches = CacheSizes(l2_cache_size, refcount_cache_size)
    _lookup("AIO engine", ENGINES, aio)
    _lookup("fallocate behaviour", BEHAVIOURS, fallocate)
    open_file = partial(
        FilePosix,
        aio=aio,
        strategy=strategy,
        read_only=read_only,
        direct=direct,
        fallocate=fallocate,
        journal=journal,
        stand_in=stand_in,
        gate=gate,
        discard=discard,
        system=system,
    )
    file = open_file(Path(filename))
    node = await _open_format(
        Path(filename), file, format, open_file, depth=0, discard=discard, given_data_file=data_file, caches=caches
    )
    try:
        for put_before in filters:
            node = put_before(node)
    except BaseException:
        await node.close()
        raise
    disk = Disk(node, file)
    try:
        yield disk
    finally:
        await settled(asyncio.ensure_future(node.close()))


async def _open_format(
    path: Path,
    file: FilePosix,
    format: str | None,
    open_file: Callable[..., FilePosix],
    depth: int,
    discard: bool = False,
    given_data_file: str | Path | None = None,
    caches: CacheSizes = DEFAULT_SIZES,
) -> Node:
    """The node for `format` on an open file node, which it owns from then on; `open_file` opens another one like it."""
    backing: Node | None = None
    data: FilePosix | None = None
    read_only = file.read_only
    try:
        if format is not None and format not in FORMATS:
            raise ImageError(f"unknown image format {format!r}: {', '.join(FORMATS)}")
        head = await file.preadv(0, min(file.length, _HEADER_BYTES))
        format = format or _probed(head)
        if given_data_file is not None and format != "qcow2":
            raise ImageError(f"a {format} image has no external data file")
        if format == "parallels":
            return await parallels.Parallels.open(parallels.Header.parse(head, file.length), file, read_only=read_only)
        if format == "raw":
            if not read_only and file.length % file.request_alignment:
                # QEMU 9c60a5d1978e: a write to the last block would make the file, and so the disk, longer.
                raise ImageError(
                    f"a raw disk of {file.length} bytes is not a multiple of the {file.request_alignment} bytes that "
                    "O_DIRECT writes: open it with direct=False"
                )
            file.growable = False
            return file
        header = qcow2.Header.parse(head, file.length)
        if header.dirty and not read_only:
            header = await repair_dirty(header, file)
        if header.backing_file:
            backing = await _open_backing(path, file, header, depth)
        if (data_path := qcow2.data_path(path, header, given_data_file)) is not None:
            data = open_file(data_path)
            qcow2.refuse_shared(data, file, backing)
        return await qcow2.driver(header).open(
            header, file, backing, read_only=read_only, discard=discard, data=data, caches=caches
        )
    except BaseException:
        await file.close()
        if data is not None:
            await data.close()
        if backing is not None:
            await backing.close()
        raise


def _probed(head: bytes) -> str:
    """The format of what begins with `head`, by its magic."""
    if head[:4] == qcow2.header.MAGIC:
        return "qcow2"
    return "parallels" if head[:16] in parallels.MAGICS else "raw"


async def _open_backing(path: Path, file: FilePosix, header: qcow2.Header, depth: int) -> Node:
    if depth >= MAX_BACKING_DEPTH:
        raise ImageError(f"the backing chain has more than {MAX_BACKING_DEPTH} images, or is a loop")
    if header.backing_format not in ("qcow2", "raw"):
        # Probing would let the guest of a raw image choose which of the host's files is opened (CVE-2008-2004).
        raise ImageError(f"the format of the backing file is {header.backing_format or 'not recorded'}: qcow2 or raw")
    target = path.parent / (header.backing_file or "")
    open_file = partial(FilePosix, aio="threads", strategy=file.strategy, read_only=True, direct=False)
    return await _open_format(target, open_file(target), header.backing_format, open_file, depth + 1)


def _lookup(what: str, names: Mapping[str, T], name: str) -> T:
    try:
        return names[name]
    except KeyError:
        raise ValueError(f"unknown {what} {name!r}: one of {', '.join(names)}") from None
