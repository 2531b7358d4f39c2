"""Files that share a number, in several btrfs subvolumes or one after the other; and files that share a name."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.capture.test_capture import LOAD
from tracer import trace
from tracer.capture.result import Captured
from tracer.capture.run import Options, capture
from tracer.errors import Status
from tracer.lab.scratch import default_directory, loop_scratch
from tracer.operations import Operations
from tracer.watch import run as watch

pytestmark = pytest.mark.root

WRITE = """
import os, sys
for path in sys.argv[1:]:
    os.pwrite(os.open(path, os.O_RDWR), os.path.basename(os.path.dirname(path)).encode(), 0)
"""


def recorded(tmp_path: Path, script: str, *words: object, **options: object) -> tuple[Captured, Operations]:
    output = tmp_path / "out.parquet"
    command = (sys.executable, "-c", script, *map(str, words))
    captured = capture(Options(command=command, output=output, **options), lambda *_: None)  # type: ignore[arg-type]
    assert captured.exit_status == 0
    return captured, trace.read(output).ops


@pytest.fixture
def subvolumes() -> Iterator[tuple[Path, Path]]:
    """A file in each of two subvolumes, both with the same inode number."""
    with loop_scratch("btrfs", 512 << 20, default_directory()) as scratch:
        files = []
        for name in ("one", "second"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(scratch.path / name)], check=True)
            files.append(scratch.path / name / "f")
            files[-1].write_bytes(bytes(4096))
        assert files[0].stat().st_ino == files[1].stat().st_ino
        yield files[0], files[1]


def test_files_of_two_subvolumes_are_two(subvolumes: tuple[Path, Path], tmp_path: Path) -> None:
    captured, ops = recorded(tmp_path, WRITE, *subvolumes)
    status = [path.stat() for path in subvolumes]
    for one, name in zip(status, ("one", "second"), strict=True):
        mine = ops[(ops["dev"] == one.st_dev) & (ops["ino"] == one.st_ino)]
        assert mine["length"].tolist() == [len(name)]
        assert (captured.paths[one.st_dev, one.st_ino] or "").startswith(f"/{name}/f")


def test_a_file_of_one_subvolume_is_watched(subvolumes: tuple[Path, Path], tmp_path: Path) -> None:
    one, second = subvolumes
    captured, ops = recorded(tmp_path, WRITE, one, second, files=(one,))
    assert ops[["dev", "length"]].tolist() == [(one.stat().st_dev, len("one"))]
    captured, ops = recorded(tmp_path, WRITE, one, second, files=(one, second))
    found = dict(ops[["dev", "length"]].tolist())
    assert found == {one.stat().st_dev: len("one"), second.stat().st_dev: len("second")}
    assert not [gap for gap in captured.gaps if "replaced" in gap]
    assert [captured.paths[path.stat().st_dev, path.stat().st_ino] for path in subvolumes] == [str(one), str(second)]


AGAIN = """
import json, os, sys
seen = {}
for number in range(5000):
    path = os.path.join(sys.argv[1], f"f{number}")
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(file, b"x")
    inode = os.fstat(file).st_ino
    seen.setdefault(inode, []).append(path)
    os.close(file)
    if len(seen[inode]) == 3:
        break
    os.unlink(path)
with open(sys.argv[2], "w") as out:
    json.dump([inode, seen[inode]], out)
"""


@pytest.mark.parametrize("fs", ["xfs", "ext4"])
def test_an_inode_number_that_is_used_again_does_not_keep_its_name(fs: str, tmp_path: Path) -> None:
    with loop_scratch(fs, 512 << 20, default_directory()) as scratch:
        captured, ops = recorded(tmp_path, AGAIN, scratch.path, tmp_path / "said")
        inode, names = json.loads((tmp_path / "said").read_text())
        file = (scratch.dev, inode)
    assert len(ops[ops["ino"] == inode]) == 3
    suffix = " (of a file system that is not mounted here)"
    expected = [f"/{Path(name).name}{suffix}" for name in names]
    assert captured.paths[file] == expected[-1]
    assert captured.earlier[file] == expected[:-1]
    [told] = [entry for entry in captured.to_json()["files"] if (entry["dev"], entry["ino"]) == file]
    assert (told["path"], told["earlier_paths"]) == (expected[-1], expected[:-1])
    assert all(len(earlier) for earlier in captured.earlier.values())


def test_a_file_that_is_renamed_is_one(tmp_path: Path) -> None:
    script = (
        "import os, sys; f = open(sys.argv[1], 'wb', 0); f.write(b'x');"
        "os.rename(sys.argv[1], sys.argv[2]); f.write(b'y')"
    )
    captured, _ = recorded(tmp_path, script, tmp_path / "a", tmp_path / "b")
    status = (tmp_path / "b").stat()
    assert captured.paths[status.st_dev, status.st_ino] == str(tmp_path / "a")
    assert captured.earlier == {}


REPLACE = "f = open('f', 'ab'); open('g', 'wb').close(); f.write(b'x'); f.flush(); os.rename('g', 'f')"
FATES = {
    "replaced": (REPLACE, Status.INCONCLUSIVE),
    "replaced, and kept": ("os.rename('f', 'old'); open('f', 'wb').write(b'x'); open('old', 'ab').write(b'x')", 3),
    "there again": ("os.rename('f', 'old'); os.rename('old', 'f'); open('f', 'ab').write(b'x')", Status.OK),
    "deleted": ("open('f', 'ab').write(b'x'); os.unlink('f')", Status.OK),
    "overwritten": ("open('f', 'wb').write(b'x')", Status.OK),
    "found dangerous before": (
        f"subprocess.run([sys.executable, {LOAD!r}, 'race', 'f', '200'], check=True); {REPLACE}",
        Status.HAZARD,
    ),
}
"""What becomes of the name of a file that is followed, and what that may be said to prove."""


@pytest.mark.parametrize("fate", FATES)
def test_a_name_that_is_another_files_in_the_end(fate: str, tmp_path: Path) -> None:
    """Whoever names a file means that name: what was written by it to another file was not seen."""
    script, status = FATES[fate]
    name = tmp_path / "f\x1b[2J"
    script = f"import os, subprocess, sys; os.chdir(sys.argv[1]); {script}".replace("'f'", "'f\\x1b[2J'")
    gap = f"{tmp_path}/f\\x1b[2J since it was replaced"
    command = (sys.executable, "-c", script, str(tmp_path))
    name.touch()
    other = tmp_path / "other"
    other.hardlink_to(name)
    captured = capture(Options(command=command, files=(name, other)), lambda *_: None)
    assert (captured.exit_status, captured.status) == (0, status)
    assert (gap in captured.gaps) == (status is not Status.OK)
    notes = [note for note in captured.notes if "deleted" in note]
    assert [note.partition(":")[0] for note in notes] == [f"{tmp_path}/f\\x1b[2J"] * (fate == "deleted")
    name.touch()
    watched = watch.watch(watch.Options(command=command, files=(name,)), lambda *_: None, lambda *_: None)
    assert (watched.exit_status, watched.status) == (0, status)
    assert (gap in watched.gaps) == (status is not Status.OK)
