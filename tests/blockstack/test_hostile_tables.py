"""Tables that point where they must not: nothing is written over metadata, and nothing but a refusal comes out."""

import random
from pathlib import Path

import pytest

import blockstack
from blockstack.errors import ImageError
from blockstack.qcow2.header import OFLAG_COPIED, OFLAG_ZERO
from tests.blockstack.hostile import CLUSTER, DATA, FIELDS, L1, L2, MARK, REFBLOCK, REFTABLE, exercise, put, refused
from tests.blockstack.support import run


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (FIELDS["l1_offset"][0], REFTABLE, "refcount table overlaps the L1 table"),
        (FIELDS["l1_offset"][0], REFBLOCK, "same L2 table"),
        (FIELDS["refcount_table_offset"][0], L1, "impossible offset"),
        (L1, REFTABLE | OFLAG_COPIED, "overlaps the refcount table"),
        (L1, L1 | OFLAG_COPIED, "overlaps the L1 table"),
        (L1, REFBLOCK | OFLAG_COPIED, "share the cluster"),
        (L1, (L2 + 512) | OFLAG_COPIED, "unaligned L2 table"),
        (REFTABLE, L2, "share the cluster"),
        (REFTABLE, L1, "overlaps the L1 table"),
        (REFTABLE, REFBLOCK + 512, "impossible offset"),
        (REFTABLE, 1 << 60, "impossible offset"),
        (REFTABLE + 8, REFBLOCK, "share the cluster"),
        (FIELDS["snapshots"][0], 1 << 32, "snapshot table lies"),
    ],
)
def test_overlapping_metadata_is_not_opened_for_writing(image: Path, at: int, value: int, match: str) -> None:
    put(image, at, value)
    before = image.read_bytes()
    refused(image, match, read_only=False)
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "zero"),
    [(0, False), *((target, zero) for target in (REFTABLE, REFBLOCK, L1, L2) for zero in (False, True))],
)
def test_guest_data_is_not_written_over_metadata(image: Path, target: int, zero: bool) -> None:
    """An L2 entry that points at the header, the tables, or at itself; as data, or as a zero cluster to be freed."""
    put(image, L2, target | OFLAG_COPIED | (OFLAG_ZERO if zero else 0))
    before = image.read_bytes()

    async def main() -> None:
        async with blockstack.open(image, aio="threads", direct=False) as disk:
            if target == 0:  # host offset 0 is "unallocated"
                await disk.pwritev(0, [MARK])
            else:
                with pytest.raises(ImageError, match="overlaps"):
                    await disk.pwritev(0, [MARK])
            await disk.pwritev(CLUSTER, [MARK])  # its neighbour is fine

    run(main())
    after = image.read_bytes()
    assert after[:REFBLOCK] == before[:REFBLOCK]
    assert after[L1:L2] == before[L1:L2]
    for start in (0, REFTABLE, REFBLOCK, L1, L2):
        assert MARK[:12] not in after[start : start + CLUSTER]


@pytest.mark.parametrize("cluster", [0, 1, 2, 3, 4])
def test_metadata_counted_as_free_is_not_allocated(image: Path, cluster: int) -> None:
    put(image, REFBLOCK + 2 * cluster, 0, ">H")

    async def main() -> None:
        async with blockstack.open(image, aio="threads", direct=False) as disk:
            with pytest.raises(ImageError, match="overlaps"):
                await disk.pwritev(8 * CLUSTER, [MARK])
            await disk.pwritev(0, [MARK])  # in place

    run(main())
    for start in (0, REFTABLE, REFBLOCK, L1, L2):
        assert MARK[:12] not in image.read_bytes()[start : start + CLUSTER]


def test_refcounts_that_are_gone(image: Path) -> None:
    """No refcount block, or one beyond the end of the file: every cluster would count as free."""
    for value in (0, 1 << 30):
        put(image, REFTABLE, value)
        before = image.read_bytes()

        async def main() -> None:
            async with blockstack.open(image, aio="threads", direct=False) as disk:
                with pytest.raises(ImageError, match=r"overlaps the header|beyond the end of the file"):
                    await disk.pwritev(8 * CLUSTER, [MARK])

        run(main())
        assert image.read_bytes() == before


@pytest.mark.parametrize(
    "entry", [DATA + 512, (1 << 55) | OFLAG_COPIED, DATA, (DATA + 512) | OFLAG_ZERO, 1 << 62, (1 << 64) - 1, 1 << 61]
)
def test_strange_l2_entries(image: Path, entry: int) -> None:
    put(image, L2, entry)
    run(exercise(image))
    assert MARK[:12] not in image.open("rb").read(DATA)  # the rest may be sparse and huge


def test_a_zero_flag_is_no_part_of_version_2(image: Path) -> None:
    put(image, 4, 2, ">I")
    put(image, L2, OFLAG_ZERO)

    async def main() -> None:
        async with blockstack.open(image, aio="threads", direct=False) as disk:
            with pytest.raises(ImageError, match="version 2"):
                await disk.preadv(0, 1)

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits(image: Path, seed: int) -> None:
    """One to three bits of the metadata at a time."""
    intact = bytearray(image.read_bytes())
    chance = random.Random(seed)
    places = [range(112), range(REFTABLE, REFTABLE + 16), range(REFBLOCK, REFBLOCK + 24)]
    places += [range(L1, L1 + 16), range(L2, L2 + 24)]
    for _ in range(80):
        data = bytearray(intact)
        flips = [
            (chance.choice(chance.choice(places)), chance.randrange(8)) for _ in range(chance.choice((1, 1, 2, 3)))
        ]
        for at, bit in flips:
            data[at] ^= 1 << bit
        image.write_bytes(data)
        run(exercise(image))
        assert MARK[:12] not in image.open("rb").read(CLUSTER // 8), flips
