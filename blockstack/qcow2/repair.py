"""Makes refcounts and COPIED flags what the tables say (QEMU: compare_refcounts, rebuild_refcount_structure and
check_oflag_copied, with BDRV_FIX_ERRORS).
"""

import numpy as np
import numpy.typing as npt

from blockstack.errors import ImageError
from blockstack.node import Node
from blockstack.qcow2.header import MAX_REFTABLE_BYTES, OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, Header
from blockstack.qcow2.refcounts import TABLE_POINTER
from blockstack.qcow2.widths import RefcountArray, pack, refcount_dtype

Counts = npt.NDArray[np.uint32]
"""References to each host cluster, those of the refcount structure not among them."""


def refuse_too_many(header: Header, counts: Counts) -> None:
    """Raise ImageError where a cluster has more references than a refcount can say."""
    if len(counts) and int(counts.max()).bit_length() > 1 << header.refcount_order:
        raise ImageError(f"beyond repair: {counts.max()} references, refcounts of {1 << header.refcount_order} bits")


async def rebuild(header: Header, file: Node, counts: Counts) -> Counts:
    """Write new refcount blocks and a table behind everything else, and have the header point there.

    The old ones, which may be damaged, are neither relied on nor overwritten. Returns `counts` with the new ones in it.
    Raises ImageError where the file is too large, OSError.
    """
    size, per_block = header.cluster_size, header.refcounts_per_block
    start = max(len(counts), -(-file.length // size))
    used = np.unique(np.flatnonzero(counts) // per_block)
    blocks, table_clusters = used, 1
    while True:
        # The structure counts itself, so that it may take more blocks than what it is made for.
        end = start + len(blocks) + table_clusters
        own = np.arange(start // per_block, (end - 1) // per_block + 1)
        needed, clusters = np.union1d(used, own), -(-(int(own[-1]) + 1) * 8 // size)
        if len(needed) == len(blocks) and clusters == table_clusters:
            break
        blocks, table_clusters = needed, max(clusters, table_clusters)
    if table_clusters * size > MAX_REFTABLE_BYTES:
        raise ImageError("the image is too large for a refcount table")
    counts = np.concatenate((counts, np.zeros(end - len(counts), dtype=np.uint32)))
    counts[start:end] = 1
    table = np.zeros(table_clusters * size // 8, dtype=np.uint64)
    for number, index in enumerate(blocks.tolist()):
        table[index] = (start + number) * size
        await file.pwritev(int(table[index]), [_block(header, counts, index)], metadata=True)
    offset = (start + len(blocks)) * size
    await file.pwritev(offset, [table.astype(">u8").tobytes()], metadata=True)
    await file.flush()
    await file.pwritev(TABLE_POINTER, [offset.to_bytes(8, "big") + table_clusters.to_bytes(4, "big")], metadata=True)
    await file.flush()
    header.refcount_table_offset, header.refcount_table_clusters = offset, table_clusters
    return counts


def _block(header: Header, counts: Counts, index: int) -> bytes:
    per_block = header.refcounts_per_block
    block: RefcountArray = np.zeros(per_block, dtype=refcount_dtype(header.refcount_order))
    part = counts[index * per_block : (index + 1) * per_block]
    block[: len(part)] = part
    return pack(block, header.refcount_order)


async def fix_copied(header: Header, file: Node, counts: Counts) -> int:
    """Set the flags of the active tables where there is one reference, clear them elsewhere; returns how many were
    wrong. The refcounts must be right. Raises OSError.
    """
    l1 = await _read(file, header.l1_offset, header.l1_entries)
    fixed = 0
    for offset in (l1 & np.uint64(OFFSET_MASK)).tolist():
        if offset and not header.external:  # only metadata has refcounts
            table = await _read(file, offset, header.cluster_size // 8)
            fixed += await _fix_table(header, file, offset, table, counts)
    return fixed + await _fix_table(header, file, header.l1_offset, l1, counts)


async def _fix_table(header: Header, file: Node, offset: int, table: npt.NDArray[np.uint64], counts: Counts) -> int:
    plain = (table & np.uint64(OFLAG_COMPRESSED)) == 0
    hosts = (table & np.uint64(OFFSET_MASK)) // np.uint64(header.cluster_size)
    known = plain & (hosts != 0) & (hosts < len(counts))
    if header.extended_l2 and offset != header.l1_offset:
        known[1::2] = False  # bitmaps
    alone = np.zeros(len(table), dtype=bool)
    alone[known] = counts[hosts[known]] == 1
    fixed = np.where(known, table & np.uint64(~OFLAG_COPIED & 2**64 - 1), table)
    fixed[alone] |= np.uint64(OFLAG_COPIED)
    wrong = int(np.count_nonzero(fixed != table))
    if wrong:
        await file.pwritev(offset, [fixed.astype(">u8").tobytes()], metadata=True)
    return wrong


async def _read(file: Node, offset: int, entries: int) -> npt.NDArray[np.uint64]:
    readable = max(0, min(entries * 8, file.length - offset))
    data = await file.preadv(offset, readable) if readable else b""
    return np.frombuffer(data.ljust(entries * 8, b"\0"), dtype=">u8").astype(np.uint64)
