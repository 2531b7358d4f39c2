"""`verify --driver qemu`: Debian's qemu-storage-daemon on a real XFS, watched by eBPF."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import blockstack
from tests.tracer.left_behind import left_behind, what_stays
from tests.tracer.verify.schema import VERIFY
from tests.tracer.verify.test_verify import EOFRACE, eofrace, one_line
from tracer import trace
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.errors import Status, UnsupportedError
from tracer.operations import Op
from tracer.verify.qemu import client
from tracer.verify.qemu.client import NbdDisk, connected
from tracer.verify.qemu.daemon import NAME, Daemon, builds, served

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which(NAME) is None, reason=f"needs {NAME}: apt install qemu-utils"),
    pytest.mark.skipif(importlib.util.find_spec("nbd") is None, reason="needs libnbd: apt install python3-libnbd"),
]

WRITES = 600


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], "subprocess.CompletedProcess[str]"]:
    """One run, with its traces kept: JSON and process."""
    output = tmp_path_factory.mktemp("verify")
    words = ["--writes", str(WRITES), "--seed", "5", "--json", "-", "-o", str(output)]
    done = eofrace("verify", "--driver", "qemu", *words)
    return json.loads(done.stdout), done


def test_todays_qemu_is_confirmed(run: tuple[dict[str, Any], Any]) -> None:
    report, done = run
    jsonschema.validate(report, VERIFY)
    cell = report["cells"][-1]
    assert (cell["driver"], cell["strategy"]) == ("qemu", f"qemu-{cell['qemu']}")
    assert cell["verdict"] == report["verdict"] == "confirmed", cell["reason"]
    assert cell["conflicts"] >= 50
    assert cell["post_eof_fallocates"] >= 50
    assert cell["waits"] > 0
    assert cell["min_gap_ns"] > 0
    assert cell["beside"] > 0
    assert cell["exposed"] == cell["lost"] == cell["lost_bytes"] == cell["unaccounted"] == cell["unfinished"] == 0
    assert cell["guest_writes"] == WRITES
    assert cell["qemu_img_check"] == {"corruptions": 0, "leaks": 0, "check-errors": 0}
    assert done.returncode == Status.OK


def test_both_controls_show_what_it_was_kept_from(run: tuple[dict[str, Any], Any]) -> None:
    none, misled, _ = run[0]["cells"]
    assert (none["driver"], none["strategy"]) == ("blockstack", "none")
    assert (misled["driver"], misled["control"]) == ("qemu", True)
    for cell in (none, misled):
        assert cell["verdict"] in ("unsafe", "corrupt")  # corrupt: this kernel is racy itself
        assert cell["exposed"] >= 5
        assert cell["min_gap_ns"] < 0


def test_the_traces_say_the_same_again(run: tuple[dict[str, Any], Any]) -> None:
    for cell in run[0]["cells"]:
        ops = trace.read(cell["trace"]).ops
        assert len(RULE.pairs(ops).first) == cell["exposed"]
        if cell["driver"] == "qemu":
            kernel = ops[ops["op"] < Op.MARK_GUEST_WRITE]
            assert len(set(kernel["pid"].tolist()) - {0}) == 1
            assert (kernel["request"][kernel["op"] == Op.FALLOCATE] != 0).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_qemu(number: signal.Signals, tmp_path: Path) -> None:
    images, started = tmp_path / "images", tmp_path / "started"
    images.mkdir()
    telling = daemon_that(tmp_path, f'touch {started}; exec {NAME} "$@"')
    environment = {**os.environ, "TMPDIR": str(images)}
    words = [*EOFRACE, "verify", "--driver", "qemu", "--writes", "150", "--qemu", str(telling)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not started.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        while not is_running(images) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert is_running(images)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), stderr
    assert "Traceback" not in stderr
    assert what_stays(images) == []
    assert os.listdir(images) == []


def is_running(images: Path) -> bool:
    return any(line.endswith(NAME[:15]) for line in left_behind(images))  # the kernel's length of a name


def daemon_that(tmp_path: Path, does: str) -> Path:
    """A program that says of itself what qemu-storage-daemon says, and then does something else."""
    path = tmp_path / NAME
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {NAME} --version\n{does}\n')
    path.chmod(0o755)
    return path


def test_a_qemu_that_is_gone_before_the_handshake(tmp_path: Path) -> None:
    """Seen once on a busy machine: libnbd raises at the very first step, and not in the event loop."""
    (build,) = builds((daemon_that(tmp_path, f"echo '{NAME}: it is too late' >&2; exit 1"),))

    async def main(daemon: Daemon) -> None:
        async with connected(daemon):
            pass

    with served(build, tmp_path / "image", aio="native", direct=False) as daemon:
        while Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with pytest.raises(UnsupportedError, match="it is too late"):
            asyncio.run(main(daemon))


def test_a_qemu_that_stands_still_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would whose requests wait for each other."""
    monkeypatch.setattr(client, "_ANSWER_SECONDS", 0.5)
    image = tmp_path / "image"
    asyncio.run(blockstack.create(image, 1 << 20))

    async def main(daemon: Daemon) -> None:
        async with connected(daemon) as disk:
            await disk.pwritev(0, [b"x" * 512])
            os.kill(daemon.pid, signal.SIGSTOP)
            await disk.pwritev(0, [b"y" * 512])

    with served(builds(())[0], image, aio="native", direct=True) as daemon, pytest.raises(TimeoutError, match=NAME):
        asyncio.run(main(daemon))


