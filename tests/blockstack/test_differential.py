"""Random guest histories over random images, made by either driver: what blockstack leaves is what QEMU reads.

200 histories by default; for a nightly run: EOFRACE_HISTORIES=20000 pytest tests/blockstack/test_differential.py
"""

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import blockstack
from tests.blockstack.support import check, convert, needs_qemu, o_direct, qemu_img, run
from tests.blockstack.test_histories import SIZE, Step, _apart, _step, _step_on

pytestmark = needs_qemu

HISTORIES = int(os.environ.get("EOFRACE_HISTORIES", "200"))


@dataclass(frozen=True)
class Options:
    """Of an image. `maker` is the driver that creates it; `compressed` is the type of clusters that it begins with."""

    maker: str
    version: int
    cluster_size: int
    refcount_bits: int
    backing: str | None
    snapshot: bool
    lazy_refcounts: bool
    cache_size: int | None  # bytes of each metadata cache: 0 for the least that it works with
    extended_l2: bool = False
    data_file: str | None = None
    compressed: str | None = None


@st.composite
def options(draw: st.DrawFn) -> Options:
    version = draw(st.sampled_from((3, 3, 2)))
    bits = draw(st.sampled_from((1, 2, 4, 8, 16, 32, 64))) if version == 3 else 16
    extended_l2 = version == 3 and draw(st.booleans())
    # QEMU has no snapshots of external data, and no raw data over a backing file.
    data_file = draw(st.sampled_from((None, None, "plain", "raw"))) if version == 3 else None
    backing = draw(st.sampled_from((None, "raw", "qcow2"))) if data_file != "raw" else None
    types = ("zlib", "zstd") if version == 3 else ("zlib",)
    plain = data_file is None and backing is None
    compressed = draw(st.sampled_from((None, *types))) if plain else None
    return Options(
        draw(st.sampled_from(("qemu", "blockstack"))) if compressed is None else "qemu",
        version,
        draw(st.sampled_from((16384, 65536) if extended_l2 else (512, 1024, 4096, 65536))),
        bits,
        backing,
        # A snapshot doubles the refcounts, and some 40 compressed clusters share a cluster.
        data_file is None and bits > (1 if compressed is None else 4) and draw(st.booleans()),
        version == 3 and draw(st.booleans()),
        draw(st.sampled_from((None, 0))),
        extended_l2,
        data_file,
        compressed,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Options, list[list[Step]]]:
    """Options and rounds of steps; the steps of a round run at once."""
    chosen = draw(options())
    steps = st.lists(_step(chosen.cluster_size), min_size=1, max_size=5)
    return chosen, draw(st.lists(steps, min_size=1, max_size=6))


def _make(image: Path, chosen: Options, model: bytearray) -> None:
    names: dict[str, str] = {}
    # QEMU looks for a relative name in its current directory.
    data_file = str(image.with_name("data")) if chosen.data_file else None
    if chosen.backing is not None:
        short = SIZE // 2 + 512
        model[:short] = b"\xbb" * short
        base = image.parent / "base"
        base.write_bytes(model[:short])
        if chosen.backing == "qcow2":
            qemu_img("convert", "-f", "raw", "-O", "qcow2", base, base.with_suffix(".qcow2"))
            base = base.with_suffix(".qcow2")
        names = {"backing_file": base.name, "backing_format": chosen.backing}
    if chosen.maker == "blockstack":
        run(
            blockstack.create(
                image,
                SIZE,
                version=chosen.version,
                refcount_bits=chosen.refcount_bits,
                cluster_size=chosen.cluster_size,
                backing_file=names.get("backing_file"),
                backing_format=names.get("backing_format"),
                extended_l2=chosen.extended_l2,
                data_file=data_file,
                data_file_raw=chosen.data_file == "raw",
                lazy_refcounts=chosen.lazy_refcounts,
            )
        )
        return
    words = [f"cluster_size={chosen.cluster_size}", f"refcount_bits={chosen.refcount_bits}"]
    words.append("compat=0.10" if chosen.version == 2 else "compat=1.1")
    words += ["lazy_refcounts=on"] if chosen.lazy_refcounts else []
    words += ["extended_l2=on"] if chosen.extended_l2 else []
    words += [f"data_file={data_file}"] if data_file else []
    words += ["data_file_raw=on"] if chosen.data_file == "raw" else []
    if chosen.compressed is not None:
        model[: SIZE * 3 // 4] = bytes(at // 300 % 251 for at in range(SIZE * 3 // 4))
        image.with_name("source").write_bytes(model)
        words += [f"compression_type={chosen.compressed}"] if chosen.version == 3 else []
        source = image.with_name("source")
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", ",".join(words), source, image)
        return
    over = ["-b", names["backing_file"], "-F", names["backing_format"]] if names else []
    qemu_img("create", "-q", "-f", "qcow2", "-o", ",".join(words), *over, image, SIZE)


async def _discard(disk: blockstack.Disk, model: bytearray, step: Step, chosen: Options) -> None:
    """Whole clusters read as zeroes, but in version 2 over a backing file, where they stay as they are."""
    await disk.pdiscard(step.offset, step.length)
    size, end = chosen.cluster_size, step.offset + step.length
    start = -(-step.offset // size) * size
    end = end if end == SIZE else end // size * size
    if start < end and (chosen.version > 2 or chosen.backing is None):
        model[start:end] = bytes(end - start)


async def _live(image: Path, chosen: Options, rounds: list[list[Step]], model: bytearray, direct: bool) -> None:
    pending = list(rounds)
    while pending:
        async with blockstack.open(
            image,
            aio="native" if direct else "threads",
            direct=direct,
            discard=True,
            l2_cache_size=chosen.cache_size,
            refcount_cache_size=chosen.cache_size,
        ) as disk:
            while pending:
                steps = _apart(pending.pop(0))
                await asyncio.gather(
                    *(
                        _discard(disk, model, step, chosen) if step.what == "discard" else _step_on(disk, model, step)
                        for step in steps
                    )
                )
                assert await disk.preadv(0, SIZE) == model
                if any(step.what == "reopen" for step in steps):
                    break


def test_differential(tmp_path: Path) -> None:
    direct = o_direct(tmp_path)

    @settings(
        max_examples=HISTORIES,
        deadline=None,
        derandomize="EOFRACE_HISTORIES" not in os.environ,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(history=histories())
    def live(history: tuple[Options, list[list[Step]]]) -> None:
        chosen, rounds = history
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            image, model = Path(directory) / "image", bytearray(SIZE)
            _make(image, chosen, model)
            half = len(rounds) // 2 if chosen.snapshot else 0
            run(_live(image, chosen, rounds[:half], model, direct))
            frozen = bytes(model)
            if chosen.snapshot:
                qemu_img("snapshot", "-c", "s", image)
            run(_live(image, chosen, rounds[half:], model, direct))
            check(image)
            assert convert(image) == model
            if chosen.data_file == "raw":
                data = image.with_name("data").read_bytes()
                # QEMU itself fills the last cluster up, when it creates the image.
                assert data[:SIZE] == model
                assert not any(data[SIZE:])
            if chosen.snapshot:
                qemu_img("snapshot", "-a", "s", image)
                check(image)
                assert convert(image) == frozen

    live()
