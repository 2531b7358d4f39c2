"""The VM's parts that need no VM: framing, cache, images, kernel builds' keys, QEMU's words."""

import os
import shlex
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import cache
from tracer.errors import UsageError
from tracer.vm import agent, build, command, debian, machine, private
from tracer.vm.image import Kernel, release_of


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@given(st.lists(st.tuples(st.sampled_from([b"o", b"e", b"x"]), st.binary(max_size=40))), st.integers(1, 9))
def test_frames_survive_any_cutting(frames: list[tuple[bytes, bytes]], step: int) -> None:
    stream = b"".join(agent.frame(kind, payload) for kind, payload in frames)
    reader = agent.Frames()
    seen = [each for at in range(0, len(stream), step) for each in reader.feed(stream[at : at + step])]
    assert seen == frames


def test_an_absurd_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="frame of"):
        list(agent.Frames().feed(b"o\xff\xff\xff\xff"))


def _image(path: Path, version: bytes) -> Path:
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x100).to_bytes(2, "little")
    head[0x300 : 0x300 + len(version)] = version
    path.write_bytes(head)
    return path


def test_an_image_names_its_release(tmp_path: Path) -> None:
    assert release_of(_image(tmp_path / "k", b"6.1.0-x (me@here) #1\0")) == "6.1.0-x"


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(5000), bytes(0x1000)])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(UsageError, match="not an x86 bzImage"):
        release_of(tmp_path / "k")


@pytest.mark.parametrize("version", [b"\0", b"../../etc #1\0", b".. #1\0"])
def test_releases_that_are_no_name_of_a_directory(tmp_path: Path, version: bytes) -> None:
    with pytest.raises(UsageError, match="names no release"):
        release_of(_image(tmp_path / "k", version))


def test_the_key_changes_with_all_that_makes_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {build.key("racy", "1"), build.key("stock", "1"), build.key("racy", "2"), build.key("stock", "2")}
    assert len(keys) == 4
    stock = build.key("stock", "1")
    monkeypatch.setattr(build, "patch", lambda: b"another")
    assert build.key("racy", "1") not in keys
    assert build.key("stock", "1") == stock
    monkeypatch.setattr(build, "fragment", lambda: b"another")
    assert build.key("stock", "1") != stock


def test_an_image_of_another_patch_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in build.VARIANTS:
        entry = cache.root() / "built" / f"{variant}-{build.key(variant, '6.1.9-1')}"
        entry.mkdir(parents=True)
        _image(entry / "bzImage", f"6.1.9-eofrace-{variant} #1\0".encode())
        cache.write_json(
            entry / "kernel.json",
            {"source": "6.1.9-1", "release": f"6.1.9-eofrace-{variant}", "built": 1.0, "seconds": 2.0},
        )
    found = build.cached("racy")
    assert found is not None
    assert found.release == "6.1.9-eofrace-racy"
    monkeypatch.setattr(build, "patch", lambda: b"another")
    assert build.cached("racy") is None
    assert build.cached("stock") is not None


def test_the_fragment_asks_for_nothing_twice_and_an_option_lost_is_named() -> None:
    options = [line.split("=")[0] for line in build.fragment().decode().splitlines() if line.startswith("CONFIG_")]
    assert len(options) == len(set(options))
    assert "CONFIG_XFS_FS=y" in build.dropped_options("")
    assert build.dropped_options(build.fragment().decode()) == []
    assert build.dropped_options(build.fragment().decode() + "\nCONFIG_RANDOMIZE_BASE=y\n") == ["CONFIG_RANDOMIZE_BASE"]


def test_a_failed_write_leaves_the_cache_as_it_was() -> None:
    target = cache.root() / "x.json"
    cache.write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        cache.write_json(target, {"a": object()})
    assert cache.read_json(target) == {"a": 1}
    assert [path.name for path in cache.root().iterdir()] == ["x.json"]
    target.write_text("[]")
    assert cache.read_json(target) is None


def test_staging_is_private_and_goes_away() -> None:
    with cache.staging() as staged:
        assert staged.stat().st_mode & 0o777 == 0o700
        ready = staged / "ready"
        ready.mkdir()
        cache.publish(ready, cache.root() / "entry")
    assert not staged.exists()
    assert (cache.root() / "entry").is_dir()


