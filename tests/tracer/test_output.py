"""Output files: whole or absent, and wrong targets told before work starts."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tracer import output
from tracer.errors import EofraceError, UsageError
from tracer.report.escape import printable


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    with output.atomic_output(target) as stream:
        stream.write(b"whole")
        stream.flush()
        assert names(tmp_path) == []
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["out.json"]


def test_an_existing_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old and longer")
    target.chmod(0o640)
    with output.atomic_output(target) as stream:
        stream.write(b"new")
        stream.flush()
        assert target.read_text() == "old and longer"
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names(tmp_path) == ["out.json"]


@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_leaves_what_was_there(tmp_path: Path, old: str | None) -> None:
    target = tmp_path / "out.json"
    if old is not None:
        target.write_text(old)
    with pytest.raises(ZeroDivisionError), output.atomic_output(target) as stream:
        stream.write(b"half" * (1 // 0))
    assert names(tmp_path) == ([] if old is None else ["out.json"])
    if old is not None:
        assert target.read_text() == old


@pytest.mark.parametrize("old", [None, "old"])
def test_without_nameless_files_a_temporary_name_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None
) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    target = tmp_path / "out.json"
    if old is not None:
        target.write_text(old)
    output.check_writable(target)
    output.write_text(target, "new")
    with pytest.raises(RuntimeError), output.atomic_output(target):
        raise RuntimeError
    monkeypatch.undo()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["out.json"]


def test_sigkill_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom tracer.output import atomic_output\n"
        "with atomic_output(sys.argv[1]) as stream:\n"
        "    stream.write(b'half'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "out.json"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == []


def test_targets_that_are_never_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    for bad in ("", "link", "dangling", "missing/out", "file/out", "new/"):
        target = f"{tmp_path}/{bad}"
        with pytest.raises(UsageError) as caught:
            output.check_writable(target)
        assert "\n" not in str(caught.value)
        with pytest.raises(UsageError), output.atomic_output(target):
            pytest.fail("opened")
    with pytest.raises(UsageError):
        output.check_writable("")
    assert names(tmp_path) == ["dangling", "file", "link"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        output.check_writable(tmp_path / "out")


def test_devices_and_descriptors_are_written_to_directly(capfd: pytest.CaptureFixture[str]) -> None:
    for target in ("-", "/dev/stdout", "/dev/fd/1"):
        output.check_writable(target)
        output.write_text(target, "text\n")
    output.check_writable("/dev/null")
    output.write_text("/dev/null", "gone")
    assert capfd.readouterr().out == "text\n" * 3
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_device_is_one_line() -> None:
    with pytest.raises((EofraceError, OSError)) as caught, output.atomic_output("/dev/full") as stream:
        stream.write(b"x")
    assert "No space left" in str(caught.value)


def test_make_directory(tmp_path: Path) -> None:
    assert output.make_directory(tmp_path / "a" / "b").is_dir()
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    for bad in ("file", "file/below"):
        with pytest.raises(UsageError):
            output.make_directory(tmp_path / bad)


def test_printable_disarms_names() -> None:
    assert printable("plain näme 名") == "plain näme 名"
    assert printable("a\nb\x1b[2Jc\u202e\u0085") == "a\\nb\\x1b[2Jc\\u202e\\x85"
    assert printable(b"bad\xff") == "bad\\xff"
    assert printable(os.fsdecode(b"\xfe.img")) == "\\xfe.img"


def test_a_json_file_that_nobody_has_asked_for_is_none() -> None:
    nobody = output.JsonFile(None)
    nobody.write({"a": 1})
    assert not nobody.is_stdout


def test_a_json_file_is_checked_at_once_and_written_whole(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        output.JsonFile(str(tmp_path / "nowhere" / "a.json"))
    into = output.JsonFile(str(tmp_path / "a.json"))
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="JSON"):
        into.write({"a": float("nan")})
    assert names(tmp_path) == []
    into.write({"a": [1, None]})
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1,\n  null\n ]\n}\n'
    assert not into.is_stdout
    assert output.JsonFile("-").is_stdout
