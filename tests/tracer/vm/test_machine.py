"""One boot of Debian's kernel, and all that can be asked of it; and boots that end badly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.vm import kernels, kvm, machine
from tracer.vm.image import Kernel

pytestmark = [pytest.mark.vm, pytest.mark.slow]

SOURCE = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return kernels.resolve("debian")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared directory with a name that nobody expects."""
    directory = tmp_path_factory.mktemp("vm") / 'a, b="ü'
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def vm(kernel: Kernel, out: Path) -> Iterator[machine.Machine]:
    accelerated = bool(kvm.prove(kernel).works)
    with machine.boot(kernel, kvm=accelerated, shares=[machine.Share(out)]) as guest:
        yield guest


def test_it_is_that_kernel(vm: machine.Machine, kernel: Kernel) -> None:
    done = vm.run(["uname", "-r"], timeout=60)
    assert (done.status, done.stdout.decode().strip()) == (0, kernel.release)
    assert vm.release == kernel.release


def test_output_is_exact_and_apart(vm: machine.Machine, out: Path) -> None:
    (out / "bytes").write_bytes(bytes(range(256)) * 4096)
    done = vm.run(["sh", "-c", r"cat bytes && printf 'to stderr\r\n\004' >&2"], timeout=120, directory=out)
    assert done.stdout == bytes(range(256)) * 4096
    assert done.stderr == b"to stderr\r\n\x04"


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137)])
def test_exit_status(vm: machine.Machine, script: str, status: int) -> None:
    assert vm.run(["sh", "-c", script], timeout=60).status == status


def test_arguments_are_what_they_were(vm: machine.Machine) -> None:
    words = ["a b", "", "$(x)", "`x`", '"', "'", "\n", "ü", "\udcff"]
    done = vm.run(["sh", "-c", 'printf "%s|" "$@"', "-", *words], timeout=60)
    assert done.stdout == b"".join(os.fsencode(word) + b"|" for word in words)


def test_files_come_back(vm: machine.Machine, out: Path) -> None:
    done = vm.run(["sh", "-c", "echo inside > file && mkdir sub && echo more > sub/file"], timeout=60, directory=out)
    assert done.status == 0, done.stderr
    assert (out / "file").read_text() == "inside\n"
    assert (out / "sub" / "file").read_text() == "more\n"


def test_nothing_else_of_the_host_is_writable(vm: machine.Machine, out: Path) -> None:
    for place in ("/", "/etc", "/var/tmp", "/usr"):
        done = vm.run(["touch", f"{place}/eofrace-was-here"], timeout=60)
        assert done.status != 0, place
        assert b"Read-only file system" in done.stderr
    # /tmp is writable inside, and shows the host's files; nothing reaches the host.
    done = vm.run(["sh", "-c", 'touch "$1" && ls "$2"', "-", f"{out.parent}/eofrace-was-here", str(out)], timeout=60)
    assert done.status == 0, done.stderr
    assert not (out.parent / "eofrace-was-here").exists()
    # Nor into the checkout, wherever that lies.
    vm.run(["touch", f"{SOURCE}/eofrace-was-here"], timeout=60)
    assert not (SOURCE / "eofrace-was-here").exists()


def test_a_daemon_left_behind_holds_nobody_up(vm: machine.Machine) -> None:
    before = time.monotonic()
    done = vm.run(["sh", "-c", "sleep 300 & echo started"], timeout=120)
    assert done.stdout == b"started\n"
    assert time.monotonic() - before < 100


def test_a_command_that_is_not_there(vm: machine.Machine) -> None:
    with pytest.raises(machine.MachineError, match="cannot start"):
        vm.run(["/no/such/command"], timeout=60)


def test_what_the_commands_need_is_there(vm: machine.Machine) -> None:
    script = "test -c /dev/fuse -a -b /dev/loop0 -a -d /sys/kernel/tracing/events && grep -c xfs /proc/filesystems"
    done = vm.run(["sh", "-c", script], timeout=60)
    assert done.status == 0, done.stderr


def test_doctor_inside_finds_kprobes(vm: machine.Machine) -> None:
    done = vm.eofrace(["doctor", "--json", "-", "--no-attach"], timeout=300)
    assert done.status == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["kernel"] == vm.release
    facts = {fact["name"]: fact for fact in data["facts"]}
    assert facts["kprobes"]["ok"]
    assert facts["BTF"]["ok"]


def test_probe_inside_says_safe(vm: machine.Machine) -> None:
    words = ["--mode", "plain", "--mode", "zero-range", "--tries", "2"]
    done = vm.eofrace(["probe", "--fs", "xfs", "--json", "-", *words], timeout=600)
    results = json.loads(done.stdout)["results"]
    assert {(each["mode"], each["verdict"]) for each in results} == {("plain", "safe"), ("zero-range", "safe")}
    assert done.status == 0, done.stderr


@pytest.mark.long
def test_a_small_verify_inside(vm: machine.Machine, out: Path) -> None:
    words = ["verify", "--strategy", "serialise", "--writes", "150", "--seed", "5", "-q", "--fallocate", "kernel"]
    done = vm.eofrace([*words, "-o", str(out / "evidence"), "--json", str(out / "v.json")], timeout=900)
    data = json.loads((out / "v.json").read_text())
    cells = {cell["strategy"]: cell for cell in data["cells"]}
    assert cells["serialise"]["lost"] == 0, done.stderr
    assert cells["serialise"]["kernel"] == vm.release
    assert list((out / "evidence").glob("*.parquet"))


def test_a_panic_is_reported_with_the_consoles_lines(vm: machine.Machine) -> None:
    """The last one with that machine."""
    with pytest.raises(machine.MachineError, match="kernel panicked") as caught:
        vm.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], timeout=120)
    assert "Kernel panic" in caught.value.console


def test_a_command_that_takes_too_long_ends_the_vm_with_its_name(kernel: Kernel) -> None:
    with machine.boot(kernel) as guest, pytest.raises(machine.MachineError, match=r"sleep did not end within 3 s"):
        guest.run(["sleep", "1000"], timeout=3)


def test_a_guest_that_does_not_come_up(kernel: Kernel) -> None:
    with pytest.raises(machine.MachineError, match="did not come up within 1 s"), machine.boot(kernel, limit=1):
        pass


def _qemus_of(parent: int) -> list[int]:
    """QEMU processes below the process `parent`."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in found.stdout.splitlines()]
    return [int(pid) for pid, ppid, name in rows if name.startswith("qemu-system") and int(ppid) == parent]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_qemu_is_left_behind(number: signal.Signals, status: int) -> None:
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from tracer.commands import main; main()"
    words = [sys.executable, "-c", code, "vm", "run", "--", "probe"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        for _ in range(600):
            qemus = _qemus_of(process.pid)
            if qemus:
                break
            time.sleep(0.1)
        assert qemus
        time.sleep(1)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == status
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in qemus):
            return
        time.sleep(0.1)
    raise AssertionError(f"QEMU {qemus} is still there")