def test_a_deb_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(UsageError, match="not a Debian package"):
        debian.unpack(tmp_path / "x.deb", "x.deb")
    assert not debian.directory().exists()


def _package(base: Path, files: dict[str, bytes], name: str = "x.deb", depends: str = "libc6") -> Path:
    tree = base / f"tree of {name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: linux-image-x\nVersion: 1\nArchitecture: amd64\nMaintainer: a <a@b>\nDescription: x\n"
        f"Depends: {depends}\n"
    )
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    subprocess.run(["dpkg-deb", "-b", tree, base / name], check=True, capture_output=True)
    return base / name


def test_a_deb_is_unpacked_once_with_its_modules(tmp_path: Path) -> None:
    image = _image(tmp_path / "image", b"6.9-x #1\0").read_bytes()
    archive = _package(tmp_path, {"boot/vmlinuz-6.9-x": image, "lib/modules/6.9-x/modules.order": b""})
    kernel = debian.unpack(archive, "x.deb")
    assert kernel.release == "6.9-x"
    assert kernel.modules is not None
    assert (kernel.modules / "modules.dep").exists()
    before = kernel.image.stat().st_ctime_ns
    assert debian.unpack(archive, "x.deb") == kernel
    assert kernel.image.stat().st_ctime_ns == before
    assert [each.release for each in debian.cached()] == ["6.9-x"]


def test_a_deb_without_a_kernel(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no kernel"):
        debian.unpack(_package(tmp_path, {"usr/share/doc/x": b""}), "x.deb")


def test_a_deb_in_parts(tmp_path: Path) -> None:
    parts = "dracut | initramfs-tools, linux-binary-7.3-x (= 1), linux-base, linux-modules-7.3-x (= 1)"
    archive = _package(tmp_path, {"usr/share/doc/x": b""}, depends=parts)
    image = _image(tmp_path / "image", b"7.3-x #1\0").read_bytes()
    _package(tmp_path, {"usr/lib/modules/7.3-x/vmlinuz": image}, "linux-binary-7.3-x_1_amd64.deb")
    with pytest.raises(UsageError, match=r"linux-modules-7.3-x does not lie beside it: apt-get download"):
        debian.unpack(archive, "x.deb")
    _package(tmp_path, {"usr/lib/modules/7.3-x/modules.order": b""}, "linux-modules-7.3-x_1_amd64.deb")
    kernel = debian.unpack(archive, "x.deb")
    assert kernel.release == "7.3-x"
    assert kernel.modules is not None
    assert (kernel.modules / "modules.dep").exists()
    assert debian.unpack(archive, "x.deb") == kernel


def test_modules_of_a_kernel_beside_it(tmp_path: Path) -> None:
    from tracer.vm import kernels

    image = _image(tmp_path / "vmlinuz", b"6.9-x #1\0")
    assert kernels.resolve(str(image)).modules is None
    modules = tmp_path / "lib" / "modules" / "6.9-x"
    modules.mkdir(parents=True)
    (modules / "modules.dep").touch()
    assert kernels.resolve(str(image)).modules == modules


def test_qemus_words(tmp_path: Path) -> None:
    if command.missing_tools():
        pytest.skip(f"needs {command.missing_tools()}")
    image = _image(tmp_path / "k", b"6.9-x #1\0")
    kernel = Kernel("k", image, "6.9-x", None)
    shares = (command.Share(tmp_path / "a,b"), command.Share(tmp_path / "c", writable=False))
    words = command.words(
        kernel, memory="2G", cpus=1, kvm=False, shares=shares, private=tmp_path, agent_fd=50, console_fd=51
    )
    text = shlex.join(words)
    assert "a,,b" in text
    assert text.count("readonly=on") == 3  # the root, twice, and the share that is not to be written
    assert "stdio" not in text
    assert words.count("-append") == 1
    append = words[words.index("-append") + 1]
    assert append.endswith(f"init={tmp_path}/python -- -I {tmp_path}/agent.py")
    assert "virtme" not in append
    assert "oops=panic" in append


def test_a_machine_that_talks_nonsense_or_ends_is_an_error_of_its_own() -> None:
    class Ended:
        returncode = 1

        def wait(self, timeout: float) -> int:
            return 1

    for said, expected in ((b"o\xff\xff\xff\xff", "nonsense"), (b"", "ended unexpectedly")):
        (ours, theirs), (console, console_end) = socket.socketpair(), socket.socketpair()
        guest = machine.Machine(ours, console, Ended(), Kernel("k", Path("k"), "1", None))  # type: ignore[arg-type]
        console_end.sendall(b"[ 1.0] one\r\n[ 2.0] two\r\n")
        theirs.sendall(said)
        console_end.close()
        theirs.close()
        with pytest.raises(machine.MachineError, match=expected) as caught:
            guest.wait_until_up(5)
        assert caught.value.status == 3
        assert "two" in guest.console
        ours.close()
        console.close()


def _ignore(done: int, steps: int, what: str) -> None:
    pass


def test_a_failed_build_says_why_in_one_line_and_keeps_the_rest(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match=r"make failed \(exit 2\): x.c:1: error: no") as caught:
        build._build(["sh", "-c", "echo CC a; echo 'x.c:1: error: no'; exit 2"], tmp_path, _ignore)
    assert caught.value.log.splitlines() == ["CC a", "x.c:1: error: no"]
    assert caught.value.status == 4


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="is full: free 3 GB"):
        build._build(["sh", "-c", "echo 'as: x.o: No space left on device' >&2; exit 1"], tmp_path, _ignore)


