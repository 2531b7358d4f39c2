"""`python -m blockstack check` says what qemu-img check says: of clean, leaked and damaged images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.blockstack.hostile import CLUSTER, L1, L2, REFBLOCK, put, word
from tests.blockstack.support import check, needs_qemu, qemu_img, qemu_io

ROOT = Path(__file__).parents[2]


def ours(image: Path, *words: str) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "blockstack", "check", "--json", *words, str(image)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def same_as_qemu(image: Path) -> tuple[int, int, int]:
    """Exit status, corruptions and leaks, which both find."""
    words = ["qemu-img", "check", "-f", "qcow2", "--output=json", str(image)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    theirs = json.loads(done.stdout)
    status, report = ours(image)
    assert status == done.returncode, (report, theirs)
    assert report["corruptions"] == theirs.get("corruptions", 0), (report, theirs)
    assert report["leaks"] == theirs.get("leaks", 0), (report, theirs)
    return status, theirs.get("corruptions", 0), theirs.get("leaks", 0)


@needs_qemu
@pytest.mark.parametrize("options", ["refcount_bits=1", "refcount_bits=64", "cluster_size=512", "cluster_size=2M"])
def test_clean(tmp_path: Path, options: str) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "4M")
    qemu_io(image, "write -P 1 0 100k", "write -z 1M 64k", "write -P 3 3M 64k", "write -z 3M 64k")
    assert same_as_qemu(image) == (0, 0, 0)


@needs_qemu
def test_clean_with_snapshots_and_compressed_clusters(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(b"compressed" * 100_000 + bytes(480))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
    qemu_img("snapshot", "-c", "s", image)
    qemu_io(image, "write -P 1 100k 200k")
    assert same_as_qemu(image) == (0, 0, 0)


@needs_qemu
def test_leaks_are_found_and_repaired(image: Path) -> None:
    put(image, L2, 0)
    assert same_as_qemu(image) == (3, 0, 1)
    status, report = ours(image, "--repair", "leaks")
    assert (status, report["leaks_fixed"]) == (0, 1)
    assert same_as_qemu(image) == (0, 0, 0)
    check(image)


@needs_qemu
@pytest.mark.parametrize("what", ["refcount 0", "refcount 2", "shared", "not copied"])
def test_damage(image: Path, what: str) -> None:
    match what:
        case "refcount 0":
            put(image, REFBLOCK + 2 * 5, 0, ">H")
        case "refcount 2":
            put(image, REFBLOCK + 2 * 5, 2, ">H")
        case "shared":
            put(image, L2, word(image, L2 + 8))
        case "not copied":
            put(image, L1, word(image, L1) & ~(1 << 63))
    status, corruptions, _ = same_as_qemu(image)
    assert status == 2
    assert corruptions
    before = image.read_bytes()
    assert ours(image, "--repair", "leaks")[0] == 2
    assert image.read_bytes() == before  # leaks of an image that is corrupt are left alone


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(CLUSTER))
    assert ours(tmp_path / "image") == (1, {})
    assert ours(tmp_path / "missing") == (1, {})
