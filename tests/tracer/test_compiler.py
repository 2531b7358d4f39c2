"""What the compiler has made is kept, by all that goes into it, and only what is ours and whole is taken."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer import attach, cache, compiler
from tracer.compiler import INSTRUCTION_BYTES, Compiled, Map, with_maps

MACROS = {"ONE": 1}
TEXT = "int on_x(void *ctx) { return ONE; }"
MADE = Compiled((Map("a", 1, 4, 8, 16, 0, "int", "unsigned long long"),), {"on_x": bytes(16)}, "GPL", 7)


class Bcc:
    """Of bcc, what the key asks for."""

    __version__ = "0.26.0"


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each text that was compiled, instead of found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts: list[str] = []

    def record(bcc: object, text: str, macros: object) -> Compiled:
        texts.append(text)
        return MADE

    monkeypatch.setattr(compiler, "_compile", record)
    return texts


def build(text: str = TEXT, macros: dict[str, int] = MACROS) -> Compiled:
    return compiler.build(Bcc, text, macros)


def files() -> list[Path]:
    return list((cache.root() / "bpf").iterdir())


def test_it_is_compiled_once(compiled: list[str]) -> None:
    assert build() == build() == MADE
    assert compiled == [TEXT]
    (file,) = files()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_whatever_goes_into_it_makes_another(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    build()
    build(TEXT + " ")
    build(macros={"ONE": 2})
    build(macros={"TWO": 1})
    monkeypatch.setattr(Bcc, "__version__", "0.27.0")
    build()
    host = os.uname()
    other = os.uname_result((host.sysname, host.nodename, "6.1.0-other", host.version, host.machine))
    monkeypatch.setattr(os, "uname", lambda: other)
    build()
    assert len(compiled) == len(files()) == 6


def change(file: Path, how: Callable[[bytes], bytes]) -> None:
    file.write_bytes(how(file.read_bytes()))


def replaced_by_link(file: Path) -> None:
    copy = file.with_name("copy")
    file.rename(copy)
    file.symlink_to(copy)


def of_another(file: Path) -> None:
    """Right, under another name."""
    build(TEXT + "\n")
    (other,) = {*files()} - {file}
    file.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.chmod(0o622),
        lambda file: change(file, lambda data: data[:-1]),
        lambda file: change(file, lambda data: data[:-20] + b"1" + data[-19:]),
        lambda file: change(file, lambda data: b""),
        lambda file: change(file, lambda data: b"\xff" * 100),
        lambda file: change(file, lambda data: data.replace(b"GPL", b"MIT")),
        replaced_by_link,
        of_another,
    ],
    ids=["others may write", "cut", "changed", "empty", "no text", "another licence", "a link", "of another"],
)
def test_what_cannot_be_trusted_is_compiled_again(compiled: list[str], harm: Callable[[Path], None]) -> None:
    build()
    (file,) = files()
    harm(file)
    compiled.clear()
    assert build() == MADE
    assert compiled == [TEXT]
    assert build() == MADE
    assert compiled == [TEXT], "it is kept anew"


@pytest.mark.skipif(os.geteuid() != 0, reason="chown(2) needs root")
def test_what_is_somebody_else_s_is_compiled_again(compiled: list[str]) -> None:
    build()
    os.chown(files()[0], 1000, 1000)
    build()
    assert len(compiled) == 2


def test_without_a_cache_it_is_compiled_every_time(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build() == build() == MADE
    assert len(compiled) == 2


def test_what_is_not_used_goes(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_KEPT", 3)
    for number in range(3):
        build(f"{TEXT}{number}")
        os.utime(max(files(), key=lambda file: file.stat().st_mtime), (number, number))
    build(f"{TEXT}0")  # used again
    build(f"{TEXT}3")
    compiled.clear()
    for number in (0, 2, 3, 1):
        build(f"{TEXT}{number}")
    assert compiled == [f"{TEXT}1"]


def test_references_to_maps_are_moved() -> None:
    load = struct.pack("<BBhiBBhi", 0x18, 0x11, 0, 5, 0, 0, 0, 0)
    number = struct.pack("<BBhiBBhi", 0x18, 0x01, 0, 5, 0x18, 0x11, 0, 5)  # the second half is no instruction
    other = struct.pack("<BBhi", 0xB7, 0x10, 0, 5)
    moved = with_maps(load + number + other, {5: 77})
    assert moved == load.replace(b"\5", b"\x4d", 1) + number + other
    assert len(moved) == 5 * INSTRUCTION_BYTES
    for reference in (load, struct.pack("<BBhiBBhi", 0x18, 0x21, 0, 6, 0, 0, 0, 0)):
        with pytest.raises(ValueError, match="instruction 1 refers to what is not there"):
            with_maps(other + reference, {6: 77})


@pytest.mark.root
def test_from_the_cache_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gets the same programs, and what cannot be had here has the same reasons."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for _ in range(2):
        with attach.attach(1 << 16) as probes:
            found.append((probes.mechanisms, probes.gaps, probes._program._compiled))
        monkeypatch.setattr(compiler, "_compile", None)
    (mechanisms, gaps, made), (again, and_gaps, kept) = found
    assert (again, and_gaps) == (mechanisms, gaps)
    assert kept.maps == made.maps
    # One by one: pytest would look for what differs in 150 KiB for hours.
    assert [name for name, code in made.programs.items() if kept.programs.get(name) != code] == []
    assert (len(kept.programs), kept.licence, kept.kernel_version) == (len(made.programs), "GPL", made.kernel_version)