def test_a_script_that_stays_beside_qemu_leaves_nothing(tmp_path: Path) -> None:
    image, told = tmp_path / "image", tmp_path / "pid"
    asyncio.run(blockstack.create(image, 1 << 20))
    (build,) = builds((daemon_that(tmp_path, f'{NAME} "$@" & echo $! > {told}.new; mv {told}.new {told}; wait'),))

    async def main(daemon: Daemon) -> None:
        async with connected(daemon) as disk:
            await disk.flush()

    with served(build, image, aio="native", direct=True) as daemon:
        asyncio.run(main(daemon))
        child = int(told.read_text())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}/exe").exists()


def test_a_qemu_that_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    refusing = daemon_that(tmp_path, f"echo '{NAME}: it is too late' >&2; exit 1")
    done = eofrace("verify", "--driver", "qemu", "--writes", "60", "--qemu", str(refusing))
    assert done.returncode == Status.UNSUPPORTED
    assert "it is too late" in one_line(done.stderr)


def test_a_qemu_that_dies_makes_nothing_of_it(tmp_path: Path) -> None:
    """Killed when the image has 2 MiB: neither a hang, nor a verdict."""
    wait = """file=$(echo "$@" | sed 's/.*"filename": "\\([^"]*\\)".*/\\1/')
    while blocks=$(stat -Lc %b "$file") || exit; [ "$blocks" -lt 4096 ]; do sleep 0.01; done; kill -9 $$"""
    dying = daemon_that(tmp_path, f'( {wait} ) & exec {NAME} "$@"')
    done = eofrace("verify", "--driver", "qemu", "--writes", "200", "--json", "-", "--qemu", str(dying))
    cell = json.loads(done.stdout)["cells"][-1]
    assert done.returncode == Status.INCONCLUSIVE
    assert f"{NAME} is gone: signal 9" in cell["reason"]
    assert cell["guest_writes"] < 200


# The client and the daemon by themselves


def serve(tmp_path: Path, work: Any) -> None:
    path = tmp_path / "image"
    asyncio.run(blockstack.create(path, 1 << 20))

    async def main(daemon: Any) -> None:
        async with connected(daemon) as disk:
            await work(disk)

    with served(builds(())[0], path, aio="threads", direct=False) as daemon:
        asyncio.run(main(daemon))
        daemon.stop()
    assert daemon.process.poll() == 0


def test_what_the_guest_writes_is_in_the_image(tmp_path: Path) -> None:
    async def work(disk: NbdDisk) -> None:
        assert disk.length == 1 << 20
        await asyncio.gather(*(disk.pwritev(at << 16, [bytes([at + 1]) * 5000, b"x"]) for at in range(16)))
        await disk.pwrite_zeroes(1 << 16, 1 << 16)
        await disk.pdiscard(2 << 16, 1 << 16)
        await disk.flush()
        assert await disk.preadv(0, 5002) == b"\1" * 5000 + b"x\0"
        with pytest.raises(OSError, match=r"Invalid argument|No space left"):
            await disk.pwritev(1 << 20, [b"beyond"])

    serve(tmp_path, work)

    async def look() -> None:
        async with blockstack.open(tmp_path / "image", read_only=True, direct=False, aio="threads") as disk:
            assert await disk.preadv(15 << 16, 5001) == b"\x10" * 5000 + b"x"
            assert await disk.preadv(1 << 16, 2 << 16) == bytes(2 << 16)

    asyncio.run(look())


def test_an_image_that_is_none_is_refused_with_qemus_words(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 16))

    async def main(daemon: Any) -> None:
        async with connected(daemon):
            pytest.fail("it was served")

    with (
        served(builds(())[0], path, aio="threads", direct=False) as daemon,
        pytest.raises(UnsupportedError, match="not in qcow2 format"),
    ):
        asyncio.run(main(daemon))