def test_a_build_without_an_end_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LIMIT_SECONDS", 3.0)
    with pytest.raises(build.BuildError, match="took more than 3 s"):
        build._build(["sh", "-c", "sleep 1000 & echo $$ $! > pid; wait"], tmp_path, _ignore)
    pids = (tmp_path / "pid").read_text().split()
    assert len(pids) == 2
    # A killed process that nobody here waits for needs a moment to die.
    limit = time.monotonic() + 30
    while alive := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < limit, alive
        time.sleep(0.01)


def _runs(pid: str) -> bool:
    """Not gone, nor a zombie: an orphan is buried by whoever is init here, some time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    build._build(["sh", "-c", "echo a; echo b"], tmp_path, lambda done, steps, what: seen.append((done, what)))
    assert seen == [(1, "a"), (2, "b")]


def test_the_patch_goes_in_and_comes_out_from_any_state(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    before = _files_of_the_patch(tree)
    for variant in ("stock", "racy", "racy", "stock", "racy"):
        with build._patched(tree, variant):
            assert (_contents(tree) == before) == (variant == "stock")
    (tmp_path / "variant").write_text("unknown")
    with build._patched(tree, "racy"):
        assert _contents(tree) != before
    (tmp_path / "variant").unlink()
    with build._patched(tree, "stock"):
        assert _contents(tree) == before


def _contents(tree: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(tree.rglob("*.c"))}


def _files_of_the_patch(tree: Path) -> dict[str, str]:
    """Files that the patch fits: its own context, with lines between where it has gaps."""
    lines = build.patch().decode().splitlines()
    text: list[str] = []
    path = tree
    for line in [*lines[next(i for i, line in enumerate(lines) if line.startswith("--- ")) :], "--- a/end"]:
        if line.startswith("--- "):
            if text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(text) + "\n")
            path, text = tree / line.removeprefix("--- a/"), []
        elif line.startswith("@@"):
            start = int(line.split()[1].split(",")[0][1:])
            text += [f"gap {number}" for number in range(len(text) + 1, start)]
        elif line.startswith((" ", "-")) or not line:
            text.append(line[1:])
    return _contents(tree)


def test_what_a_killed_run_left_is_swept_up_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_PLACE", tmp_path)
    with private.directory() as used:
        left, young, foreign = (tmp_path / f"eofrace-vm-{name}" for name in ("left", "young", "foreign"))
        for path in (left, young):
            path.mkdir(mode=0o700)
        foreign.mkdir(mode=0o755)
        (tmp_path / "eofrace-vm-link").symlink_to(foreign)
        (left / "file").touch()
        for path in (used, left, foreign):
            os.utime(path, (1, 1))
        private.sweep()
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("eofrace-vm-")) == sorted(
            [used.name, young.name, foreign.name, "eofrace-vm-link"]
        )
    assert not used.exists()
